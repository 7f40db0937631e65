"""Work in progress is found only by the same recipe and versions; recipes contain all settings that results need."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from imports import ROOT, stage_module
from trees import leaves

from w2wpp.compute import resume
from w2wpp.compute.resume import BUILDS_ON, VERSIONS, scratch_folder
from w2wpp.files.settings import Section
from w2wpp.world.base_model import build_pipeline
from w2wpp.world.drawing import photo_folder


@pytest.fixture
def names(tmp_path):
    """names() gives the folder's name of every task, by one recipe."""
    return lambda: {task: scratch_folder(tmp_path, task, seed=0).name for task in VERSIONS}


def another(value: object) -> object:
    """Another value of the same type; text if there is none."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return [*value, value[0]] if isinstance(value, list) else value[::-1] if isinstance(value, tuple) else f"{value}x"


def changed(settings: Section, key: str) -> Section:
    """Settings with another value under a dotted key."""
    first, _, rest = key.partition(".")
    value = getattr(settings, first)
    return settings.model_copy(update={first: changed(value, rest) if rest else another(value)})


def keys_that_matter(settings: Section, recipe_of) -> set[str]:
    """The dotted keys of settings that a recipe depends on."""
    return {key for key in leaves(settings.model_dump()) if recipe_of(changed(settings, key)) != recipe_of(settings)}


def test_the_folder_follows_task_and_recipe(tmp_path):
    recipe = {"seed": 0, "collect": {"steps": 3, "lr": 0.1}, "inputs": ["ab"]}
    folder = scratch_folder(tmp_path, "loras", **recipe)
    assert folder.is_dir() and folder.name.startswith("loras-")
    assert scratch_folder(tmp_path, "loras", **dict(reversed(recipe.items()))) == folder
    changes = [recipe | {"seed": 1}, recipe | {"inputs": ["ac"]}, recipe | {"collect": {"steps": 4, "lr": 0.1}}]
    others = {scratch_folder(tmp_path, "loras", **each) for each in changes}
    others.add(scratch_folder(tmp_path, "vae", **recipe))
    assert len(others | {folder}) == 5


@pytest.mark.parametrize("task", VERSIONS)
def test_a_raised_version_starts_all_that_builds_on_it_anew(task, names, monkeypatch):
    before = names()
    monkeypatch.setitem(resume.VERSIONS, task, VERSIONS[task] + 1)
    after = names()
    renewed = {other for other in VERSIONS if after[other] != before[other]}
    assert task in renewed
    assert renewed == {task, *(other for other, others in BUILDS_ON.items() if renewed & {*others})}


def test_photos_are_what_the_base_model_and_the_zoo_begin_with(names, monkeypatch):
    before = names()
    monkeypatch.setitem(resume.VERSIONS, "photos", VERSIONS["photos"] + 1)
    unchanged = {"predictions", "coordinates", "vae", "w2w"}
    assert {task for task in VERSIONS if names()[task] == before[task]} == unchanged


def test_a_comment_loses_nothing(tmp_path):
    shutil.copytree(ROOT / "w2wpp", tmp_path / "w2wpp", ignore=shutil.ignore_patterns("__pycache__"))
    for module in (tmp_path / "w2wpp").rglob("*.py"):
        module.write_text(f"{module.read_text('utf-8')}\n# A comment.\n", "utf-8")
    code = (
        "from w2wpp.compute import resume; from w2wpp.files import errors, splits; print(resume.__file__); "
        "print(resume.scratch_folder('work', 'loras', seed=0).name)"
    )
    module, name = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    ).stdout.split()
    assert Path(module) == tmp_path / "w2wpp/compute/resume.py"
    assert name == scratch_folder(tmp_path, "loras", seed=0).name


def test_photos_differ_by_seed_group_number_and_size(tmp_path):
    given = {"seed": 0, "group": "zoo", "photos": 3, "size": 64}
    others = [given, *(given | change for change in ({"seed": 1}, {"group": "base"}, {"photos": 4}, {"size": 32}))]
    assert len({photo_folder(tmp_path, **each) for each in others}) == 5


# Stages


def test_recipes_of_the_base_model(params):
    base, recipes = params.base, stage_module("base").recipes
    sections = {
        name: set(leaves(getattr(base, name).model_dump(), f"{name}."))
        for name in ("codec", "text", "unet", "denoiser")
    }
    codec = sections["codec"] | sections["unet"] | {"people", "photos", "text.hidden"}
    expected = {
        "codec": codec - {"codec.decoder_steps"},
        "decoder": codec,
        "denoiser": set().union(*sections.values(), {"people", "photos"}) - {"codec.decoder_steps"},
    }
    for task, keys in expected.items():
        assert keys_that_matter(base, lambda base, task=task: recipes(base, 0, 64)[task]) == keys
        assert len({str(recipes(base, *each)[task]) for each in ((0, 64), (1, 64), (0, 32))}) == 3


@pytest.mark.parametrize("change", [{"unet": {"channels": [32, 32]}}, {"text": {"hidden": 32}}])
def test_the_codec_depends_on_what_is_built_before_it(base_params, change):
    def codec(base):
        torch.manual_seed(0)
        return build_pipeline(base, 32, ["a", "photo"]).vae.state_dict()

    other = base_params.model_copy(
        update={section: getattr(base_params, section).model_copy(update=values) for section, values in change.items()}
    )
    assert not torch.equal(codec(base_params)["encoder.1.weight"], codec(other)["encoder.1.weight"])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("zoo", {"seed", "portraits.size", "photo_encoder.photos", "generate.dtype"}),
        ("folder", {"collect.source", "evaluate.class_samples", "evaluate.prompt"}),
    ],
)
def test_recipe_of_latents_of_zoo_people(params, source, expected):
    params = params.model_copy(update={"collect": params.collect.model_copy(update={"source": source})})
    recipe = stage_module("photo_encoder").recipe
    if source == "folder":
        expected = (expected | {f"generate.{key}" for key in params.generate.model_dump()}) - {"collect.source"}
    assert keys_that_matter(params, lambda params: recipe(params, "b", "w")) - {"collect.source"} == expected
    assert len({str(recipe(params, *hashes)) for hashes in (("b", "w"), ("c", "w"), ("b", "v"))}) == 3
