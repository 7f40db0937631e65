"""Scores of the sweep's rows as lines of a table; tests/test_pipeline.py runs rows."""

import numpy as np
import pandas as pd
import pytest

from w2wpp.evaluation.sweep_rows import Row
from w2wpp.evaluation.sweep_tables import compared


def test_gains_are_over_rows_of_equal_dimension_and_people():
    people = [f"p{i}" for i in range(40)]
    draw = np.random.default_rng(0)
    rows = [
        Row("pca", "PCA", 8, 100),
        Row("linear", "function-weighted PCA", 8, 100),
        Row("vae", "VAE", 8, 100, seed=1),
        Row("vae", "VAE", 8, 50),
    ]
    scores = {row: {name: pd.Series(draw.normal(size=40), people) for name in ("dlib", "arcface")} for row in rows}
    # People are matched by name, in any order.
    scores[rows[0]]["dlib"] = scores[rows[0]]["dlib"].iloc[::-1]
    lines = compared(scores, 200).set_index(["recognizer", "variant", "people"])
    assert len(lines) == 8 and set(lines["seed"]) == {0, 1}
    for name in ("dlib", "arcface"):
        line = lines.loc[name, "VAE", 100]
        vae, pca, linear = (scores[row][name] for row in (rows[2], rows[0], rows[1]))
        assert line["id_score"] == pytest.approx(vae.mean(), abs=1e-4)
        assert line["gain"] == pytest.approx((vae - pca).mean(), abs=1e-4)
        assert line["nonlinear"] == pytest.approx((vae - linear).mean(), abs=1e-4)
        # An interval over 40 people is about two standard errors to each side.
        error = (vae - pca).std() / 40**0.5
        assert line["gain_high"] - line["gain_low"] == pytest.approx(4 * error, rel=0.2)
        assert lines.loc[name, "PCA", 100][["gain", "gain_low", "gain_high"]].tolist() == [0, 0, 0]
        assert lines.loc[name, "VAE", 50][["gain", "nonlinear"]].isna().all()
