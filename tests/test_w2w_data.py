"""The published weights2weights files become shards without loss."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict, load_peft_weights
from safetensors.torch import save_file
from w2w_files import SHARES, TOY, contents, draw_people, make_unet, pack, publish, published_table, refused, vectors

from w2wpp.ingest.w2w_data import read_w2w, verify_w2w
from w2wpp.ingest.w2w_people import ATTRIBUTES, SPLITS, assign_splits, read_people
from w2wpp.ingest.w2w_source import SUBFOLDER, find_files
from w2wpp.lora.layout import WeightLayout, unflatten
from w2wpp.lora.shards import open_shards


@pytest.fixture
def toy(tmp_path, normal):
    """Weights of 30 rows, and the files that they are in."""
    weights = normal(30, TOY.dimension)
    return weights, publish(tmp_path / "w2w", weights)


@pytest.fixture(scope="module")
def sd15():
    return WeightLayout.of_unet(make_unet(), 1, 27.0, ["to_q", "to_v"])


def test_a_published_vector_drops_in_unchanged(tmp_path, sd15, normal):
    with torch.device("meta"):
        model = get_peft_model(make_unet(), LoraConfig(r=1, lora_alpha=27, target_modules=["to_q", "to_v"]))
    shapes = {key: tensor.shape for key, tensor in get_peft_model_state_dict(model).items()}
    loras, rows = [], []
    for number in range(5):
        # A row as in the authors' notebook: a model saved by peft, its tensors in peft's loading order.
        save_file({key: normal(*shape) for key, shape in shapes.items()}, tmp_path / "adapter_model.safetensors")
        loras.append(load_peft_weights(str(tmp_path), device="cpu"))
        rows.append(torch.cat([tensor.flatten() for tensor in loras[number].values()]))
    files = publish(tmp_path / "w2w", torch.stack(rows), np.arange(5))
    data = pack(files, tmp_path, sd15, dtype=torch.float32)
    assert torch.equal(vectors(data), torch.stack(rows)[data.people["row"].tolist()])
    for row, vector in zip(data.people["row"], vectors(data), strict=True):
        state = {f"base_model.model.{key}": tensor for key, tensor in unflatten(vector, sd15).items()}
        assert state.keys() == loras[row].keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in loras[row].items())


def test_packing_at_full_width(tmp_path, sd15, normal, capsys):
    weights = 0.02 * normal(40, sd15.dimension)
    people = draw_people(40)
    data = pack(publish(tmp_path / "w2w" / SUBFOLDER, weights, people), tmp_path, sd15)
    counts = data.people["split"].value_counts()
    assert {split: len(shards) for split, shards in data.shards.items()} == counts.to_dict()
    assert data.layout == data.shards["zoo"].layout == sd15
    assert data.shards["zoo"].dtype == torch.float16
    assert torch.equal(vectors(data), weights[data.people["row"].tolist()].half())
    assert data.people["person"].tolist() == people[data.people["row"]].astype(str).tolist()
    assert sorted(data.people["row"]) == list(range(40))
    assert data.people.groupby("person")["split"].nunique().max() == 1
    assert data.people["split"].unique().tolist() == list(SPLITS)
    assert all(rows["row"].is_monotonic_increasing for _, rows in data.people.groupby("split"))
    table = published_table(people).reset_index().iloc[data.people["row"]].reset_index(drop=True)
    assert list(data.people.columns) == ["person", "split", "row", "file", *ATTRIBUTES]
    pd.testing.assert_frame_equal(data.people[["file", *ATTRIBUTES]], table.drop(columns="identity"))
    bars = capsys.readouterr().err
    assert "rows: 100%" in bars and "40/40" in bars
    assert list(tmp_path.joinpath("scratch").iterdir()) == []
    verify_w2w(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("block_rows", [1, 3, 100])
def test_every_precision(toy, tmp_path, dtype, block_rows):
    weights, files = toy
    data = pack(files, tmp_path, dtype=dtype, block_rows=block_rows)
    assert torch.equal(vectors(data), weights[data.people["row"].tolist()].to(dtype))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["settings"] == {"dtype": str(dtype)[6:], "rows_per_shard": 8, "seed": 0, **SHARES}
    assert manifest["weights"]["rows"] == 30
    assert manifest["files"].keys() | {"manifest.json"} == contents(tmp_path / "out").keys()


def test_block_rows_do_not_matter_but_settings_do(toy, tmp_path):
    _, files = toy
    packed = []
    for number, change in enumerate([{}, {"block_rows": 5}, {"seed": 1}, {"rows_per_shard": 7}, {"test": 0.4}]):
        pack(files, tmp_path / str(number), **change)
        packed.append(contents(tmp_path / str(number) / "out"))
    assert packed[0] == packed[1]
    assert all(packed[0] != each for each in packed[2:])


def test_splits_without_people_have_no_shards(toy, tmp_path):
    data = pack(toy[1], tmp_path, validation=0.0, test=0.0)
    assert data.shards.keys() == {"zoo"}
    assert torch.equal(vectors(data), toy[0].half())


def test_csv_and_pickle_give_the_same(toy, tmp_path):
    _, files = toy
    pack(files, tmp_path / "a")
    torch.save({"not": "a table"}, tmp_path / "x.pt")
    command = refused(read_people, tmp_path / "x.pt").remedy.split("`")[1]
    subprocess.run(command.replace("python", sys.executable, 1), shell=True, check=True, cwd=files.weights.parent)
    converted = find_files(files.weights.parent)
    assert converted.identities.name == "identity_df.csv"
    pack(converted, tmp_path / "b")
    first, second = (contents(tmp_path / each / "out") for each in "ab")
    assert first.pop("manifest.json") != second.pop("manifest.json")
    assert first == second


def test_unusable_rows_are_listed_and_left_out(tmp_path, normal):
    weights = normal(40, TOY.dimension)
    people = draw_people(40).astype(float)
    weights[3, 5], weights[9, 0], weights[10, 29], weights[20, 7], weights[20, 3] = np.nan, np.inf, -np.inf, np.nan, 7e4
    weights[21, 28], weights[39, 12] = -65_520, 65_519
    people[5], people[21] = np.nan, np.nan
    files = publish(tmp_path / "w2w", weights, people)
    data = pack(files, tmp_path)
    listed = pd.read_csv(tmp_path / "out/quarantine.csv")
    keys = [key for key, _, _ in TOY.entries]
    assert list(zip(listed["row"], listed["key"], listed["reason"], strict=True)) == [
        (3, keys[0], "not finite"),
        (5, "identity", "nobody's: the table has no identity for it"),
        (9, keys[0], "not finite"),
        (10, keys[3], "not finite"),
        (20, keys[0], "not finite"),
        (21, keys[3], "-65520 is too large for float16"),
    ]
    assert data.quarantine["person"].tolist() == [
        "" if row in (5, 21) else f"{people[row]:.0f}" for row in listed["row"]
    ]
    assert data.quarantine.drop(columns="person").equals(listed.drop(columns="person"))
    assert sorted(data.people["row"]) == [row for row in range(40) if row not in set(listed["row"])]
    assert torch.equal(vectors(data), weights[data.people["row"].tolist()].half())
    assert torch.isfinite(vectors(data)).all()
    pack(files, tmp_path / "wide", dtype=torch.float32)
    assert pd.read_csv(tmp_path / "wide/out/quarantine.csv")["row"].tolist() == [3, 5, 9, 10, 20, 21]


@pytest.mark.parametrize("kept", [0, 1, 2])
def test_a_zoo_needs_two_usable_rows(tmp_path, normal, kept):
    weights, people = normal(40, TOY.dimension), draw_people(40)
    splits = assign_splits([str(person) for person in people], 0, SHARES["validation"], SHARES["test"])
    zoo = [row for row, split in enumerate(splits) if split == "zoo"]
    weights[zoo[kept:], 4] = np.nan
    files = publish(tmp_path / "w2w", weights, people)
    if kept == 2:
        assert pack(files, tmp_path).people["row"].tolist()[:2] == zoo[:2]
        return
    error = refused(pack, files, tmp_path)
    assert (error.where, error.key) == (str(files.weights), TOY.entries[0][0])
    assert error.reason == (
        f"{len(zoo) - kept} of 40 rows are unusable, too many for a zoo; the first (row {zoo[kept]}): not finite"
    )
    assert not (tmp_path / "out").exists()


def test_a_unit_may_be_empty(tmp_path, normal):
    weights = normal(24, TOY.dimension)
    weights[8:16] = np.nan
    data = pack(publish(tmp_path / "w2w", weights), tmp_path)
    assert not (tmp_path / "out/zoo/000001.safetensors").exists()
    assert torch.equal(vectors(data), weights[data.people["row"].tolist()].half())


MEASURE = """
import json, sys
from pathlib import Path
import torch
from w2wpp.lora.layout import WeightLayout
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_source import find_files
folder = Path(sys.argv[1])
layout = WeightLayout.from_meta(json.loads((folder / "layout.json").read_text()), "layout.json")
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
torch.zeros(2, 2) @ torch.zeros(2, 2)
Path("/proc/self/clear_refs").write_text("5")
before = peak()
pack_w2w(find_files(folder), layout, folder / "out", folder / "scratch", rows_per_shard=32, block_rows=8)
print(peak() - before)
"""


def test_memory(tmp_path, sd15):
    weights = torch.empty(240, sd15.dimension)
    for row in weights:
        row.uniform_(-0.1, 0.1)
    publish(tmp_path, weights)
    (tmp_path / "layout.json").write_text(json.dumps(sd15.to_meta()))
    # Memory that malloc keeps does not count.
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(tmp_path)], env=environment, check=True, capture_output=True, text=True
    )
    size, grown = (tmp_path / "all_weights.pt").stat().st_size, 1024 * int(done.stdout)
    shard = 2 * 32 * sd15.dimension
    assert grown < 4 * shard + 2**24 < 0.5 * size


def test_reading_back(toy, tmp_path):
    packed = pack(toy[1], tmp_path)
    read = read_w2w(str(tmp_path / "out"))
    assert (read.shards, read.layout) == (packed.shards, packed.layout)
    pd.testing.assert_frame_equal(read.people, packed.people)
    assert read.people["person"].map(type).eq(str).all()
    assert len(open_shards(tmp_path / "out/test")) == len(read.shards["test"])


@pytest.mark.parametrize("name", ["people.csv", "zoo/000001.safetensors", "quarantine.csv"])
def test_verifying(toy, tmp_path, name):
    pack(toy[1], tmp_path)
    path = tmp_path / "out" / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert refused(verify_w2w, tmp_path / "out").where == str(path)
    path.unlink()
    assert refused(verify_w2w, tmp_path / "out").reason == "no such file"
    path.write_bytes(content)
    verify_w2w(tmp_path / "out")


@pytest.mark.parametrize("name", ["people.csv", "zoo", "test/000000.safetensors"])
def test_reading_what_is_incomplete(toy, tmp_path, name):
    pack(toy[1], tmp_path)
    path = tmp_path / "out" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    refused(read_w2w, tmp_path / "out")


def test_reading_what_does_not_belong_together(toy, tmp_path, normal):
    pack(toy[1], tmp_path)
    other = WeightLayout(TOY.layers, TOY.rank, 1.0)
    pack(publish(tmp_path / "more", normal(40, 30)), tmp_path / "more", other)
    for name in ("people.csv", "test/000000.safetensors"):
        kept = (tmp_path / "out" / name).read_bytes()
        shutil.copy(tmp_path / "more/out" / name, tmp_path / "out" / name)
        refused(read_w2w, tmp_path / "out")
        (tmp_path / "out" / name).write_bytes(kept)
    read_w2w(tmp_path / "out")
