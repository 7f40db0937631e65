"""Trials that take minutes each, and a record of the finished ones."""

import json
from collections.abc import Callable
from pathlib import Path

from w2wpp.storage import read_json, write_json


def run_trials(record: Path, setting: dict, trials: dict[str, Callable[[], dict]]) -> dict[str, dict]:
    """Results by trial, in the order of `trials`; those that `record` has for the same setting are not run again.

    Args:
        record: JSON file, written after each trial.
        setting: JSON-able, what all results depend on.
        trials: each gives a JSON-able result.
    """
    setting = json.loads(json.dumps(setting))
    before = read_json(record) if record.exists() else {}
    results = before["results"] if before.get("setting") == setting else {}
    for name, trial in trials.items():
        if name not in results:
            results[name] = trial()
            write_json(record, {"setting": setting, "results": results})
    return {name: results[name] for name in trials}
