"""docs/sweep.md says what the shipped sweep found."""

from pathlib import Path

import pandas as pd

from w2wpp.report.scores import SWEEPS
from w2wpp.report.sweep_page import page, table

ROOT = Path(__file__).resolve().parents[1]


def test_docs_show_the_shipped_sweep():
    lines = {name: pd.read_csv(ROOT / f"data/sweep/{name}.csv") for name in SWEEPS}
    assert page(lines) == (ROOT / "docs/sweep.md").read_text(), "run python -m w2wpp.report.sweep_page"


def test_a_table_has_a_line_per_row_with_gains_by_both_recognisers():
    columns = [
        "recognizer",
        "variant",
        "latent_dim",
        "seed",
        "people",
        "id_score",
        "gain",
        "gain_low",
        "gain_high",
        "nonlinear",
        "nonlinear_low",
        "nonlinear_high",
    ]
    lines = pd.DataFrame(
        [
            ["dlib", "PCA", 8, 0, 9, 0.25, 0, 0, 0, -0.125, -0.25, 0],
            ["dlib", "VAE", 8, 1, 9, 0.5, 0.25, 0.125, 0.375, None, None, None],
            ["arcface", "PCA", 8, 0, 9, 0.125, 0, 0, 0, 0, 0, 0],
            ["arcface", "VAE", 8, 1, 9, 0.0625, -0.0625, -0.5, 0.5, 0.75, 0.625, 0.875],
        ],
        columns=columns,
    )
    assert table(lines, "latent_dim").splitlines()[2:] == [
        "| 8, PCA | 0.250 |  |  | 0.125 |  |  |",
        "| 8, VAE, training seed 1 | 0.500 | +0.250 (+0.125 to +0.375) |  | 0.062 | -0.062 (-0.500 to +0.500) | "
        "+0.750 (+0.625 to +0.875) |",
    ]
