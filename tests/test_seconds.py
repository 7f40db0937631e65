"""Stages that DVC runs leave their seconds; the table shows them."""

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from w2wpp.files.errors import InputError
from w2wpp.run.seconds import seconds_table

STAGE = """
import subprocess, sys, time
from w2wpp.run.stage import run_stage
BUSY = "import time\\nwhile time.process_time() < 1: pass"
def main():
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    time.sleep(1)
    if "fails" in sys.argv: raise __import__("w2wpp.files.errors").files.errors.InputError("photos", None, "none")
run_stage(main)
"""


def run(folder: Path, *arguments: str, **environment: str) -> tuple[float, float]:
    """Seconds and CPU seconds of a stage of one CPU second in a child and a second's sleep."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    others = {key: value for key, value in os.environ.items() if key != "DVC_STAGE"}
    path = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-c", STAGE, *arguments], cwd=folder, env=others | path | environment)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - started, cpu


def test_a_stage_records_its_seconds_and_those_of_its_children(tmp_path):
    seconds, cpu = run(tmp_path, DVC_STAGE="evaluate@vae")
    record = json.loads((tmp_path / ".scratch/seconds/evaluate@vae.json").read_text())
    assert 2 < record["seconds"] < seconds
    assert 0.8 * cpu < record["cpu_seconds"] < cpu
    assert abs(time.time() - record["ended"]) < 600


def test_no_record_without_dvc_and_none_of_a_failure(tmp_path):
    run(tmp_path)
    run(tmp_path, "fails", DVC_STAGE="evaluate@vae")
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_in_the_order_of_the_stages_ends(tmp_path):
    for stage, seconds, ended in (("vae", 360.4, 2e9), ("portraits", 240.0, 2e9 - 86_400)):
        (tmp_path / f"{stage}.json").write_text(
            json.dumps({"seconds": seconds, "cpu_seconds": 2 * seconds, "ended": ended})
        )
    assert seconds_table(tmp_path).splitlines()[2:] == [
        "| portraits | 2033-05-17 03:33 | 240 | 480 |",
        "| vae | 2033-05-18 03:33 | 360 | 721 |",
        "| all |  | 600 | 1201 |",
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "no stage has left its seconds"), ('{"seconds": 1}', "cpu_seconds: no number")]
)
def test_missing_and_malformed_records_are_one_clear_error(tmp_path, content, reason):
    if content:
        (tmp_path / "vae.json").write_text(content)
    with pytest.raises(InputError, match=reason):
        seconds_table(tmp_path)
