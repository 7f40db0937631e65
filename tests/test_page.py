"""The page of the report: its verdict, its tables, and who is shown."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from jinja2 import UndefinedError

from w2wpp.files.errors import InputError
from w2wpp.report import page as report

ROOT = Path(__file__).resolve().parents[1]
ABOVE, BELOW, ACROSS, NONE = (0.01, 0.05), (-0.05, -0.01), (-0.02, 0.04), (0.0, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (ABOVE, ABOVE, "VAE ahead"),
        (BELOW, BELOW, "PCA ahead"),
        (ABOVE, ACROSS, "VAE ahead according to one recogniser of two"),
        (ACROSS, ABOVE, "VAE ahead according to one recogniser of two"),
        (NONE, BELOW, "PCA ahead according to one recogniser of two"),
        (ACROSS, ACROSS, "No difference is sure"),
        (BELOW, ABOVE, "No difference is sure"),
        (NONE, NONE, "No difference is sure"),
    ],
)
def test_headline_follows_both_intervals(first, second, verdict):
    gain, other = ({"low": low, "mean": (low + high) / 2, "high": high} for low, high in (first, second))
    plain = {"gain": gain, "people": 64, "people_better_with_vae": 0.55, "second_opinion": {"gain": other}}
    obeyed = {"id_obeyed": {"gain": gain, "people_better_with_vae": 0.55}, "people": 64, "gain": {}}
    obeyed |= {"second_opinion": {"id_obeyed": {"gain": other}, "gain": {}}}
    for comparison, measure in ((plain, "(ID score; "), (obeyed, "(ID score where prompts")):
        found, sentence = report.headline(comparison, "test")
        assert found == verdict
        assert "{:+.3f} to {:+.3f}".format(*first) in sentence and "64 unseen test people" in sentence
        assert "({:+.3f} to {:+.3f})".format(*second) in sentence and "55 %" in sentence and measure in sentence


def test_headline_of_unequal_spaces_has_no_gain():
    found, sentence = report.headline({}, "test", "512 dimensions of vae against 64 of pca")
    assert found == "Not compared"
    assert "512 dimensions of vae against 64 of pca" in sentence and "+" not in sentence


def test_spread_reaches_from_the_worst_to_the_best():
    values = pd.Series({"a": 0.3, "b": -1.0, "c": np.nan, "d": 0.9, "e": 0.1})
    assert report.spread(values, 2) == ["b", "d"]
    assert report.spread(values, 9) == ["b", "e", "a", "d"]
    assert report.spread(values[["c"]], 3) == []


def test_scores_without_faces_are_said_in_words():
    assert [report.score_text(score, -0.05) for score in (0.414, -0.05, np.nan)] == ["0.41", "no face", "\N{EN DASH}"]


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"metrics/pca\.json: inversion\.copying: metric missing"):
        report.measure_rows({"pca": {"inversion": {}}})
    with pytest.raises(InputError, match="person_gender"):
        report.people_factors(pd.DataFrame({"person": ["a"]}))
    with pytest.raises(UndefinedError):
        report.render_html({})


def test_world_rows_show_what_was_measured():
    rows = report.world_rows({"world": {"face_found": 0.98765}, "zoo": {"people": 2000, "variance": {"within": 0.5}}})
    assert [row["value"] for row in rows] == ["0.988", "2,000", "0.500"]
    assert report.world_rows({}) == []


def test_world_rows_tell_how_fast_loras_train():
    throughput = json.loads((ROOT / "benchmarks/batched_training.json").read_text())
    rows = report.world_rows({"throughput": throughput})
    speeds = throughput["people_per_minute"]
    shown = [f"{speeds[method]:,.0f}" for method in ("one at a time", "8 together", "32 together", "64 together")]
    assert [row["value"] for row in rows] == [str(throughput["steps"]), str(throughput["threads"]), *shown]
