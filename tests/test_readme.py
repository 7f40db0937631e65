"""The README's numbers are those in metrics/."""

import json
import re
from pathlib import Path

import pandas as pd

from w2wpp.report import markdown

ROOT = Path(__file__).parents[1]


def test_readme_shows_the_metrics():
    metrics = {name: json.loads((ROOT / f"metrics/{name}.json").read_text()) for name in ("comparison", "pca", "vae")}
    expected = markdown(metrics.pop("comparison"), metrics)
    assert expected in (ROOT / "README.md").read_text(), f"paste this into README.md:\n{expected}"


def test_readme_shows_the_gains_by_dimension():
    sweep = pd.read_csv(ROOT / "docs/sweep-dimensions.csv").query("variant == 'VAE' and seed == 0")
    gains = sweep.pivot(index="latent_dim", columns="recognizer", values=["gain", "nonlinear"])
    dimensions = [8, 16, 32, 64, 128, 256]
    shown = [[f"{gains.loc[k, (what, judge)]:+.3f}".replace("+0.000", "0.000") for what in ("gain", "nonlinear")
              for judge in ("dlib", "arcface")] for k in dimensions]
    table = "\n".join(f"| {k} | {a} / {b} | {c} / {d} |" for k, (a, b, c, d) in zip(dimensions, shown, strict=True))
    assert table in (ROOT / "README.md").read_text(), f"paste this into README.md:\n{table}"


def test_readme_names_every_stage():
    readme = (ROOT / "README.md").read_text()
    assert [stage.stem for stage in (ROOT / "stages").glob("*.py") if f"`{stage.stem}`" not in readme] == []


def test_latent_dims_that_the_readme_asks_for_fit_the_shipped_zoo():
    people = (pd.read_csv(ROOT / "data/zoo/manifest.csv")["role"] == "zoo").sum()
    asked = re.findall(r"latent_dim=(\d+)", (ROOT / "README.md").read_text())
    assert asked
    assert all(int(latent_dim) < people for latent_dim in asked)
