"""Finished trials are run again only if their inputs have changed."""

import pytest
from trials import run_trials

from w2wpp.files.errors import InputError


@pytest.fixture
def run(tmp_path):
    """run(setting, **changes): results by trial, and the names of the trials that were run."""

    def run(setting, **changes):
        ran = []

        def trial(name):
            ran.append(name)
            if changes[name] == "fails":
                raise KeyboardInterrupt
            return {"score": len(name)}

        trials = {name: (change, lambda name=name: trial(name)) for name, change in changes.items()}
        return run_trials(tmp_path / "trials.json", setting, trials), ran

    return run


def test_finished_trials_are_not_run_again(run):
    first = run({"seed": 0}, shipped=None, wide={"rank": (2, 3)})
    assert first == ({"shipped": {"score": 7}, "wide": {"score": 4}}, ["shipped", "wide"])
    results, ran = run({"seed": 0}, wide={"rank": (2, 3)}, other=1, shipped=None)
    assert list(results) == ["wide", "other", "shipped"]
    assert ran == ["other"]


def test_a_changed_trial_is_run_again(run):
    run({"seed": 0}, shipped=None, wide={"rank": 2})
    assert run({"seed": 0}, shipped=None, wide={"rank": 3})[1] == ["wide"]


def test_trials_before_an_interruption_are_kept(run):
    with pytest.raises(KeyboardInterrupt):
        run({"seed": 0}, shipped=None, wide="fails")
    assert run({"seed": 0}, shipped=None, wide=2)[1] == ["wide"]


@pytest.mark.parametrize("other", [{"seed": 1, "people": 16}, {"seed": 1}, {"seed": 1, "people": 16, "base": "b"}])
def test_a_record_of_another_setting_is_neither_used_nor_overwritten(run, other):
    first = run({"seed": 0, "people": 16}, shipped=None)
    with pytest.raises(InputError, match=r"trials\.json: setting: was made with another .*seed.*\. Delete it"):
        run(other, shipped=None)
    assert run({"seed": 0, "people": 16}, shipped=None) == (first[0], [])
