"""Shared parts of training loops: learning rate schedules, random numbers that survive a kill, batches."""

import math
from collections.abc import Iterator

import numpy as np
import torch


def cosine_rate(step: int, steps: int, lr: float, warmup: int = 100) -> float:
    """Learning rate with linear warm-up over at most a tenth of the steps and cosine decay to 2 % of `lr`."""
    warmup = max(1, min(warmup, steps // 10))
    return lr * min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


def steady_rate(step: int, steps: int, lr: float, warmup: int = 100, fall: float = 0.2) -> float:
    """Learning rate with linear warm-up, then constant, then linear decay to 0 over the last share `fall` of the steps.

    It does as well as cosine decay (Haegele et al. 2024, arXiv 2405.18392). Before the decay it does not depend on
    `steps`.
    """
    warmup = max(1, min(warmup, steps // 10))
    return lr * min(1.0, (step + 1) / warmup, (steps - step) / max(1.0, fall * steps))


def step_generator(seed: int, step: int) -> torch.Generator:
    """A generator seeded by (seed, step) alone, so that a resumed run repeats an uninterrupted one."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence([seed, step]).generate_state(1)[0]))


def chunks(count: int, size: int) -> Iterator[tuple[int, int]]:
    """(first, length) of consecutive runs of at most `size`."""
    for first in range(0, count, size):
        yield first, min(size, count - first)
