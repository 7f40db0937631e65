"""Trials of minutes each, and a record of the finished ones."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from measuring import ROOT

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_json, write_json


def trials_parser(description: str, name: str) -> argparse.ArgumentParser:
    """Common command line of all trials: --scratch, with this name by default, and --out."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch" / name, help="where renders are kept")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the page and the record")
    return parser


def run_trials(record: Path, setting: dict, trials: dict[str, tuple[object, Callable[[], dict]]]) -> dict[str, dict]:
    """Results by trial, in the order of `trials`; trials in `record` are not run again.

    Args:
        record: JSON file, written after each trial.
        setting: JSON-able; all results depend on it.
        trials: by name, the JSON-able changes of the setting, and a function that returns the JSON-able result.

    Raises:
        InputError: `record` is of another setting.
    """
    setting = json.loads(json.dumps(setting))
    before = read_json(record) if record.exists() else {"setting": setting, "trials": {}}
    other = [key for key in setting | before["setting"] if setting.get(key) != before["setting"].get(key)]
    if other:
        raise InputError(
            str(record),
            "setting",
            f"was made with another {', '.join(other)}",
            "Delete it to measure all anew, or set --out to another folder.",
        )
    done = before["trials"]
    for name, (changes, trial) in trials.items():
        changes = json.loads(json.dumps(changes))
        if name not in done or done[name]["changes"] != changes:
            done[name] = {"changes": changes, "result": trial()}
            write_json(record, {"setting": setting, "trials": done})
    return {name: done[name]["result"] for name in trials}
