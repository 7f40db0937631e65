"""Curves of identity over copying are compared where both copy as much, and nowhere else."""

import numpy as np
import pytest
from refinement_trials import CURVES, gain_at_equal_copying, table


@pytest.fixture
def curves():
    """Two curves of 40 people: the first lies 0.1 above the second, and each person off by their own amount in both."""
    person = np.random.default_rng(0).normal(0, 0.2, 40)
    copying = np.array([0.6, 0.2, 0.4])[:, None] + 0 * person
    ours = np.array([0.5, 0.3, 0.38])[:, None] + person
    return np.stack([copying, ours]), np.stack([copying, ours - 0.1])


def test_the_gain_is_paired_by_person(curves):
    for copying in (0.25, 0.3, 0.55):
        assert gain_at_equal_copying(*curves, copying, 200) == pytest.approx((0.1, 0.1, 0.1))


def test_a_curve_that_is_further_along_is_compared_at_equal_copying(curves):
    """The same line, of which one curve has other points: no gain, though each of its points is higher."""
    line = np.array([[0.2, 0.4], [0.3, 0.5]])[:, :, None] + np.zeros(5)
    further = np.array([[0.3, 0.6], [0.4, 0.7]])[:, :, None] + np.zeros(5)
    assert gain_at_equal_copying(further, line, 0.35, 50) == pytest.approx((0, 0, 0))


def test_intervals_cover_what_people_differ_by(curves):
    ours, theirs = curves
    theirs = theirs.copy()
    theirs[1] += np.random.default_rng(1).normal(0, 0.3, 40)
    gain, low, high = gain_at_equal_copying(ours, theirs, 0.4, 500)
    error = 0.3 / 40**0.5
    assert low < gain < high and 2.5 * error < high - low < 5.5 * error


def test_no_gain_beyond_a_curve(curves):
    with pytest.raises(ValueError, match=r"does not reach copying 0\.7"):
        gain_at_equal_copying(*curves, 0.7, 20)


def test_the_page_compares_curves_where_both_reach():
    """Pictures of ten people, by trials that copy more with every step; the VAE's curve lies 0.05 higher."""
    people = np.random.default_rng(0).normal(0, 0.1, 10)

    def result(copying: float, identity: float) -> dict:
        measures = {"copying": (copying + 0 * people).tolist(), "id_obeyed": (identity + people).tolist()}
        measures |= {"variety": [0.5] * 10, "prompt_accuracy": [0.9] * 10}
        return {"dlib": measures, "arcface": measures, "losses": {"others": [1.0] * 10, "input": [1.0] * 10}}

    results = {}
    for name, trials in CURVES.items():
        for place, trial in enumerate(trials):
            copying = 0.1 + 0.1 * place
            results[trial] = result(copying, copying + (0.05 if name == "VAE" else 0.0))
    page = table(results, 10)
    rows = [line for line in page.splitlines() if line.startswith("| VAE over")]
    assert len(rows) == 8 and all(row.count("+0.050 (+0.050 to +0.050)") == 2 for row in rows)
    assert "| mean + 10 |" in page and "0.0 ± 0.0" in page
