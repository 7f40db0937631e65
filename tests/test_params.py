"""params.yaml: the committed file loads, and every fault is refused with the key and a remedy."""

import pytest
import yaml

from w2wpp.diffusion.dreambooth import DreamBoothParams
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.run.params import Params, in_params, load_params
from w2wpp.spaces.vae_training import KLParams


@pytest.fixture
def write(params, tmp_path):
    """write(key, value) writes the committed settings with one of them changed (dotted key), or removed (None)."""

    def write(key: str, value: object):
        content = params.model_dump(mode="json")
        *path, last = key.split(".")
        section = content
        for part in path:
            section = section[part]
        if value is None:
            del section[last]
        else:
            section[last] = value
        file = tmp_path / "params.yaml"
        file.write_text(yaml.safe_dump(content))
        return file

    return write


def refusal(file) -> InputError:
    with pytest.raises(InputError) as caught:
        load_params(file)
    assert caught.value.where == str(file)
    assert "\n" not in str(caught.value)
    return caught.value


def test_committed_params_load(params):
    assert params.lora.targets[:2] == ["proj_in", "proj_out"]
    assert tuple(params.base.codec.widths) == (96, 160)
    assert isinstance(params.collect.lr, float)
    with pytest.raises(ValueError, match="frozen"):
        params.seed = 1


def test_changed_value_is_read(write):
    assert load_params(write("vae.kl.schedule", "cyclical")).vae.kl.schedule == "cyclical"
    assert load_params(write("collect.lr", 1)).collect.lr == 1.0
    assert load_params(write("recognizer", "insightface:my/arcface.onnx")).recognizer == "insightface:my/arcface.onnx"
    assert load_params(write("second_recognizer", "insightface:buffalo_l")).faces == "dlib"


@pytest.mark.parametrize(
    "key", ["collect.path", "portraits.path", "base.model", "evaluate.clip", "recognizer", "second_recognizer"]
)
def test_home_is_found_wherever_a_path_is_asked_for(write, monkeypatch, key):
    monkeypatch.setenv("HOME", "/home/jo")
    kind, end = ("insightface:", ".onnx") if "recognizer" in key else ("", "")

    def read(path: str) -> str:
        value = load_params(write(key, kind + path + end))
        for part in key.split("."):
            value = getattr(value, part)
        return value

    assert read("~/my photos") == f"{kind}/home/jo/my photos{end}"
    for path in ("my/~/photos", "/mnt/photos", "author/model"):
        assert read(path) == kind + path + end


@pytest.mark.parametrize("number", ["1e-3", "1E-3", "1.0e-3", "0.001", ".001"])
def test_numbers_may_be_written_as_people_write_them(write, number):
    file = write("collect.lr", 0.125)
    file.write_text(file.read_text().replace("0.125", number))
    assert load_params(file).collect.lr == 1e-3


def test_a_key_that_is_there_twice(write):
    file = write("space", "vae")
    file.write_text(file.read_text() + "space: pca\n")
    assert 'duplicate key "space"' in refusal(file).reason


def test_mistyped_key_lists_the_known_ones(write):
    error = refusal(write("vae.kl.wieght", 0.1))
    assert error.key == "vae.kl.wieght"
    assert error.reason == "unknown key"
    assert error.remedy == "Did you mean weight? Known keys here: schedule, weight, warmup, cycles"


def test_a_misspelt_key_is_named_and_not_the_missing_one(write):
    file = write("vae.latent_dim", 64)
    file.write_text(file.read_text().replace("latent_dim:", "latentdim:"))
    error = refusal(file)
    assert error.key.endswith(".latentdim")
    assert error.remedy.startswith("Did you mean latent_dim?")


@pytest.mark.parametrize("key", ["recognizer", "second_recognizer", "faces"])
@pytest.mark.parametrize("spec", ["dlb", "insightface:", "insightface:models/buffalo_l", "insightface", "", 3])
def test_unknown_recognisers(write, key, spec):
    error = refusal(write(key, spec))
    assert error.key.startswith(key)
    assert repr(spec) in error.reason


def test_faces_are_not_found_by_a_recogniser_alone(write):
    assert "unknown face finder" in refusal(write("faces", "insightface:arcface.onnx")).reason


def test_heads_share_the_hidden_size(write):
    assert "multiple of base.text.heads" in refusal(write("base.text.heads", 3)).reason


def test_empty_region(write):
    error = refusal(write("invert.region", [0.5, 0.0, 0.5, 1.0]))
    assert error.key.startswith("invert.region")
    assert "must not be empty" in error.reason
    assert "params.yaml" in error.remedy


def test_unknown_section(write):
    error = refusal(write("inverts", {"steps": 3}))
    assert error.key == "inverts"
    assert "portraits, base, lora" in error.remedy


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("engine.kind", "slurm", "'local' or 'ray'"),
        ("engine.gpus_per_task", 2.0, "less than or equal to 1"),
        ("engine.retries", -1, "greater than or equal to 0"),
        ("collect.lr", "fast", "'fast'"),
        ("collect.steps", 1.5, "1.5"),
        ("collect.steps", True, "True"),
        ("lora", 3, "3"),
        ("lora.targets", "to_q", "'to_q'"),
        ("base.codec.widths.0", 12, "multiple of 8"),
        ("lora.targets", ["to_q", "to_x"], "'to_x'"),
        ("lora.rank", 0, "greater than or equal to 1"),
        ("vae.lr", 0.0, "greater than 0"),
        ("vae.lr", float("nan"), "nan"),
        ("flatten.max_quarantined", 1.01, "less than or equal to 1"),
        ("portraits.size", 60, "multiple of 8"),
        ("space", "umap", "pca, linear, vae"),
        ("collect.source", "hub", "'zoo', 'w2w' or 'folder'"),
        ("collect.path", "", "at least 1 character"),
        ("collect.held_out", 0.5, "less than 0.5"),
        ("generate.guidance", 0.5, "greater than or equal to 1"),
        ("generate.dtype", "float16", "'float32' or 'bfloat16'"),
        ("invert.mask", "mouth", "'none' or 'face'"),
        ("base.source", "hub", "'trained' or 'pretrained'"),
        ("portraits.photo_size", 500, "multiple of 8"),
    ],
)
def test_wrong_value(write, key, value, says):
    if key.endswith(".0"):
        file, value = write(key[:-2], [value, 96]), value
    else:
        file = write(key, value)
    error = refusal(file)
    assert error.key.startswith(key)
    assert says in error.reason
    assert str(value) in error.reason or "got" in error.reason
    assert "params.yaml" in error.remedy


@pytest.mark.parametrize("key", ["seed", "vae", "base.text.hidden"])
def test_a_missing_key_has_its_default(write, params, key):
    assert load_params(write(key, None)) == params


def test_shipped_settings_are_the_defaults(params):
    assert params == Params()


def test_a_list_that_is_too_short(write):
    error = refusal(write("base.codec.widths", [96]))
    assert (error.key, error.reason) == ("base.codec.widths.1", "key missing")
    assert "Restore" in error.remedy


def test_an_error_about_an_argument_names_the_key_of_its_section():
    error = in_params(ArgumentError(KLParams, "warmup", "too long", "Shorten it"))
    assert str(error) == "params.yaml: vae.kl.warmup: too long. Shorten it"
    assert in_params(ArgumentError(DreamBoothParams, "steps", "too few")).key == "collect.steps"
    assert in_params(ArgumentError(None, "faces", "unknown")).key == "faces"


def test_too_few_portraits(write):
    error = refusal(write("portraits.photos", 9))
    assert error.key == "portraits.photos"
    assert "collect.photos + portraits.score_photos" in error.reason


def test_no_photo_that_a_person_is_found_by_is_scored_against(write):
    assert load_params(write("invert.photos", 8)).invert.photos == 8
    content = yaml.safe_load(write("invert.photos", 8).read_text())
    content["collect"]["photos"], content["portraits"]["photos"] = 2, 11
    file = write("seed", 0)
    file.write_text(yaml.safe_dump(content))
    error = refusal(file)
    assert error.key == "invert.photos" and "portraits.photos - portraits.score_photos" in error.reason


def test_what_loras_of_one_person_differ_by_takes_people_who_have_two(write):
    error = refusal(write("collect.repeated", 1))
    assert "pca.within_person_ridge" in str(error) and "null" in str(error)


def test_more_repeated_than_people(write, params):
    error = refusal(write("collect.repeated", params.collect.people + 1))
    assert error.key == "collect"
    assert f"at most collect.people ({params.collect.people})" in error.reason


def test_shares_of_captions_beyond_one(write):
    error = refusal(write("base.denoiser.caption_dropout", 0.9))
    assert error.key == "base.denoiser"
    assert "caption_dropout, class_prompt and name_prompt" in error.reason


def test_missing_file(tmp_path):
    assert refusal(tmp_path / "absent.yaml").reason == "no such file"


@pytest.mark.parametrize("content", [b"seed: [1, 2", b"seed: 1\n\tlora: 2", b"\xff\xfe\x00", b"", b"- 1\n- 2\n", b"7"])
def test_bad_yaml(tmp_path, content):
    file = tmp_path / "params.yaml"
    file.write_bytes(content)
    error = refusal(file)
    assert error.key is None
    assert error.reason
