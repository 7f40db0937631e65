"""The profile for Stable Diffusion 1.5 in miniature: every stage, on LoRAs and photos of people in folders."""

import json
import re
import runpy
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from trees import leaves

from w2wpp.diffusion.hub import find_model
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.pretrained import REFERENCE, refer_to_model
from w2wpp.evaluation.gallery import draw_zoo
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.storage import read_csv, read_json, read_pack
from w2wpp.ingest.sources import read_layout
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.lora.layout import LoraParams
from w2wpp.run.held_out import check_photo_size
from w2wpp.run.params import Params, in_params, load_params
from w2wpp.run.preflight import check_sources
from w2wpp.run.profile import apply_profile
from w2wpp.spaces.registry import METHODS
from w2wpp.world.base_model import BaseParams

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/sd15.yaml"
TINY = (
    "split=test",
    "base.revision=null",
    "collect.source=folder",
    "collect.path=loras",
    "collect.held_out=0.2",
    "flatten.max_quarantined=0.5",
    "portraits.photo_size=64",
    "portraits.validation=2",
    "portraits.test=3",
    "portraits.score_photos=2",
    "recognizer=insightface:tiny",
    "second_recognizer=insightface:other",
    "faces=insightface:tiny",
    "vae.latent_dim=3",
    "linear.inputs=2",
    "linear.components=4",
    "vae.width=8",
    "vae.epochs=2",
    "sample.people=2",
    "sample.seeds=1",
    "sample.scored=4",
    "sample.donors=3",
    "interpolate.pairs=2",
    "interpolate.steps=3",
    "photo_encoder.photos=1",
    "invert.steps=6",
    "invert.lr=1.0",
    "generate.inference_steps=2",
    "generate.batch=5",
    "evaluate.seeds=2",
    "evaluate.class_samples=6",
    "evaluate.bootstrap=100",
    "evaluate.clip=clip",
    "evaluate.clip_revision=x",
)


BY_SPACE = ("fit", "sample", "interpolate", "photo_encoder", "invert", "edit", "outside", "evaluate")


@pytest.fixture(scope="module")
def world(tmp_path_factory, sd15_base, sd15_clip, draw_people, write_loras, write_networks) -> Path:
    """A folder in which all stages of the profile have run, on 14 LoRAs and six people with four photos."""
    folder = tmp_path_factory.mktemp("world")
    draw_people(folder / "photos", 6, 4)
    (folder / "photos" / "Person 1" / "00.jpg").write_bytes(b"\xff\xd8 no photo")
    for person in range(2, 6):
        of_person = folder / "photos" / f"Person {person}"
        shutil.copy(of_person / "0.png", of_person / "0 (1).jfif")
        (of_person / "0.txt").write_text("a photo of sks person")
    (folder / "photos" / ".DS_Store").touch()
    for name, numbers in (("tiny", 6), ("other", 7)):
        write_networks(folder / "models" / name, numbers)
    write_loras(
        folder / "loras", read_layout(sd15_base, LoraParams(rank=1, alpha=27, targets=["to_q", "to_v"], blocks=[])), 14
    )
    shutil.copytree(sd15_clip, folder / "clip")
    shutil.copy(ROOT / "params.yaml", folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("INSIGHTFACE_HOME", str(folder))
        apply_profile(PROFILE, "params.yaml", [*TINY, f"base.model={sd15_base}"])
        for stage in (
            "settings",
            "base",
            "portraits",
            "collect",
            "flatten",
            "fit",
            "sample",
            "interpolate",
            "photo_encoder",
            "invert",
            "edit",
            "references",
            "outside_references",
            "outside",
            "evaluate",
            "second_opinion",
            "sweep",
            "compare",
            "report",
        ):
            for space in METHODS if stage in BY_SPACE else [None]:
                patch.setattr(sys, "argv", [f"{stage}.py", *(["--space", space] if space else [])])
                runpy.run_path(str(ROOT / f"stages/{stage}.py"), run_name="__main__")
    return folder


def test_every_stage_runs_and_measures(world):
    metrics = {path.stem: leaves(json.loads(path.read_text())) for path in (world / "metrics").glob("*.json")}
    assert metrics.pop("outside") == {}  # no restorer knows these people's pictures
    assert set(metrics) == {"world", "base", "zoo", *METHODS, "second_opinion", "comparison", "inversion"}
    assert all(isinstance(value, (int, float)) for tree in metrics.values() for value in tree.values())
    assert (
        metrics["pca"].keys()
        == metrics["linear"].keys()
        == metrics["vae"].keys()
        == {
            "latent_dim",
            "reconstruction.rel_mse",
            "sampling.face_found",
            "sampling.diversity",
            "sampling.novelty",
            "sampling.frechet",
            "sampling.precision",
            "sampling.recall",
            "sampling.kinship",
            "sampling.prompt_alignment",
            "interpolation.evenness",
            "interpolation.face_found",
            "inversion.id_score",
            "inversion.id_score_low",
            "inversion.id_score_high",
            "inversion.id_score_normalised",
            "inversion.tar_at_far1",
            "inversion.face_found",
            "inversion.copying",
            "inversion.copying_identity",
            "inversion.variety",
            "inversion.seconds_per_person",
            "inversion.prompt_alignment",
        }
    )
    assert metrics["zoo"].keys() == {"people", "dimension"}
    assert metrics["base"].keys() == {"codec_psnr_db", "face_found", "embedding_frechet", "embedding_frechet_floor"}
    assert metrics["world"]["verification_auc"] > 0.9 and metrics["world"]["face_found"] == 1
    assert metrics["comparison"]["people"] == metrics["comparison"]["second_opinion.people"] == 3
    assert metrics["comparison"]["gain.mean"] != metrics["comparison"]["second_opinion.gain.mean"]
    assert {"nearest.id_score", "pca_inversion.id_score"} <= metrics["second_opinion"].keys()
    assert read_csv(world / "data/comparison/ladder.csv")["rung"].unique().tolist() == [
        "linear inversion",
        "mean",
        "nearest",
        "pca inversion",
        "photo",
        "vae inversion",
    ]


def test_held_out_people_are_those_in_the_folder(world):
    tensors, _ = read_pack(world / "data/portraits/photos.safetensors")
    manifest = read_csv(world / "data/portraits/manifest.csv")
    assert tensors["photos"].shape == (5, 3, 64, 64, 3)
    assert manifest.columns.tolist() == ["person", "split", "photo", "file", "face", "faces"]
    assert manifest["split"].tolist() == ["validation"] * 6 + ["test"] * 9
    assert (manifest["face"] == 1).all() and (manifest["faces"] == 1).all()
    quarantine = read_csv(world / "data/portraits/quarantine.csv")
    left_out = {f"Person {number}" for number in range(6)} - set(manifest["person"])
    assert len(left_out) == 1
    reasons = {(row["person"], row["file"]): row["reason"] for row in quarantine.to_dict("records")}
    others = read_csv(world / "data/portraits/others.csv")[["person", "file"]].values.tolist()
    assert ["", ".DS_Store"] in others
    for person in set(manifest["person"]) - {"Person 0", "Person 1"}:
        assert reasons[person, "0.png"] == "a copy of 0 (1).jfif"
        assert [person, "0.txt"] in others
        assert manifest["file"][manifest["person"] == person].tolist() == ["0 (1).jfif", "1.jpg", "2.png"]
    if "Person 1" not in left_out:
        assert reasons["Person 1", "00.jpg"] == "no picture; JPEG, PNG and WebP are read"
        assert manifest["file"][manifest["person"] == "Person 1"].tolist() == ["0.png", "1.jpg", "2.png"]


def test_inversions_are_of_each_person_and_load_elsewhere(world, sd15_base):
    pack, meta = read_pack(world / "data/inversions/pca/latents.safetensors")
    assert pack["z"].shape == (3, 3) and len(pack["z"].unique(dim=0)) == 3
    assert sorted(path.stem for path in (world / "data/inversions/pca/loras").iterdir()) == sorted(meta["people"])
    pipe = load_pipeline(sd15_base)
    pipe.load_lora_weights(str(world / f"data/inversions/vae/loras/{meta['people'][0]}.safetensors"))
    assert len(pipe.get_active_adapters()) == 1
    assert len(list((world / ".scratch/invert").glob("latents-*"))) == 1  # by all spaces


def test_the_search_starts_at_what_pictures_of_the_zoo_tell(world):
    people = read_csv(world / "data/weights/people.csv")["role"].eq("zoo").sum()
    for space in METHODS:
        encoder = PhotoEncoder.load(world / f"data/photo_encoders/{space}.safetensors")
        assert encoder.matrix.shape == (4 * 8 * 8, 3)
        assert ((encoder.spread > 0.2) & (encoder.spread <= 1)).all()
    latents = list((world / ".scratch/photo_encoder").glob("*/*.safetensors"))
    assert len(latents) == 1  # by all spaces
    assert read_pack(latents[0])[0]["latents"].shape == (min(people, 6), 2, 4, 8, 8)


def test_report_tells_what_it_leaves_out(world):
    html = (world / "reports/index.html").read_text()
    assert "Left out, because the held-out people's photos are from a folder" in html
    assert "invented and rendered" not in html and "miniature world" not in html
    figures = {path.stem for path in (world / "reports/figures").glob("*.png")}
    assert {"people", "inversion", "inversion_vae", "interpolation", "sampling_pca", "ladder"} <= figures
    assert not {"true_loras", "reconstruction", "latent_space"} & figures
    assert all(f"figures/{name}.png" in html for name in figures)


def test_text_encoder_and_tokenizer_are_read_whole_from_older_files(sd15_base):
    pipe = load_pipeline(sd15_base)
    assert pipe.tokenizer("a photo of sks person").input_ids[2:4] != pipe.tokenizer("sks person").input_ids[2:4]
    assert len(pipe.tokenizer("a photo of sks person").input_ids) == 7
    published = load_file(sd15_base / "text_encoder/model.safetensors")
    assert sum(parameter.numel() for parameter in pipe.text_encoder.parameters()) == sum(
        tensor.numel() for key, tensor in published.items() if not key.endswith("position_ids")
    )
    for name, parameter in pipe.text_encoder.named_parameters():
        assert torch.equal(parameter, published[f"text_model.{name.removeprefix('text_model.')}"])


def test_pictures_are_of_different_people(world):
    sampled, _ = read_pack(world / "data/samples/vae/pictures.safetensors")
    inverted, _ = read_pack(world / "data/evaluations/pca/pictures.safetensors")
    drawn, _ = read_pack(world / "data/references/pictures.safetensors")
    for pictures in (sampled["pictures"][:, 0], inverted["inversion"], drawn["nearest"]):
        assert (pictures[0].int() - pictures[1].int()).abs().max() > 1
    assert (drawn["mean"][0] == drawn["mean"][1]).all()


def test_base_model_stays_where_it_is(world, sd15_base):
    assert [path.name for path in (world / "data/base").iterdir()] == [REFERENCE]
    assert read_json(world / "data/base" / REFERENCE)["folder"] == str(sd15_base)


def test_a_base_model_that_was_changed_or_moved_is_refused(tmp_path, sd15_base):
    copy = shutil.copytree(sd15_base, tmp_path / "copy")
    refer_to_model(str(copy), None, tmp_path / "base")
    assert load_pipeline(tmp_path / "base").unet.config.sample_size == 8
    weights = copy / "unet/diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"unet/diffusion_pytorch_model.safetensors: not of the size.*repro -f base"):
        load_pipeline(tmp_path / "base")
    weights.unlink()
    with pytest.raises(InputError, match=r"no such file, but .*pretrained.json refers to it"):
        load_pipeline(tmp_path / "base")
    (tmp_path / "base" / REFERENCE).write_text("{}")
    with pytest.raises(InputError, match="no reference to a base model"):
        load_pipeline(tmp_path / "base")


@pytest.fixture
def settings_of(tmp_path, world, sd15_base, sd15_clip, monkeypatch):
    """asked(setting, ...) gives the settings of the miniature profile with some of them changed; nothing is missing."""
    monkeypatch.setenv("INSIGHTFACE_HOME", str(world))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def ask(*settings: str) -> Params:
        shutil.copy(ROOT / "params.yaml", tmp_path)
        apply_profile(
            PROFILE,
            tmp_path / "params.yaml",
            [
                *TINY,
                f"base.model={sd15_base}",
                f"collect.path={world / 'loras'}",
                f"portraits.path={world / 'photos'}",
                f"evaluate.clip={sd15_clip}",
                *settings,
            ],
        )
        return load_params(tmp_path / "params.yaml")

    return ask


def test_nothing_is_missing(settings_of):
    check_sources(settings_of())


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (
            "base.model=someone/model",
            r"base.model: .*HF_HUB_OFFLINE is set.*hf download someone/model --local-dir models/model` and give",
        ),
        ("base.model=/no/where", r"base.model: no such folder: /no/where"),
        ("base.model=photos/..", r"base.model: no such folder"),
        ("collect.path=/no/where", r"collect.path: no such folder"),
        ("{collect: {source: w2w, path: null}}", r"hf download Snapchat/weights2weights"),
        ("portraits.path=/no/where", r"/no/where: cannot be read .*sub-folder of photos for each person"),
        ("recognizer=insightface:buffalo_l", r"buffalo_l: no ONNX file in .*models/buffalo_l.*/buffalo_l\.zip into"),
        ("second_recognizer=insightface:buffalo_l", r"buffalo_l\.zip into"),
        ("faces=insightface:buffalo_l", r"buffalo_l\.zip into"),
        ("faces=insightface:net.onnx", r"faces: unknown face finder"),
        ("evaluate.clip=openai/clip-vit-large-patch14", r"evaluate.clip: .*hf download openai/clip.* --revision x "),
    ],
)
def test_what_is_missing_is_one_clear_error(settings_of, setting, words):
    settings = [setting]
    if setting.startswith("{"):
        settings = [
            f"{section}.{key}={json.dumps(value)}"
            for section, keys in yaml.safe_load(setting).items()
            for key, value in keys.items()
        ]
    with pytest.raises(InputError) as caught:
        check_sources(settings_of(*settings))
    error = in_params(caught.value) if isinstance(caught.value, ArgumentError) else caught.value
    assert re.search(words, str(error))
    assert "\n" not in str(error) and error.remedy


def test_folders_may_be_given_from_home(settings_of, world, monkeypatch):
    monkeypatch.setenv("HOME", str(world))
    check_sources(settings_of("collect.path=~/loras", "portraits.path=~/photos"))


def test_loose_photos_are_refused_by_the_first_stage(tmp_path, settings_of, monkeypatch):
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat/0.jpg").write_bytes(b"\xff\xd8\xff")
    settings_of("portraits.path=flat")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["settings.py"])
    with pytest.raises(SystemExit, match=r"lie loose.*: 1, such as 0\.jpg\. Put the photos .*flat/anna/1\.jpg"):
        runpy.run_path(str(ROOT / "stages/settings.py"), run_name="__main__")


def test_a_model_that_is_not_whole_names_the_setting_and_the_file(tmp_path):
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet/config.json").write_text("{}")
    with pytest.raises(ArgumentError) as caught:
        find_model(str(tmp_path), None, ("unet/config.json", "unet/*.safetensors"), BaseParams)
    words = r"^params.yaml: base.model: no unet/\*\.safetensors in .*, so this is not all of the model\. .* that folder"
    assert re.match(words, str(in_params(caught.value)))


def test_zoo_people_are_seen_through_their_loras(pipe, layout, draw_weights, params):
    zoo = SimpleNamespace(rows=lambda rows: draw_weights(layout, 5)[rows])
    data = SimpleNamespace(layout=layout, zoo=zoo, names=lambda _: ["a", "a", "b", "c", "d"])
    portraits, rows = draw_zoo(
        pipe,
        data,
        params.evaluate.model_copy(update={"class_samples": 3}),
        params.generate.model_copy(update={"inference_steps": 1}),
    )
    assert rows == [0, 3, 4] and portraits.names == ["a", "c", "d"]
    assert portraits.images.shape == (3, 1, 32, 32, 3)
    assert portraits.manifest["person"].tolist() == portraits.names


def test_photos_of_another_size_than_the_base_model_draws(sd15_base):
    pipe = load_pipeline(sd15_base)
    check_photo_size(pipe, torch.zeros(1, 64, 64, 3))
    with pytest.raises(InputError, match=r"32 x 32 pixels, but the base model draws 64 x 64.*portraits.photo_size"):
        check_photo_size(pipe, torch.zeros(1, 32, 32, 3))
