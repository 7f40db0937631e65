"""Shared parts of the fuzz runs: reading one input within limits, its time and memory, and the table of outcomes."""

import argparse
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, TypeVar

from w2wpp.files.errors import InputError

OUTCOMES = ("accepted", "rejected", "crashed", "hung", "silent")
Read = TypeVar("Read")


class Attempt(NamedTuple):
    """The outcome of one input: one of `OUTCOMES` with details after a colon, seconds and bytes of memory."""

    outcome: str
    seconds: float
    memory: int


@dataclass
class Tally:
    """By damage, the counts of inputs by outcome and the largest time and memory; and a line for every failure."""

    counts: dict[str, Counter] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    memory: dict[str, int] = field(default_factory=dict)

    def add(self, damage: str, label: str, attempt: Attempt, sound: bool = False) -> None:
        """Count an input; one that is `sound` must have been accepted."""
        self.counts.setdefault(damage, Counter())[attempt.outcome.split(":")[0]] += 1
        if attempt.outcome not in ("accepted", "rejected") or (sound and attempt.outcome != "accepted"):
            self.failures.append(f"{label} ({damage}): {attempt.outcome}")
        self.seconds[damage] = max(self.seconds.get(damage, 0.0), attempt.seconds)
        self.memory[damage] = max(self.memory.get(damage, 0), attempt.memory)

    def report(self) -> None:
        """Print the table; the exit status is 1 if anything failed."""
        width = max(map(len, self.counts), default=0) + 1
        print(f"{'damage':{width}}", *(f"{outcome:>9}" for outcome in OUTCOMES), " longest      most")
        rows = [(name, each, self.seconds[name], self.memory[name]) for name, each in sorted(self.counts.items())]
        every = sum(self.counts.values(), Counter())
        rows.append(("all", every, max(self.seconds.values(), default=0.0), max(self.memory.values(), default=0)))
        for name, counts, seconds, memory in rows:
            print(
                f"{name:{width}}",
                *(f"{counts[outcome]:9d}" for outcome in OUTCOMES),
                f"{seconds:6.2f} s {memory / 2**20:5.0f} MiB",
            )
        if self.failures:
            sys.exit("\n".join(self.failures[:20]))


def attempt(read: Callable[[], Read], fault: Callable[[Read], str | None], limit: float = 5.0) -> Attempt:
    """Read an input within `limit` seconds, and then check the result without a limit.

    Memory is the peak of the process during reading less its memory before; 0 if the system does not report it.
    """
    outcome, before, start = "rejected", _reset_peak(), time.perf_counter()
    previous = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        found = read()
        outcome = "accepted"
    except InputError:
        pass
    except TimeoutError:
        outcome = "hung"
    except Exception as error:
        outcome = f"crashed: {error!r}"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    seconds, memory = time.perf_counter() - start, max(0, _held("VmHWM") - before)
    wrong = fault(found) if outcome == "accepted" else None
    return Attempt(f"silent: {wrong}" if wrong else outcome, seconds, memory)


def run(description: str, fuzz: Callable[[int, int], Tally]) -> None:
    """A fuzz run's command line; `fuzz` takes the number of inputs and a seed."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fuzz(args.files, args.seed).report()


def _alarm(*_) -> None:
    raise TimeoutError


def _reset_peak() -> int:
    """Reset the peak of this process's memory, if Linux supports that; returns the present memory in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return sys.maxsize
    return _held("VmRSS")


def _held(quantity: str) -> int:
    try:
        found = re.search(rf"{quantity}:\s+(\d+)", Path("/proc/self/status").read_text())
    except OSError:
        return 0
    return 1024 * int(found[1]) if found else 0
