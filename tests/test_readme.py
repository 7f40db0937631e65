"""The README's numbers equal those in metrics/."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
from dvc.utils.hydra import apply_overrides

from w2wpp.report.page import markdown
from w2wpp.run.params import load_params
from w2wpp.spaces.registry import METHODS

ROOT = Path(__file__).parents[1]


def test_readme_shows_the_metrics():
    metrics = {name: json.loads((ROOT / f"metrics/{name}.json").read_text()) for name in ("comparison", *METHODS)}
    expected = markdown(metrics.pop("comparison"), metrics, load_params(ROOT / "params.yaml").split)
    assert expected in (ROOT / "README.md").read_text(), f"paste this into README.md:\n{expected}"


def test_findings_show_the_gains_by_dimension():
    sweep = pd.read_csv(ROOT / "data/sweep/dimensions.csv").query("variant == 'VAE' and seed == 0")
    gains = sweep.pivot(index="latent_dim", columns="recognizer")

    def cell(latent_dim: int, gain: str) -> str:
        return " / ".join(
            f"**{mean:+.3f}**" if low > 0 else f"{mean:+.3f}"
            for mean, low in (
                gains.loc[latent_dim, [(gain, judge), (f"{gain}_low", judge)]] for judge in ("dlib", "arcface")
            )
        )

    table = "\n".join(f"| {k} | {cell(k, 'gain')} | {cell(k, 'nonlinear')} |" for k in (8, 16, 32, 64, 128, 256))
    assert table in (ROOT / "docs/explanation/findings.md").read_text(), f"paste this into findings.md:\n{table}"


def test_readme_names_every_stage():
    readme = (ROOT / "README.md").read_text()
    assert [stage.stem for stage in (ROOT / "stages").glob("*.py") if f"`{stage.stem}`" not in readme] == []


@pytest.mark.parametrize("page", ["README.md", "docs/explanation/experiments.md", "docs/how-to/machines.md"])
def test_settings_of_commands_are_settings(page, tmp_path):
    shipped = (ROOT / "params.yaml").read_text()
    commands = re.findall(r"(?:-S \S+=\S+ ?)+", (ROOT / page).read_text())
    assert commands
    for command in commands:
        (tmp_path / "params.yaml").write_text(shipped)
        apply_overrides(tmp_path / "params.yaml", re.findall(r"""-S ["']?([^\s`"']+)""", command))
        assert load_params(tmp_path / "params.yaml") != load_params(ROOT / "params.yaml")


def test_latent_dims_that_the_readme_asks_for_fit_the_shipped_zoo():
    people = (pd.read_csv(ROOT / "data/zoo/manifest.csv")["role"] == "zoo").sum()
    dimensions = re.findall(r"latent_dim=(\d+)", (ROOT / "README.md").read_text())
    assert dimensions
    assert all(int(latent_dim) < people for latent_dim in dimensions)
