"""How benchmarks measure: parts in processes of their own, reasons why there are no results, memory, rounds."""

import sys
import time
from pathlib import Path

import measuring
import pytest
import torch
from measuring import in_rounds, run_part

SIZE = 64 * 2**20


@pytest.fixture
def part(tmp_path):
    """part(code, limit): `run_part` of a script with that code."""

    def run(code: str, limit: float = 60.0) -> dict:
        script = tmp_path / "script.py"
        script.write_text(f"import json, os, sys, time\n{code}\n")
        return run_part(str(script), ["one", "two"], tmp_path / "log.txt", limit)

    return run


def test_the_last_line_is_the_result(part):
    code = "print('a word before'); print('and one aside', file=sys.stderr); print(json.dumps({'got': sys.argv[1:]}))"
    assert part(code) == {"got": ["one", "two"]}


@pytest.mark.parametrize(
    ("code", "limit", "reason"),
    [
        ("raise ValueError('no such number')", 60, "ValueError: no such number"),
        ("sys.exit('error: photos: none')", 60, "error: photos: none"),
        ("sys.exit(3)", 60, "exit status 3"),
        ("os.kill(os.getpid(), 9)", 60, "killed by signal 9"),
        ("time.sleep(60)", 0.5, "stopped after 0 s"),
        ("print(json.dumps({}))", 0, "no time was left"),
    ],
)
def test_why_there_is_no_result(part, code, limit, reason):
    started = time.monotonic()
    assert part(code, limit) == {"failed": reason}
    assert time.monotonic() - started < 50


@pytest.mark.skipif(torch.cuda.is_available() or sys.platform != "linux", reason="memory of a CPU, as Linux counts it")
def test_the_peak_is_of_the_block_alone(part):
    # In a process of its own, as one that has run a stage keeps the memory that it frees.
    code = f"""
sys.path.insert(0, {str(Path(measuring.__file__).parent)!r})
from measuring import measured
with measured() as first:
    held = bytearray(os.urandom(1)) * {SIZE}
del held
with measured() as second:
    sum(range(1000))
print(json.dumps([first, second]))
"""
    first, second = part(code, 600)
    assert first["peak_bytes"] - second["peak_bytes"] > SIZE / 2
    assert 0 <= second["cpu_seconds"] <= first["seconds"] + first["cpu_seconds"]


def test_rounds_do_all_works_in_turn_and_give_medians():
    done, waits = [], iter([1.0, 0.0, 0.01])

    def slow() -> None:
        done.append("slow")
        time.sleep(next(waits))

    runs = in_rounds({"slow": slow, "quick": lambda: done.append("quick")}, 3)
    assert done == ["slow", "quick"] * 3
    assert 0.01 <= runs["slow"]["seconds"] < 1
