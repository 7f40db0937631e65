"""Zoos from elsewhere, in the published formats: spaces and pictures use exactly the LoRAs in the files."""

import pickle
import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, read_pack
from w2wpp.ingest.folder import scan_folder
from w2wpp.ingest.foreign import read_lora
from w2wpp.ingest.sources import collect_folder, collect_w2w, read_layout
from w2wpp.ingest.w2w_people import ATTRIBUTES
from w2wpp.lora.layout import LoraParams, WeightLayout, flatten
from w2wpp.lora.shards import write_shards
from w2wpp.lora.statistics import standardise
from w2wpp.lora.weights import read_weights
from w2wpp.run.params import Params, load_params, require_photos
from w2wpp.spaces import pca
from w2wpp.spaces.registry import METHODS, load_space

ROOT = Path(__file__).parents[1]
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "layers_per_block": 2,
    "attention_head_dim": 8,
}
TINY = {
    "seed": 0,
    "lora": {"rank": 1, "alpha": 27, "targets": ["to_q", "to_v"], "blocks": []},
    "pca": {"within_person_ridge": None},
    "linear": {"inputs": 2, "components": 4, "within_person_ridge": None},
    "flatten": {"max_quarantined": 0.5},
    "generate": {"inference_steps": 1, "guidance": 2.0},
    "sample": {"people": 2, "seeds": 1, "prompts": ["a photo of sks person"]},
    "vae": {"latent_dim": 3, "within_person_ridge": None, "width": 8, "layers": 1, "epochs": 2, "batch": 8},
    "interpolate": {"pairs": 8, "steps": 3},
}


@pytest.fixture(scope="module")
def base(sd15_base) -> Path:
    return sd15_base


@pytest.fixture(scope="module")
def mini(base) -> WeightLayout:
    """Rank 1 on to_q and to_v of that pipeline."""
    return read_layout(base, LoraParams(**TINY["lora"]))


@pytest.fixture
def make_params(tmp_path):
    """make_params(source, path) gives tiny settings, which are also in tmp_path/params.yaml."""

    def make(source: str, path: Path | None, **collect) -> Params:
        content = yaml.safe_load((ROOT / "params.yaml").read_text())
        for section, values in TINY.items():
            content[section] = content[section] | values if isinstance(values, dict) else values
        content["collect"] |= {"source": source, "path": path and str(path), "held_out": 0.2, **collect}
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
        return load_params(tmp_path / "params.yaml")

    return make


@pytest.fixture
def stage(tmp_path, base, monkeypatch):
    """stage(name, *options) runs a stage with its paths below tmp_path."""

    def run(name: str, *options: str, **paths: str) -> None:
        known = {"base": base} | {key: tmp_path / value for key, value in paths.items()}
        monkeypatch.setattr(
            sys,
            "argv",
            [
                f"{name}.py",
                "--params",
                str(tmp_path / "params.yaml"),
                *options,
                *(f"--{key}={value}" for key, value in known.items() if key != "base" or name != "flatten"),
            ],
        )
        runpy.run_path(str(ROOT / f"stages/{name}.py"), run_name="__main__")

    return run


def publish(folder: Path, weights: torch.Tensor, people) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "all_weights.pt")
    rows = len(weights)
    table = {name: np.random.default_rng(0).choice([-1, 1], rows) for name in ATTRIBUTES}
    torch.save(
        pd.DataFrame({**table, "identity": people}, index=[f"{row:06d}.jpg" for row in range(rows)]),
        folder / "identity_df.pt",
    )


def draw_all(stage) -> None:
    """The stages that a zoo without photos allows, up to pictures."""
    stage("flatten", zoo="zoo", out="weights")
    for space in METHODS:
        stage("fit", "--space", space, weights="weights", spaces="spaces", out="spaces", scratch="scratch")
        stage("sample", "--space", space, spaces="spaces", out="samples")
        stage("interpolate", "--space", space, weights="weights", spaces="spaces", out="interpolations")


def test_layout_of_a_configuration_is_that_of_the_published_data(tmp_path):
    with torch.device("meta"):
        UNet2DConditionModel(**SD15).save_config(tmp_path / "unet")
    layout = read_layout(tmp_path, LoraParams(**TINY["lora"]))
    offsets = {key.split(".")[0]: offset for key, _, offset in reversed(layout.entries)}
    assert (layout.dimension, len(layout.entries)) == (99_648, 128)
    assert offsets == {"down_blocks": 0, "mid_block": 35_968, "up_blocks": 45_696}


def test_layout_of_chosen_layers(base):
    lora = LoraParams(rank=2, alpha=3, targets=["attn1.to_v", "ff.net.0.proj"], blocks=["up_blocks.1", "mid_block"])
    modules = [layer.module for layer in read_layout(base, lora).layers]
    assert {".".join(module.split(".")[:2]) for module in modules} == {"mid_block.attentions", "up_blocks.1"}
    assert all(module.endswith((".attn1.to_v", ".ff.net.0.proj")) for module in modules)
    with pytest.raises(InputError, match=r"targets: no transformer .* linear 'proj_in'.*convolutions"):
        read_layout(base, lora.model_copy(update={"targets": ["proj_in"]}))


@pytest.mark.parametrize("content", [None, "{}x", '{"block_out_channels": 3}', '{"down_block_types": ["None"]}'])
def test_no_configuration_of_a_unet(tmp_path, content):
    (tmp_path / "unet").mkdir()
    if content:
        (tmp_path / "unet/config.json").write_text(content)
    with pytest.raises(InputError, match=r"unet/config.json"):
        read_layout(tmp_path, LoraParams(**TINY["lora"]))


def test_folder_up_to_pictures(tmp_path, mini, make_params, stage, capsys, write_loras):
    folder = tmp_path / "loras"
    write_loras(folder, mini, 13)
    make_params("folder", folder)
    stage("collect", out="zoo", scratch="scratch")
    assert "13 LoRAs read, of 13 people, 0 rejected" in capsys.readouterr().err
    draw_all(stage)
    data = read_weights(tmp_path / "weights")
    assert sorted(data.people["role"].unique()) == ["true", "zoo"]
    names = data.names("zoo") + data.names("true")
    assert sorted(names) == [f"{number:02d}" for number in range(13)]
    read = {
        name.split("/")[0].removesuffix(".safetensors"): lora.vector
        for name, lora in scan_folder(folder, mini).accepted.items()
    }
    expected = torch.stack([read[name].half().float() for name in names])
    assert torch.equal(torch.cat([data.of("zoo"), data.of("true")]), expected)
    for space in METHODS:
        pictures = read_pack(tmp_path / f"samples/{space}/pictures.safetensors")[0]["pictures"]
        strips, meta = read_pack(tmp_path / f"interpolations/{space}/pictures.safetensors")
        assert pictures.shape == (2, 1, 1, 64, 64, 3)
        assert strips["pictures"].shape == (len(data.zoo) // 2, 3, 64, 64, 3) == (len(meta["people"]), 3, 64, 64, 3)
        assert load_space(tmp_path / f"spaces/{space}/space.safetensors").layout == mini
        # Exports for other tools are read back as the samples.
        lora = read_lora(tmp_path / f"samples/{space}/sample-0.safetensors", mini)
        assert lora.rank == 1 and not lora.ignored
    with pytest.raises(SystemExit, match=r"collect.source: 'folder' brings no photos"):
        stage("invert", "--space", "pca", spaces="spaces", out="inversions")


def test_folder_tells_what_it_left_out(tmp_path, mini, make_params, write_loras):
    folder, out = tmp_path / "loras", tmp_path / "zoo"
    write_loras(folder, mini, 9)
    (folder / "copy.safetensors").write_bytes((folder / "00.safetensors").read_bytes())
    (folder / "bad.safetensors").write_bytes((folder / "00.safetensors").read_bytes()[:-8])
    (folder / "evil.pt").write_bytes(pickle.dumps({}))
    (folder / "notes.txt").write_text("x")
    (folder / "people.csv").write_text("file,person\n00.safetensors,007\n02.safetensors,007\n03.safetensors,7\n")
    collect_folder(make_params("folder", folder).collect, 0, mini, out, tmp_path)
    manifest = pd.read_csv(out / "manifest.csv", dtype={"person": str})
    assert len(manifest) == 9
    assert sorted(manifest["person"]) == ["007", "007", "01", "04", "05", "06", "07", "08", "7"]
    assert manifest.groupby("person")["split"].nunique().max() == 1
    assert manifest.set_index("lora")["rank"]["03.safetensors"] == 4
    assert manifest.set_index("lora")["energy"]["03.safetensors"] < 1 == manifest.set_index("lora")["energy"].max()
    assert (manifest["text_encoder_keys"] > 0).sum() == 5
    quarantine = pd.read_csv(out / "quarantine.csv")
    assert quarantine["lora"].tolist() == ["bad.safetensors", "evil.pt"]
    assert pd.read_csv(out / "duplicates.csv")[["name", "original"]].values.tolist() == [
        ["copy.safetensors", "00.safetensors"]
    ]
    assert (pd.read_csv(out / "ignored_keys.csv")["loras"] <= 5).all()
    assert pd.read_csv(out / "people/manifest.csv").empty


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        ("file,who\n", "person", "column missing. Give it the columns file and person"),
        ("file,person\n99.safetensors,anna\n", "file", "'99.safetensors', expected a LoRA of the folder"),
        ("file,person\n00.safetensors, \n", "person", "expected a name"),
        ("file,person\n00.safetensors,a\x07\n", "person", "expected a name"),
    ],
)
def test_people_of_a_folder_that_are_wrong(tmp_path, mini, make_params, content, key, words, write_loras):
    folder = tmp_path / "loras"
    write_loras(folder, mini, 1)
    (folder / "people.csv").write_text(content)
    with pytest.raises(InputError) as caught:
        collect_folder(make_params("folder", folder).collect, 0, mini, tmp_path / "zoo", tmp_path)
    assert (caught.value.where, caught.value.key) == (str(folder / "people.csv"), key)
    assert words in str(caught.value)


def test_folder_whose_rejects_are_too_many_is_refused_by_flatten(tmp_path, mini, make_params, stage, write_loras):
    folder = tmp_path / "loras"
    write_loras(folder, mini, 6)
    for number in range(7):
        (folder / f"bad{number}.safetensors").touch()
    make_params("folder", folder)
    stage("collect", out="zoo", scratch="scratch")
    with pytest.raises(SystemExit, match=r"bad0.safetensors: 7 of 13 LoRAs are unusable.*flatten.max_quarantined"):
        stage("flatten", zoo="zoo", out="weights")


def test_folder_without_a_zoo(tmp_path, mini, make_params):
    folder = tmp_path / "loras"
    folder.mkdir()
    with pytest.raises(InputError, match="0 LoRAs can be read"):
        collect_folder(make_params("folder", folder).collect, 0, mini, tmp_path / "zoo", tmp_path)
    (folder / "x.safetensors").touch()
    with pytest.raises(InputError, match=r"first of 1 rejected, x\.safetensors: "):
        collect_folder(make_params("folder", folder).collect, 0, mini, tmp_path / "zoo", tmp_path)
    assert not (tmp_path / "zoo").exists()


def test_w2w_up_to_pictures(tmp_path, mini, make_params, stage, normal):
    weights, people = 0.02 * normal(40, mini.dimension), np.arange(40) // 2
    publish(tmp_path / "w2w", weights, people)
    make_params("w2w", tmp_path / "w2w")
    stage("collect", out="zoo", scratch="scratch")
    draw_all(stage)
    data = read_weights(tmp_path / "weights")
    rows = data.people["row"].tolist()
    assert torch.equal(torch.cat([data.of("zoo"), data.of("true")]), weights[rows].half().float())
    assert data.people["person"].tolist() == [str(people[row]) for row in rows]
    assert data.people["photo"].tolist() == [f"{row:06d}.jpg" for row in rows]
    assert set(ATTRIBUTES) <= set(data.people.columns)
    assert data.people.groupby("person")["split"].nunique().max() == 1
    assert set(data.people["split"]) == {"zoo", "validation", "test"}
    assert read_pack(tmp_path / "samples/vae/pictures.safetensors")[0]["pictures"].shape == (2, 1, 1, 64, 64, 3)


def test_w2w_whose_rejects_are_too_many_is_refused_by_flatten(tmp_path, mini, make_params, stage, normal, capsys):
    weights, people = 0.02 * normal(40, mini.dimension), np.arange(40) / 2 // 1
    weights[4, 0], weights[7, -1], weights[9, 2], people[11] = np.nan, np.inf, 1e6, np.nan
    publish(tmp_path / "w2w", weights, people)
    first, last = mini.entries[0][0], mini.entries[-1][0]
    make_params("w2w", tmp_path / "w2w")
    stage("collect", out="zoo", scratch="scratch")
    assert "36 vectors of 20 people read, 4 rejected" in capsys.readouterr().err
    listed = [
        ["2", "all_weights.pt[4]", first, "not finite"],
        ["3", "all_weights.pt[7]", last, "not finite"],
        ["4", "all_weights.pt[9]", first, "1e+06 is too large for float16"],
        ["", "all_weights.pt[11]", "identity", "nobody's: the table has no identity for it"],
    ]
    assert read_csv(tmp_path / "zoo/quarantine.csv").values.tolist() == listed
    for allowed in (0.1, 0.09):
        content = yaml.safe_load((tmp_path / "params.yaml").read_text())
        content["flatten"]["max_quarantined"] = allowed
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
        if allowed == 0.1:
            stage("flatten", zoo="zoo", out="weights")
            rows = read_weights(tmp_path / "weights").people["row"]
            assert sorted(rows) == [row for row in range(40) if row not in (4, 7, 9, 11)]
        else:
            refusal = (
                r"all_weights.pt\[4\].*: 4 of 40 LoRAs are unusable, the first \(2\): not finite\. "
                rf"{tmp_path}/weights/quarantine.csv lists them.*flatten.max_quarantined, which is 0.09"
            )
            with pytest.raises(SystemExit, match=refusal):
                stage("flatten", zoo="zoo", out="weights")
    assert read_csv(tmp_path / "weights/quarantine.csv").values.tolist() == listed


def test_w2w_of_another_base_model(tmp_path, mini, make_params, normal):
    publish(tmp_path / "w2w", normal(40, mini.dimension + 1), np.arange(40))
    with pytest.raises(InputError, match=rf"expected \[rows, {mini.dimension}\].*Stable Diffusion 1.5"):
        collect_w2w(make_params("w2w", tmp_path / "w2w").collect, 0, mini, tmp_path / "zoo", tmp_path / "scratch")


def test_w2w_without_a_network(tmp_path, mini, make_params, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(InputError, match=r"hf download .*all_weights\.pt.* HF_HUB_OFFLINE=0"):
        collect_w2w(make_params("w2w", None).collect, 0, mini, tmp_path / "zoo", tmp_path / "scratch")


def test_stages_that_need_photos_say_so(make_params, tmp_path):
    require_photos(make_params("zoo", None))
    for name in ("invert", "references", "evaluate", "compare", "report"):
        assert "require_photos(args.params)" in (ROOT / f"stages/{name}.py").read_text()
    with pytest.raises(InputError, match=r"collect\.source: 'w2w' brings no photos of held-out people"):
        require_photos(make_params("w2w", None))


def test_folder_needs_a_path(make_params):
    with pytest.raises(InputError, match=r"collect: .*collect.path, the folder of the LoRAs"):
        make_params("folder", None)


def test_large_zoos_are_decomposed_out_of_memory(tmp_path, toy_layout, normal, monkeypatch):
    rows = normal(60, 4) @ normal(4, toy_layout.dimension) + 0.01 * normal(60, toy_layout.dimension)
    shards = write_shards(tmp_path / "shards", [rows], toy_layout, 16)
    mean, std = standardise(rows)
    exact, shares = pca.fit_components(shards, mean, std, 4, 0)
    assert exact.latent_dim == toy_layout.dimension
    monkeypatch.setattr(pca, "MAX_NUMBERS", 100)
    monkeypatch.setattr(pca, "MAX_COMPONENTS", 2)
    streamed, fewer = pca.fit_components(shards, mean, std, 4, 0)
    assert streamed.latent_dim == 4
    torch.testing.assert_close(fewer, shares[:4], rtol=1e-3, atol=0)
    torch.testing.assert_close(
        streamed.decode(streamed.encode(rows)),
        exact.truncated(4).decode(exact.truncated(4).encode(rows)),
        rtol=0,
        atol=1e-3,
    )


def test_published_vector_and_flattened_lora_are_the_same(mini, normal):
    vector = normal(mini.dimension)
    stacked = {key: part[0] for key, part in mini.stack(vector[None]).items()}
    assert torch.equal(flatten(stacked, mini, "x"), vector)
