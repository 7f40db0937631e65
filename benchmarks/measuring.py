"""How benchmarks measure and tell: seconds and memory, rounds, parts in processes of their own, and results."""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from w2wpp.compute.runtime import device, progress
from w2wpp.files.storage import write_atomically, write_json
from w2wpp.lora.layout import Adapted, WeightLayout

ROOT = Path(__file__).resolve().parents[1]
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


def in_rounds(works: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, dict[str, float]]:
    """The median of each number of `measured`, by work; rounds do all works in turn, so a busy machine slows all."""
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in works}
    for _ in progress(range(rounds), "rounds"):
        for name, work in works.items():
            with measured() as run:
                work()
            runs[name].append(run)
    return {name: {key: statistics.median(run[key] for run in some) for key in some[0]} for name, some in runs.items()}


def plain_layout(dimension: int) -> WeightLayout:
    """One layer's LoRA, for vectors of this dimension that no model uses."""
    return WeightLayout((Adapted("mid_block.attn1.to_q", dimension - 1, 1),), 1, 1.0)


def product_rate(size: int = 4096, repeats: int = 5) -> float:
    """Floating-point operations per second of a product of large float32 matrices, the fastest of some."""
    left, right = torch.randn(2, size, size, device=device())
    seconds = []
    for _ in range(repeats):
        with measured() as run:
            torch.mm(left, right)
        seconds.append(run["seconds"])
    return 2 * size**3 / min(seconds)


def run_part(script: str, arguments: list[str], log: Path, limit: float) -> dict:
    """The JSON object in the last line that a script prints, or why there is none, as {"failed": reason}.

    In a process of its own, a part has the memory's peak to itself, and if it is killed or takes too long, no other
    part is lost.

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


def machine() -> dict[str, object]:
    """What the numbers depend on: the device and the threads."""
    name = torch.cuda.get_device_name() if device().type == "cuda" else "the CPU"
    return {"device": name, "threads": torch.get_num_threads()}


def on_machine(result: Mapping) -> str:
    """`machine` in words."""
    return f"on {result['device']} with {result['threads']} thread{'s' if result['threads'] > 1 else ''}"


def gib(size: float) -> str:
    """Bytes as GiB, for tables."""
    return f"{size / GIB:.2f}"


def keep(out: Path, name: str, result: Mapping, page: str) -> None:
    """Write <name>.json and <name>.md, and print the page."""
    write_json(out / f"{name}.json", result)
    write_atomically(out / f"{name}.md", lambda path: path.write_text(page))
    print(page)
