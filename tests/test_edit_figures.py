"""Sheets and curves of edits in the report."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.evaluation.editing import COLUMNS, MEASURES
from w2wpp.files.storage import write_pack
from w2wpp.report.edits import edit_sheet, editing_curves, together_sheet

SPACES = ("pca", "vae")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Sheets of two spaces: two people, three labels, five strengths; one pair of labels."""
    rng = torch.Generator().manual_seed(0)
    for space in SPACES:
        tensors = {
            "strengths": torch.randint(256, (2, 3, 5, 8, 8, 3), generator=rng, dtype=torch.uint8),
            "together": torch.randint(256, (1, 3, 3, 8, 8, 3), generator=rng, dtype=torch.uint8),
        }
        meta = {
            "people": ["sampled", "of the zoo"],
            "labels": ["sex", "age", "skin"],
            "strengths": [-4.0, -2.0, 0.0, 2.0, 4.0],
            "pairs": [["sex", "age"]],
            "three": [-4.0, 0.0, 4.0],
        }
        write_pack(tmp_path / space / "sheets.safetensors", tensors, meta)
    return tmp_path


def words(figure) -> list[str]:
    return [text.get_text() for axes in figure.axes for text in axes.texts]


def test_sheets_show_every_label_and_strength(folder):
    figure = edit_sheet(folder, "vae")
    assert len(figure.axes[0].images) == 2 * 3 * 5
    assert {"sex", "age", "skin", "sampled: -4, -2, 0, +2, +4"} <= set(words(figure))
    assert edit_sheet(folder, "linear") is None


def test_two_edits_together_have_three_rows_for_each_space(folder):
    figure = together_sheet(folder, SPACES)
    assert len(figure.axes[0].images) == 2 * 3 * 3
    assert "PCA (w2w)\n-4" in words(figure) and "sex down, age across" in {
        each.replace("\n", " ") for each in words(figure)
    }
    assert together_sheet(folder, (*SPACES, "linear")) is None


def test_curves_show_what_is_kept_at_each_flip_rate():
    def scores(slope: float) -> pd.DataFrame:
        rows = [
            ("inversion", f"p{p}", "old", strength, False, 0, float(p < 10 * strength), 1 - slope * strength, 0, 0.1, 0)
            for p in range(10)
            for strength in (0.0, 0.5, 1.0)
        ]
        rows += [("inversion", f"p{p}", "old", 1.0, True, 0, 0.8, 0.3, 0, 0.5, 0) for p in range(10)]
        return pd.DataFrame(rows, columns=[*COLUMNS, *MEASURES])

    figure = editing_curves({"pca": scores(0.4), "vae": scores(0.2)})
    kept, changed = figure.axes
    lines = {line.get_label(): line for line in kept.lines}
    rates = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(lines["PCA (w2w)"].get_xdata(), rates)
    np.testing.assert_allclose(lines["PCA (w2w)"].get_ydata(), 1 - 0.4 * rates)
    np.testing.assert_allclose(lines["VAE (w2w++)"].get_ydata(), 1 - 0.2 * rates)
    crosses = [
        (line.get_xdata(), line.get_ydata())
        for line in changed.lines
        if line.get_marker() == "x" and len(line.get_xdata())
    ]
    assert crosses == [([0.8], [0.5])] * 2
