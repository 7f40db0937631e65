"""The published weights2weights files become shards without loss, or are refused."""

import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.utils.save_and_load import get_peft_model_state_dict, load_peft_weights
from safetensors.torch import save_file

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import opened
from w2wpp.ingest import torch_files, w2w_data, w2w_people, w2w_source, w2w_units
from w2wpp.ingest.torch_files import open_matrix
from w2wpp.ingest.w2w_data import pack_w2w, read_w2w, verify_w2w
from w2wpp.ingest.w2w_people import ATTRIBUTES, SPLITS, assign_splits, read_people
from w2wpp.ingest.w2w_source import REPOSITORY, REVISION, SUBFOLDER, W2WFiles, find_files
from w2wpp.ingest.w2w_units import pack_unit
from w2wpp.lora.layout import Adapted, WeightLayout, unflatten
from w2wpp.lora.shards import open_shards

TOY = WeightLayout((Adapted("down_blocks.0.attn1.to_q", 4, 6), Adapted("mid_block.attn1.to_v", 3, 2)), 2, 2.0)
SHARES = {"validation": 0.2, "test": 0.2}


def published_table(people, seed=0):
    """The content of identity_df.pt: 40 attributes of the photo that names each row, and its person."""
    rng = np.random.default_rng(seed)
    files = pd.Index([f"{100 + row:06d}.jpg" for row in range(len(people))], name="file")
    attributes = {name: rng.choice([-1, 1], len(people)) for name in ATTRIBUTES}
    return pd.DataFrame({**attributes, "identity": people}, index=files)


def draw_people(count, seed=0):
    """Numbers of about count / 3 people, most with several rows, in random order."""
    return np.random.default_rng(seed).integers(1, 1 + max(4, count // 3), count)


def publish(folder, weights, people=None):
    """A folder with the two files, as they were published."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "all_weights.pt")
    torch.save(published_table(draw_people(len(weights)) if people is None else people), folder / "identity_df.pt")
    return find_files(folder)


def pack(files, folder, layout=TOY, **kwargs):
    return pack_w2w(files, layout, folder / "out", folder / "scratch", **{"rows_per_shard": 8, **SHARES, **kwargs})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def vectors(data):
    """All vectors [n, d], in the order of `data.people`."""
    return torch.cat([block for split in SPLITS if split in data.shards for block in data.shards[split].blocks(100)])


@pytest.fixture
def toy(tmp_path, normal):
    """Weights of 30 rows, and the files that they are in."""
    weights = normal(30, TOY.dimension)
    return weights, publish(tmp_path / "w2w", weights)


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    return caught.value


# The published format


def make_unet():
    """Stable Diffusion 1.5's, without numbers."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            layers_per_block=2,
            attention_head_dim=8,
        )


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


# People of the rows


def test_attributes_are_those_of_celeba():
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 40
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)


TABLE = published_table([7, 8, 7])


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (lambda table: table.drop(columns="identity"), "identity", "column missing"),
        (lambda table: table.drop(columns="Young"), "Young", "column missing"),
        (lambda table: table.assign(Bald=[1, 0, -1]), "Bald", "0' in row 1, expected -1 or 1"),
        (lambda table: table.assign(Bald=[1, 1, 2]), "Bald", "2' in row 2, expected -1 or 1"),
        (lambda table: table.assign(Bald=[None, 1, -1]), "Bald", "in row 0, expected -1 or 1"),
        (lambda table: table.assign(Bald=["x", "1", "-1"]), "Bald", "'x' in row 0, expected -1 or 1"),
        (lambda table: table.assign(identity=["a\x1b", "b", "c"]), "identity", "unprintable"),
        (lambda table: table.assign(identity=["a" * 400, "b", "c"]), "identity", "overlong name"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".pt"])
def test_other_tables_are_refused(tmp_path, change, key, reason, suffix):
    path = tmp_path / f"identity_df{suffix}"
    table = change(TABLE)
    table.to_csv(path, index_label="index") if suffix == ".csv" else torch.save(table, path)
    error = refused(read_people, path)
    assert error.where == str(path)
    if "\x1b" not in str(table["identity"].iloc[0] if "identity" in table else ""):
        assert error.key == key
        assert reason.replace("'", "") in error.reason.replace("'", "").replace("np.int64(", "").replace(")", "")


def test_people_without_names(tmp_path):
    table = TABLE.reset_index().assign(identity=[7.0, None, 8.0])
    for path in (tmp_path / "x.csv", tmp_path / "x.pt"):
        table.to_csv(path, index_label="index") if path.suffix == ".csv" else torch.save(table, path)
        people = read_people(path)
        assert people["person"].tolist() == ["7", "", "8"]
        assert people["file"].tolist() == ["000100.jpg", "000101.jpg", "000102.jpg"]
    torch.save(table.drop(columns="file").assign(more=1), tmp_path / "x.pt")
    assert list(read_people(tmp_path / "x.pt").columns) == ["person", *ATTRIBUTES]


def test_names_that_look_like_numbers_stay_as_they_are(tmp_path, normal):
    names = ["007", "7", "v1.0", "1e5", "nan"] * 8
    data = pack(publish(tmp_path / "w2w", normal(40, TOY.dimension), names), tmp_path)
    assert data.people["person"].tolist() == [names[row] for row in data.people["row"]]


CSV = TABLE.to_csv(index_label="index").encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "column missing"),
        (b"\n", "column missing"),
        (CSV + b"1,2\n", "2 values for 42 columns in line 5"),
        (CSV.replace(b"000100", b"\xff\xfe"), "not a sound CSV"),
        (CSV.replace(b"Bald,", b"Bangs,"), "given twice"),
        (CSV.replace(b"000100", b"0\x000"), "NUL"),
        (CSV + b'"', "not a sound CSV"),
        (CSV.replace(b"000100", b"x" * 200_000), "field larger"),
        (CSV + CSV, "expected -1 or 1"),
    ],
)
def test_bad_csv(tmp_path, content, reason):
    (tmp_path / "x.csv").write_bytes(content)
    assert reason in str(refused(read_people, tmp_path / "x.csv"))


def test_large_csv(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + CSV)
    assert read_people(tmp_path / "x.csv")["person"].tolist() == ["7", "8", "7"]
    monkeypatch.setattr(w2w_people, "MAX_CSV_BYTES", 100)
    assert "more than 100 bytes" in refused(read_people, tmp_path / "x.csv").reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=2)), max_size=5), st.floats(0, 1))
def test_damaged_csv(tmp_path, changes, kept):
    content = CSV
    for place, text in changes:
        place = int(place * len(content))
        content = content[:place] + text + content[place + 1 :]
    (tmp_path / "x.csv").write_bytes(content[: int(kept * len(content))] if kept < 0.5 else content)
    try:
        people = read_people(tmp_path / "x.csv")
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert people[list(ATTRIBUTES)].isin([-1, 1]).all(axis=None)
        assert all(type(person) is str and person.isprintable() for person in people["person"])


names = st.text(st.characters(categories=["Ll", "Nd"]), max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, max_size=60), st.integers(0, 5), st.floats(0, 0.49), st.floats(0, 0.49), st.randoms())
def test_splits(people, seed, validation, test, rng):
    splits = assign_splits(people, seed, validation, test)
    split = dict(zip(people, splits, strict=True))
    assert splits == [split[person] for person in people]
    assert split.pop("", "") == ""
    for name, share in (("test", test), ("validation", validation)):
        count = sum(each == name for each in split.values())
        assert count == (max(1, round(share * len(split))) if share else 0) or count == len(split) or len(split) < 3
    shuffled = rng.sample(people, len(people))
    assert assign_splits(shuffled + people, seed, validation, test)[: len(people)] == [
        split.get(person, "") for person in shuffled
    ]


def test_splits_by_seed_and_share():
    people = [str(number) for number in range(1000)]
    first, second = (assign_splits(people, seed, 0.1, 0.05) for seed in (0, 1))
    assert [first.count(split) for split in SPLITS] == [850, 100, 50]
    assert 0.6 < np.mean([a == b for a, b in zip(first, second, strict=True)]) < 0.85
    more = assign_splits([*people, "new"], 0, 0.1, 0.05)
    assert sum(a != b for a, b in zip(first, more[:-1], strict=True)) <= 2
    for shares in ((-0.1, 0), (0.5, 0.5), (float("nan"), 0)):
        with pytest.raises(ValueError, match="expected at least 0"):
            assign_splits(people, 0, *shares)


# Unusable rows


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


# Unfit or harmful files


class Bomb:
    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return os.system, (f"touch {self.trap}",)


def saved(change, **kwargs):
    return lambda weights, path: torch.save(change(weights), path, **kwargs)


def cut(size):
    def save(weights, path):
        torch.save(weights, path)
        path.write_bytes(path.read_bytes()[:size])

    return save


@pytest.mark.parametrize(
    ("save", "reason"),
    [
        (saved(lambda w: {"weights": w}), "holds something else than one tensor"),
        (saved(lambda w: [w]), "something else"),
        (saved(lambda w: 7), "something else"),
        (saved(torch.nn.Parameter), "_rebuild_parameter: named in this pickle"),
        (saved(torch.Tensor.half), "a torch.HalfStorage, expected a torch.FloatStorage"),
        (saved(torch.Tensor.bfloat16), "a torch.BFloat16Storage"),
        (saved(torch.Tensor.double), "a torch.DoubleStorage"),
        (saved(torch.Tensor.long), "a torch.LongStorage"),
        (saved(torch.Tensor.bool), "torch.BoolStorage: named in"),
        (saved(torch.Tensor.to_sparse), "_rebuild_sparse_tensor: named in"),
        (saved(lambda w: w.numpy()), "named in"),
        (saved(lambda w: w[:, :29].clone()), "shape [30, 29], expected [rows, 30]"),
        (saved(lambda w: w[0].clone()), "shape [30]"),
        (saved(lambda w: w[None]), "shape [1, 30, 30]"),
        (saved(lambda w: w[:0].clone()), "shape [0, 30]"),
        (saved(lambda w: w.T), "strides [1, 30] from number 0, expected [30, 1] from 0"),
        (saved(lambda w: w[2:]), "strides [30, 1] from number 60"),
        (saved(lambda w: w[:2]), "900 numbers for shape [2, 30]"),
        (saved(lambda w: w, _use_new_zipfile_serialization=False), "not a zip archive of torch.save"),
        (lambda w, path: path.write_bytes(pickle.dumps(w)), "not a zip archive"),
        (lambda w, path: path.write_text("version https://git-lfs.github.com/spec/v1\n"), "a Git LFS pointer"),
        (lambda w, path: path.touch(), "an empty file"),
        (lambda w, path: path.mkdir(), "cannot be read"),
        (lambda w, path: save_file({"weights": w}, path), "not a zip archive"),
        (cut(-1), "not a sound zip archive"),
        (cut(2000), "not a sound zip archive"),
        (cut(4), "not a sound zip archive"),
    ],
)
def test_other_weights_are_refused(toy, tmp_path, save, reason):
    weights, files = toy
    files.weights.unlink()
    save(weights, files.weights)
    error = refused(pack, files, tmp_path)
    assert error.where == str(files.weights)
    assert reason in str(error)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("wrap", [lambda bomb, weights: bomb, lambda bomb, weights: [bomb, weights]])
@pytest.mark.parametrize("which", ["weights", "identities"])
def test_payloads_never_run(toy, tmp_path, wrap, which):
    weights, files = toy
    trap = tmp_path / "trap"
    torch.save(wrap(Bomb(trap), weights), getattr(files, which))
    error = refused(pack, files, tmp_path)
    assert error.where == str(getattr(files, which))
    assert error.key == "posix.system"
    assert not trap.exists()


def test_a_matrix_that_requires_grad_is_a_matrix(toy, tmp_path):
    torch.save(toy[0].clone().requires_grad_(), toy[1].weights)
    pack(toy[1], tmp_path)


def test_more_rows_than_people(toy, tmp_path):
    torch.save(published_table(draw_people(29)), toy[1].identities)
    assert refused(pack, toy[1], tmp_path).reason == "29 rows, the weights have 30"


@pytest.mark.parametrize("people", [[1] * 30, [1] * 15 + [2] * 15, [None] * 30])
def test_too_few_people(toy, tmp_path, people):
    torch.save(published_table(people), toy[1].identities)
    error = refused(pack, toy[1], tmp_path)
    assert (error.where, error.key) == (str(toy[1].identities), "identity")


def test_changed_numbers_are_noticed_by_their_checksum(toy, tmp_path):
    weights, files = toy
    matrix = open_matrix(files.weights, 30)
    content = bytearray(files.weights.read_bytes())
    content[matrix.begin + 120 * 17 + 2] ^= 1
    files.weights.write_bytes(content)
    assert "checksum" in refused(pack, files, tmp_path).reason
    assert list((tmp_path / "scratch").iterdir()) == []
    torch.save(weights, files.weights)
    pack(files, tmp_path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(-1500, 1500) | st.integers(-7000, 7000), st.integers(0, 7)), max_size=3),
    st.none() | st.floats(0, 1, exclude_max=True),
)
def test_damaged_weights_are_refused_or_the_same(toy, tmp_path, changes, kept):
    weights, files = toy
    torch.save(weights, files.weights)
    content = bytearray(files.weights.read_bytes())
    for place, bit in changes:
        # Headers and directory, which have more possible faults than numbers, are at both ends.
        content[place % len(content)] ^= 1 << bit
    files.weights.write_bytes(content[: int(kept * len(content))] if kept is not None else content)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    try:
        data = pack(files, tmp_path)
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert torch.equal(vectors(data), weights[data.people["row"].tolist()].half())


@pytest.mark.parametrize("shape", [(2**40, 30), (30, 30, 2**60), (-1, 30), (True, 30), (30.0, 30), [30, 30]])
def test_impossible_shapes(tmp_path, shape):
    class Claim:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, (torch.zeros(900).untyped_storage(), 0, shape, (30, 1), False, {})

    torch.save(Claim(), tmp_path / "x.pt")
    assert refused(open_matrix, tmp_path / "x.pt", 30).where == str(tmp_path / "x.pt")


@pytest.mark.parametrize(
    ("pickled", "reason"),
    [
        # Each tuple holds the previous one twice; hashing the last takes 2^60 steps.
        (b"})" + b"".join(b"q%ch%c\x86" % (i, i) for i in range(60)) + b"K\x01s.", "a dict with keys other than text"),
        (b"})" + b"\x85" * 200_000 + b"K\x01s.", "a dict with keys other than text"),
        (
            b"c__builtin__\nbytearray\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.",
            "builtins.bytearray: named in",
        ),
        (b"ctorch\nFloatTensor\n\x8a\x06" + (2**40).to_bytes(6, "little") + b"\x85R.", "torch.FloatTensor: named in"),
    ],
)
def test_bombs_are_refused_unexploded(tmp_path, pickled, reason):
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + pickled)
    began = time.monotonic()
    assert reason in str(refused(open_matrix, tmp_path / "x.pt", 30))
    assert time.monotonic() - began < 30


def test_an_inflating_archive_is_not_inflated(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", b"\x80\x02" + b"N" * 2**24 + b".")
    assert "not stored as torch.save stores it" in refused(open_matrix, tmp_path / "x.pt", 30).reason


def test_a_directory_that_promises_much_allocates_nothing(toy, monkeypatch):
    content = toy[1].weights.read_bytes()
    size = content.rindex(b"PK\x06\x06") + 40
    toy[1].weights.write_bytes(content[:size] + (2**40).to_bytes(8, "little") + content[size + 8 :])
    assert "not a sound zip archive" in refused(open_matrix, toy[1].weights, 30).reason
    toy[1].weights.write_bytes(content)
    monkeypatch.setattr(torch_files, "MAX_DIRECTORY_BYTES", 100)
    assert "not a sound zip archive" in refused(open_matrix, toy[1].weights, 30).reason


def test_a_file_that_shrinks(tmp_path, normal):
    weights = normal(5000, 30)
    torch.save(weights, tmp_path / "x.pt")
    matrix = open_matrix(tmp_path / "x.pt", 30)
    with opened(tmp_path / "x.pt") as file:
        assert torch.equal(matrix.read(file, 3, 5), weights[3:5])
        os.truncate(tmp_path / "x.pt", matrix.begin + 120 * 4999)
        assert "shrank" in refused(matrix.read, file, 4000, 5000).reason


# Interruptions


@pytest.fixture
def whole(toy, tmp_path):
    """The bytes of an uninterrupted run."""
    pack(toy[1], tmp_path / "whole")
    return contents(tmp_path / "whole/out")


@pytest.mark.parametrize("unit", range(4))
@pytest.mark.parametrize("moment", ["write_shard", "write_json"])
def test_resumed_equals_uninterrupted(toy, tmp_path, whole, monkeypatch, unit, moment):
    module = w2w_units if moment == "write_shard" else w2w_data
    real, done = getattr(module, moment), []

    def interrupted(*args):
        if len(done) == unit:
            raise KeyboardInterrupt
        done.append(real(*args))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(toy[1], tmp_path)
    assert not (tmp_path / "out").exists()
    finished, packed = len(list(tmp_path.glob("scratch/*/*.json"))), []
    assert moment == "write_shard" or finished == unit
    monkeypatch.setattr(w2w_data, "pack_unit", lambda number, *rest: packed.append(number) or pack_unit(number, *rest))
    pack(toy[1], tmp_path)
    assert packed == list(range(finished, 4))
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "damage", [Path.unlink, Path.touch, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")]
)
def test_a_shard_that_is_not_what_was_written_is_made_again(toy, tmp_path, whole, monkeypatch, damage):
    with monkeypatch.context() as patch:
        patch.setattr(w2w_data, "_write_manifest", lambda *args: [].pop())
        with pytest.raises(IndexError):
            pack(toy[1], tmp_path)
    (shard,) = tmp_path.glob("scratch/*/data/zoo/000002.safetensors")
    damage(shard)
    packed = []
    monkeypatch.setattr(w2w_data, "pack_unit", lambda number, *rest: packed.append(number) or pack_unit(number, *rest))
    pack(toy[1], tmp_path)
    assert packed == ([] if damage is Path.touch else [2])
    assert contents(tmp_path / "out") == whole


def test_other_settings_or_files_begin_anew(toy, tmp_path, normal, monkeypatch):
    monkeypatch.setattr(w2w_data, "_write_manifest", lambda *args: [].pop())
    for change in ({}, {"seed": 1}, {"dtype": torch.float32}, {"rows_per_shard": 9}, {"test": 0.1}):
        with pytest.raises(IndexError):
            pack(toy[1], tmp_path, **change)
    for files in (publish(tmp_path / "other", normal(30, 30)), publish(tmp_path / "third", toy[0], draw_people(30, 1))):
        with pytest.raises(IndexError):
            pack(files, tmp_path)
    assert len(list((tmp_path / "scratch").iterdir())) == 7


def test_killed_at_any_moment(tmp_path, normal, fork):
    weights = normal(200, TOY.dimension)
    files = publish(tmp_path / "w2w", weights)
    began = time.monotonic()
    pack(files, tmp_path / "whole", rows_per_shard=8)
    seconds, rng, ends = time.monotonic() - began, random.Random(0), []
    for number in range(60):
        child = fork(lambda: pack(files, tmp_path, rows_per_shard=8))
        # Longer and longer, so that the first kills come early however fast the machine is now.
        time.sleep(rng.uniform(0.5, 1.5) * 0.002 * 1.12**number * seconds)
        os.kill(child, signal.SIGKILL)
        ends.append(os.waitpid(child, 0)[1])
        if (tmp_path / "out").exists():
            if ends.count(signal.SIGKILL) > 1:
                break
            shutil.rmtree(tmp_path / "out")  # the machine was quicker than the first kills
    else:
        pack(files, tmp_path, rows_per_shard=8)
    assert ends.count(signal.SIGKILL) > 1
    assert set(ends) <= {0, signal.SIGKILL}
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_out_is_never_overwritten(toy, tmp_path):
    pack(toy[1], tmp_path)
    before = contents(tmp_path / "out")
    assert refused(pack, toy[1], tmp_path, seed=1).reason == "exists already"
    assert contents(tmp_path / "out") == before


def test_too_small_a_disk_is_noticed_before_the_work(toy, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1799))
    assert refused(pack, toy[1], tmp_path).reason == "0.0 GB free, 0.0 GB needed"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1800))
    pack(toy[1], tmp_path)


def test_another_file_system_is_noticed_before_the_work(toy, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system only")
    assert "another file system" in refused(pack_w2w, toy[1], TOY, other / "w2w-data-test/out", tmp_path / "s").reason


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


# Outputs


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


# Places of the files


def test_files_in_a_folder(tmp_path):
    below = tmp_path / SUBFOLDER
    below.mkdir(parents=True)
    for name in ("all_weights.pt", "identity_df.pt"):
        error = refused(find_files, tmp_path)
        assert (error.where, error.key, error.reason) == (str(tmp_path), name, "no such file")
        (below / name).touch()
    assert find_files(str(tmp_path)) == W2WFiles(below / "all_weights.pt", below / "identity_df.pt")
    (tmp_path / "all_weights.pt").symlink_to(below / "all_weights.pt")
    assert find_files(tmp_path) == W2WFiles(tmp_path / "all_weights.pt", below / "identity_df.pt")
    (below / "identity_df.csv").touch()
    assert find_files(tmp_path).identities == below / "identity_df.csv"
    (below / "identity_df.pt").unlink()
    assert find_files(tmp_path).identities == below / "identity_df.csv"
    assert find_files(below).identities == below / "identity_df.csv"


def test_the_refusal_says_what_to_put_where(tmp_path):
    message = str(refused(find_files, tmp_path, revision="a" * 40))
    for part in (f"{SUBFOLDER}/all_weights.pt", f"{SUBFOLDER}/identity_df.pt", "a" * 40, REPOSITORY, str(tmp_path)):
        assert part in message
    assert len(REVISION) == 40


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the Hub's client, without access to the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def test_files_in_the_cache(hub_cache, tmp_path, normal):
    error = refused(find_files)
    assert (error.where, error.key) == (REPOSITORY, None)
    assert "HF_HUB_OFFLINE is set" in error.reason
    assert REVISION in error.remedy and "all_weights.pt (25.9 GB)" in error.remedy
    files = publish(tmp_path / "w2w", normal(30, 30))
    snapshot = hub_cache / f"models--{REPOSITORY.replace('/', '--')}/snapshots/{REVISION}/{SUBFOLDER}"
    blobs = snapshot.parents[3] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for name, path in (("identity_df.pt", files.identities), ("all_weights.pt", files.weights)):
        refused(find_files)
        shutil.copy(path, blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    assert find_files() == W2WFiles(snapshot / "all_weights.pt", snapshot / "identity_df.pt")
    refused(find_files, revision="b" * 40)
    pack(files, tmp_path / "a")
    pack(find_files(), tmp_path / "b")
    assert contents(tmp_path / "a/out") == contents(tmp_path / "b/out")


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_downloads_are_of_the_pinned_revision(hub_cache, tmp_path, monkeypatch, value, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    requests = []

    def download(repository, name, revision, local_files_only):
        requests.append((repository, name, revision, local_files_only))
        return str(tmp_path / Path(name).name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_files() == W2WFiles(tmp_path / "all_weights.pt", tmp_path / "identity_df.pt")
    assert requests == [
        (REPOSITORY, f"{SUBFOLDER}/{name}", REVISION, offline) for name in ("identity_df.pt", "all_weights.pt")
    ]


@pytest.mark.parametrize("error", [OSError("no\nroute"), ConnectionError(), ValueError("x"), RuntimeError("x" * 1000)])
def test_failing_downloads_are_one_line(hub_cache, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    caught = refused(find_files)
    assert caught.where == REPOSITORY
    assert len(str(caught)) < 1200
    assert w2w_source.WEIGHTS in caught.remedy
