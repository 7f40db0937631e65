"""The flatten stage: malformed LoRAs go to quarantine, and too many of them stop the run."""

import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_pack, write_csv, write_pack
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.packs import write_loras
from w2wpp.lora.statistics import standardise
from w2wpp.lora.weights import read_weights

ROOT = Path(__file__).parents[1]


def flatten_stage(folder: Path, monkeypatch, max_quarantined: float, people: int | None = None) -> None:
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["flatten"] = {"max_quarantined": max_quarantined, "people": people}
    (folder.expanduser() / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.setattr(
        sys,
        "argv",
        [
            "flatten.py",
            "--params",
            str(folder / "params.yaml"),
            "--zoo",
            str(folder / "zoo"),
            "--out",
            str(folder / "weights"),
        ],
    )
    runpy.run_path(str(ROOT / "stages/flatten.py"), run_name="__main__")


@pytest.fixture
def zoo(tmp_path, layout):
    """Ten LoRAs in two files, the last two of held-out people; the fourth is not finite. Returns (folder, vectors)."""
    generator = torch.Generator().manual_seed(0)
    vectors = initial_weights(layout, 0) + 0.1 * torch.randn(10, layout.dimension, generator=generator)
    vectors[3, 7] = float("nan")
    vectors = vectors.half()
    for file, rows in (("a.safetensors", slice(0, 6)), ("b.safetensors", slice(6, 10))):
        write_pack(tmp_path / "zoo/loras" / file, layout.stack(vectors[rows]), {"layout": layout.to_meta()})
    roles = ["zoo"] * 8 + ["true"] * 2
    write_csv(
        tmp_path / "zoo/manifest.csv",
        pd.DataFrame(
            {
                "person": [f"p{i}" for i in range(10)],
                "split": ["zoo"] * 8 + ["validation", "test"],
                "role": roles,
                "file": ["a.safetensors"] * 6 + ["b.safetensors"] * 4,
            }
        ),
    )
    return tmp_path, vectors


def test_malformed_lora_goes_to_quarantine_and_the_rest_is_exact(zoo, layout, monkeypatch):
    folder, vectors = zoo
    flatten_stage(folder, monkeypatch, 0.2)
    data = read_weights(folder / "weights")
    whole = [i for i in range(10) if i != 3]
    assert torch.equal(data.of("zoo"), vectors[whole[:7]].float())
    assert torch.equal(data.of("true"), vectors[8:].float())
    assert torch.equal(data.of("true", "test"), vectors[9:].float())
    assert torch.equal(data.zoo.rows([6, 0]), vectors[[7, 0]])
    assert data.names("zoo") == [f"p{i}" for i in whole[:7]]
    assert data.zoo.dtype == torch.float16 and len(data.zoo.paths) == 2
    assert data.layout.hash == layout.hash
    quarantine = pd.read_csv(folder / "weights/quarantine.csv")
    assert quarantine["person"].tolist() == ["p3"]
    assert quarantine["lora"][0].endswith("zoo/loras/a.safetensors[3]")
    assert "finite" in quarantine["reason"][0]
    mean, std = standardise(vectors[whole[:7]])
    torch.testing.assert_close(data.mean, mean)
    torch.testing.assert_close(data.std, std)


def test_spaces_can_learn_from_fewer_people(zoo, monkeypatch):
    folder, vectors = zoo
    flatten_stage(folder, monkeypatch, 0.2, people=5)
    data = read_weights(folder / "weights")
    assert data.names("zoo") == ["p0", "p1", "p2", "p4"]  # the fourth of the five is malformed
    assert torch.equal(data.of("true"), vectors[8:].float())
    torch.testing.assert_close(data.mean, vectors[[0, 1, 2, 4]].float().mean(0), atol=1e-6, rtol=0)


def test_flattening_again_leaves_nothing_of_the_first_time(zoo, layout, monkeypatch):
    folder, vectors = zoo
    flatten_stage(folder, monkeypatch, 0.2)
    write_pack(folder / "zoo/loras/a.safetensors", {"weights": vectors[:6]}, {"layout": layout.to_meta()})
    (folder / "zoo/manifest.csv").write_text("\n".join((folder / "zoo/manifest.csv").read_text().splitlines()[:7]))
    flatten_stage(folder, monkeypatch, 0.2)
    assert torch.equal(read_weights(folder / "weights").of("zoo"), vectors[[0, 1, 2, 4, 5]].float())
    assert read_weights(folder / "weights").of("true").shape == (0, layout.dimension)
    assert [path.name for path in (folder / "weights/vectors").iterdir()] == ["zoo-zoo"]


def test_a_shard_gives_what_stacked_loras_give(zoo, layout, monkeypatch):
    folder, vectors = zoo
    flatten_stage(folder, monkeypatch, 0.2)
    before = {path: path.read_bytes() for path in (folder / "weights").rglob("*.*")}
    for file, rows in (("a.safetensors", slice(0, 6)), ("b.safetensors", slice(6, 10))):
        write_pack(folder / "zoo/loras" / file, {"weights": vectors[rows]}, {"layout": layout.to_meta()})
    flatten_stage(folder, monkeypatch, 0.2)
    assert {path: path.read_bytes() for path in (folder / "weights").rglob("*.*")} == before


def test_paths_of_stages_may_be_given_from_home(zoo, monkeypatch):
    folder, vectors = zoo
    monkeypatch.setenv("HOME", str(folder))
    flatten_stage(Path("~"), monkeypatch, 0.2)
    assert torch.equal(read_weights(folder / "weights").of("true"), vectors[8:].float())


@pytest.mark.parametrize(("rows", "width"), [(4, -1), (1, None)])
def test_shard_of_another_shape_is_refused(zoo, layout, monkeypatch, rows, width):
    write_pack(
        zoo[0] / "zoo/loras/b.safetensors",
        {"weights": zoo[1][6 : 6 + rows, :width].contiguous()},
        {"layout": layout.to_meta()},
    )
    with pytest.raises(SystemExit, match=rf"b\.safetensors: weights: shape \[{rows}, .*\], expected \[4, "):
        flatten_stage(zoo[0], monkeypatch, 0.5)


@pytest.mark.parametrize(
    "name", ["people.csv", "statistics.safetensors", "vectors/zoo-zoo", "vectors/zoo-zoo/000001.safetensors"]
)
def test_weights_that_are_incomplete_are_refused(zoo, monkeypatch, name):
    flatten_stage(zoo[0], monkeypatch, 0.2)
    path = zoo[0] / "weights" / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(InputError, match=r"flatten|write_shard|repro"):
        read_weights(zoo[0] / "weights")


def test_packs_keep_8_bits_of_what_differs_and_all_of_what_does_not(zoo, layout, monkeypatch):
    folder, vectors = zoo
    vectors = vectors.float()
    vectors[:, ~layout.in_B] = vectors[0, ~layout.in_B]
    vectors[3, layout.in_B.nonzero()[0]] = float("nan")
    for path in (folder / "zoo/loras").iterdir():
        path.unlink()
    files = write_loras(folder / "zoo/loras", "zoo-zoo", layout, vectors)
    tensors, _ = read_pack(folder / "zoo/loras" / files[0])
    assert {(tensor.dtype, len(tensor)) for key, tensor in tensors.items() if "lora_A" in key} == {(torch.float16, 1)}
    assert {tensor.dtype for key, tensor in tensors.items() if key.endswith("lora_B.weight")} == {torch.int8}
    write_csv(folder / "zoo/manifest.csv", pd.read_csv(folder / "zoo/manifest.csv").assign(file=files))
    flatten_stage(folder, monkeypatch, 0.2)
    data = read_weights(folder / "weights")
    whole = vectors[[i for i in range(10) if i != 3]]  # the fourth is not finite
    vectors = torch.cat([data.of("zoo"), data.of("true")])
    assert torch.equal(vectors[:, ~layout.in_B], whole[:, ~layout.in_B].half().float())
    for (_, found), (_, kept) in zip(layout.split(vectors).values(), layout.split(whole).values(), strict=True):
        step = kept.abs().amax((1, 2), keepdim=True) / 127
        assert ((found - kept).abs() <= 0.5 * step + 1e-3 * kept.abs()).all()


def test_too_many_malformed_loras_stop_the_run(zoo, monkeypatch):
    with pytest.raises(SystemExit, match=r"1 of 10 LoRAs are unusable.*p3.*flatten.max_quarantined"):
        flatten_stage(zoo[0], monkeypatch, 0.05)


def test_pack_of_another_layout_is_refused(zoo, wide_layout, draw_weights, monkeypatch):
    write_pack(
        zoo[0] / "zoo/loras/b.safetensors",
        wide_layout.stack(draw_weights(wide_layout, 4).half()),
        {"layout": wide_layout.to_meta()},
    )
    with pytest.raises(SystemExit, match=r"b\.safetensors.*not the layout of the files before"):
        flatten_stage(zoo[0], monkeypatch, 0.5)


def test_pack_of_another_length_than_the_manifest_is_refused(zoo, monkeypatch):
    manifest = zoo[0] / "zoo/manifest.csv"
    manifest.write_text("\n".join(manifest.read_text().splitlines()[:-1]))
    with pytest.raises(SystemExit, match=r"b\.safetensors.*the manifest has 3"):
        flatten_stage(zoo[0], monkeypatch, 0.5)
