"""A sweep is valid only beside results of its own settings."""

import json
from pathlib import Path

import pandas as pd
import pytest

from w2wpp.evaluation.sweep_record import RECORD, read_sweep, record
from w2wpp.evaluation.sweep_rows import fits, tables
from w2wpp.files.errors import InputError
from w2wpp.files.settings import with_changes
from w2wpp.files.storage import read_json, write_csv, write_json
from w2wpp.report.scores import SWEEPS

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = [ROOT / "data" / name for name in ("base", "zoo", "arcface/arcface.onnx")]
GAINS = pd.DataFrame(
    [
        {
            "recognizer": recognizer,
            "variant": variant,
            "latent_dim": k,
            "seed": seed,
            "gain": gain,
            "gain_low": gain - 0.1,
            "gain_high": gain + 0.1,
        }
        for recognizer, gain in (("dlib", 0.25), ("arcface", 0.5))
        for k in (64, 8)
        for variant, seed in (("PCA", 0), ("VAE", 0), ("VAE", 1))
    ]
)


@pytest.fixture
def world(tmp_path) -> list[Path]:
    """Base model, zoo of two people, and network of a second recogniser, with the parts that a sweep's record reads."""
    write_csv(
        tmp_path / "zoo/manifest.csv",
        [
            {"person": name, "role": role}
            for name, role in (("a", "zoo"), ("b", "zoo"), ("b", "zoo-again"), ("c", "true"))
        ],
    )
    (tmp_path / "base").mkdir()
    (tmp_path / "base/unet").write_bytes(b"unet")
    (tmp_path / "arcface.onnx").write_bytes(b"network")
    return [tmp_path / name for name in ("base", "zoo", "arcface.onnx")]


@pytest.fixture
def sweep(tmp_path, world, params) -> Path:
    """A sweep of this world with the shipped settings."""
    write_csv(tmp_path / "sweep/dimensions.csv", GAINS)
    write_json(tmp_path / "sweep" / RECORD, record(params, *world, ["dimensions"]))
    return tmp_path / "sweep"


def edit(sweep: Path, key: str, value: object) -> None:
    content = read_json(sweep / RECORD)
    *path, last = key.split(".")
    section = content
    for part in path:
        section = section[part]
    if value is None:
        del section[last]
    else:
        section[last] = value
    write_json(sweep / RECORD, content)


def test_gains_by_dimension_are_those_of_the_first_training_seed(sweep, world, params):
    found = read_sweep(sweep, params, *world)
    assert found.names == ("dimensions",) and not found.left_out
    assert found.gain_at("dlib") == {"gain_at": {f"k{k}": {"mean": 0.25, "low": 0.15, "high": 0.35} for k in (8, 64)}}
    assert found.gain_at("arcface")["gain_at"]["k8"]["mean"] == 0.5


@pytest.mark.parametrize(
    "changes",
    [
        {"vae.latent_dim": 32},
        {"pca.latent_dim": 8},
        {"linear.latent_dim": 8},
        {"flatten.people": 256},
        {"vae.seed": 3},
        {"invert.people_at_once": 8},
        {"generate.batch": 16},
        {"space": "pca"},
        {"sample.people": 4},
    ],
)
def test_what_the_sweep_varies_or_does_not_see_is_no_difference(sweep, world, params, changes):
    found = read_sweep(sweep, with_changes(params, changes), *world)
    assert "k64" in found.gain_at("dlib")["gain_at"]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("recognizer", "insightface:buffalo_l", "recognizer.name ('dlib' there, 'insightface:buffalo_l' here)"),
        ("second_recognizer", "dlib", "second_recognizer.name ('arcface' there, 'dlib' here)"),
        ("invert.steps", 100, "invert.steps (50 there, 100 here)"),
        ("vae.kl.weight", 0.1, "vae.kl.weight (0.01 there, 0.1 here)"),
        ("linear.inputs", 16, "linear.inputs (32 there, 16 here)"),
        ("pca.within_person_ridge", None, "pca.within_person_ridge (1.0 there, None here)"),
        ("evaluate.seeds", 2, "evaluate.seeds (4 there, 2 here)"),
    ],
)
def test_a_sweep_of_other_settings_is_left_out_and_says_why(sweep, world, params, key, value, words):
    found = read_sweep(sweep, with_changes(params, {key: value}), *world)
    assert found.names == () and found.gain_at("dlib") == {}
    assert found.left_out.startswith("the sweep was made with another ") and words in found.left_out


def test_a_second_recogniser_that_was_trained_again_is_another(sweep, world, params):
    world[2].write_bytes(b"another network")
    assert "second_recognizer.sha256" in read_sweep(sweep, params, *world).left_out


def test_another_version_of_a_computation_leaves_the_sweep_out(sweep, world, params):
    edit(sweep, "versions.vae", 0)
    assert "versions.vae (0 there, 1 here)" in read_sweep(sweep, params, *world).left_out


def test_a_setting_that_is_newer_than_the_sweep_had_its_default(sweep, world, params):
    edit(sweep, "invert.captions", None)
    assert not read_sweep(sweep, params, *world).left_out
    changed = with_changes(params, {"invert.captions": True})
    assert "invert.captions (False there, True here)" in read_sweep(sweep, changed, *world).left_out
    edit(sweep, "invert.momentum", 0.9)
    assert "invert.momentum (0.9 there, None here)" in read_sweep(sweep, params, *world).left_out


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("zoo.people", 3),
        ("zoo.sha256", "0"),
        ("base.sha256", "0"),
        ("seed", 1),
        ("split", "test"),
        ("portraits.test", 64),
        ("generate.inference_steps", 20),
        ("sweep.dimensions", [8]),
    ],
)
def test_a_sweep_of_other_inputs_is_left_out_and_says_why(sweep, world, params, key, value):
    edit(sweep, key, value)
    found = read_sweep(sweep, params, *world)
    assert found.names == () and f"{key} ({value!r} there, " in found.left_out


def test_a_damaged_sweep_is_refused(sweep, world, params):
    write_csv(sweep / "dimensions.csv", GAINS[GAINS["recognizer"] == "dlib"])
    with pytest.raises(InputError, match=r"dimensions\.csv: recognizer: no rows of 'arcface'"):
        read_sweep(sweep, params, *world).gain_at("arcface")
    write_json(sweep / RECORD, {})
    with pytest.raises(InputError, match=r"settings\.json: tables: .*git checkout data/sweep"):
        read_sweep(sweep, params, *world)
    write_json(sweep / RECORD, {"tables": []})  # as of photos from a folder
    assert "base (None there" in read_sweep(sweep, params, *world).left_out


def test_the_shipped_sweep_is_of_the_shipped_settings(params):
    # It is older than the setting, and of test people.
    found = read_sweep(ROOT / "data/sweep", with_changes(params, {"split": "test"}), *SHIPPED)
    assert not found.left_out and set(found.names) == set(SWEEPS)
    other = read_sweep(ROOT / "data/sweep", params, *SHIPPED)
    assert other.left_out == "the sweep was made with another split ('test' there, 'validation' here)"
    assert "gain_at" not in json.loads((ROOT / "metrics/comparison.json").read_text())
    people = read_json(ROOT / "data/sweep" / RECORD)["zoo"]["people"]
    for name, rows in tables(params.sweep, people).items():
        assert all(fits(row, people) for row in rows)
        lines = pd.read_csv(ROOT / f"data/sweep/{name}.csv")
        assert sorted(lines[["recognizer", "variant", "latent_dim", "seed", "people"]].values.tolist()) == sorted(
            [recognizer, row.variant, row.latent_dim, row.seed, row.people]
            for recognizer in ("dlib", "arcface")
            for row in rows
        )
