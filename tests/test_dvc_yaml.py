"""dvc.yaml declares the code that each stage runs, and the spaces of the registry."""

from pathlib import Path

import pytest
import yaml
from imports import ROOT, imported, reached

from w2wpp.spaces.registry import METHODS

DVC = yaml.safe_load((ROOT / "dvc.yaml").read_text())
# Stages of hours, whose outputs are in git, declare single modules. They leave out modules that no result depends on:
# storage, batches, and readers of models and LoRAs from elsewhere. Otherwise a change there would require training the
# base model or the zoo again.
HOURS = ("base", "collect", "probe", "restorer", "arcface")
WITHOUT_RESULTS = (
    "w2wpp/files",
    "w2wpp/ingest",
    "w2wpp/evaluation",
    "w2wpp/compute/batches.py",
    "w2wpp/compute/engine.py",
    "w2wpp/compute/ray_engine.py",
    "w2wpp/compute/resume.py",
    "w2wpp/compute/runtime.py",
    "w2wpp/diffusion/hub.py",
    "w2wpp/diffusion/pretrained.py",
    "w2wpp/faces/portraits.py",
    "w2wpp/lora/products.py",
    "w2wpp/lora/rank_reduction.py",
)
# The sweep takes hours and uses nearly all code: it declares its own modules, and relies on versions for the rest.
OWN = {"sweep": {"w2wpp/evaluation/sweep_rows.py", "w2wpp/evaluation/sweep_tables.py", "w2wpp/run/sweep.py"}}


def script(stage: dict) -> Path:
    return Path(stage["cmd"].split()[1])


def code(stage: dict) -> set[str]:
    return {each for each in stage["deps"] if each.startswith("w2wpp/") and each != "w2wpp/run"}


@pytest.mark.parametrize("name", DVC["stages"])
def test_a_stage_declares_the_code_that_it_runs(name):
    stage = DVC["stages"][name]
    assert str(script(stage)) in stage["deps"]
    modules = {module.as_posix() for module in reached(script(stage))}
    if name in OWN:
        assert code(stage) == OWN[name] <= {module.as_posix() for module in imported(script(stage))}
    elif name in HOURS:
        assert code(stage) == {module for module in modules if not module.startswith(WITHOUT_RESULTS)}
    else:
        assert code(stage) == {"/".join(module.split("/")[:2]) for module in modules}


def test_settings_are_checked_by_the_code_that_is_declared():
    assert "w2wpp/run" in DVC["stages"]["settings"]["deps"]


def test_the_spaces_are_those_of_the_registry():
    assert DVC["vars"] == [{"spaces": list(METHODS)}]
    assert all(name in DVC["stages"] for name in METHODS)


@pytest.mark.parametrize("name", ["second_opinion", "compare", "report"])
def test_what_compares_spaces_reads_all_of_them(name):
    deps = DVC["stages"][name]["deps"]
    for folder in {Path(each).parent.as_posix() for each in deps if Path(each).stem in METHODS}:
        assert {Path(each).stem for each in deps if Path(each).parent.as_posix() == folder} >= set(METHODS)
