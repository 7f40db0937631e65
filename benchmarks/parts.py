"""Parts of a benchmark, each in a process of its own.

So the peak of memory is the part's own, and a part that is killed or takes too long loses no other.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

GIB = 2**30


def peak_bytes() -> int:
    """Peak memory of this process, without that on a GPU."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def _begin_peak() -> None:
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):  # where this is forbidden, the peak is that of the whole process
            Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def measured() -> Iterator[dict[str, float]]:
    """Yields a dict that has, after the block, its "seconds", "cpu_seconds" of this process and "peak_bytes".

    The peak is of the GPU if there is one, and includes what was in use before.
    """
    _begin_peak()
    result: dict[str, float] = {}
    started, cpu = time.perf_counter(), time.process_time()
    yield result
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    result |= {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "peak_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_bytes(),
    }


def run_part(script: str, arguments: list[str], log: Path, limit: float) -> dict:
    """The JSON object in the last line that a script prints, or why there is none, as {"failed": reason}.

    Args:
        log: file to which the standard error of the script is appended.
        limit: seconds after which the script is stopped.
    """
    if limit <= 0:
        return {"failed": "no time was left"}
    with log.open("a") as errors:
        try:
            done = subprocess.run(
                [sys.executable, script, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, timeout=limit
            )
        except subprocess.TimeoutExpired:
            return {"failed": f"stopped after {limit:.0f} s"}
    if done.returncode:
        if done.returncode < 0:
            return {"failed": f"killed by signal {-done.returncode}"}
        said = log.read_text(errors="replace").strip().splitlines()
        return {"failed": said[-1][:300] if said else f"exit status {done.returncode}"}
    return json.loads(done.stdout.strip().splitlines()[-1])


def gib(size: float) -> str:
    """Bytes as GiB, for tables."""
    return f"{size / GIB:.2f}"
