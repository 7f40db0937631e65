"""Mean and standard deviation of weight vectors, in memory or streamed, and the sign convention of directions."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from w2wpp.compute.runtime import progress
from w2wpp.files.errors import InputError
from w2wpp.lora.shards import Shards


def row_signs(rows: Tensor) -> Tensor:
    """Signs [n, 1] that make the largest entry of each row [n, d] positive, so that equal data give equal rows."""
    return rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def standardise(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [d] over weight vectors [n, d] in float32; constant coordinates get deviation 1."""
    weights = weights.float()
    mean, std = weights.mean(0), weights.std(0)
    return mean, torch.where(std > 1e-8, std, torch.ones_like(std))


def standardise_shards(shards: Shards, block_rows: int = 256) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [d] in float32 over all rows, as `standardise`, in one pass.

    Means and squared deviations of blocks are computed and merged in float64 (Chan, Golub and LeVeque 1983, "Algorithms
    for computing the sample variance"). Memory: about 16 block_rows d bytes.

    Raises:
        InputError: there are fewer than two rows, or naming the first one that is not finite.
    """
    if len(shards) < 2:
        raise InputError(*shards.place(0), "the only row, so nothing has a deviation", "Collect more LoRAs")
    count, mean, squares = 0, torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for block in blocks_with_progress(shards, block_rows, "mean and deviation"):
        rows = block.double()
        block_mean = rows.mean(0)
        if not torch.isfinite(block_mean).all():
            refuse_infinite(shards, count, rows)
        delta, total = block_mean - mean, count + len(rows)
        squares = squares + rows.sub_(block_mean).square_().sum(0) + delta.square() * (count * len(rows) / total)
        mean = mean + delta * (len(rows) / total)
        count = total
    std = (squares / (count - 1)).sqrt().float()
    return mean.float(), torch.where(std > 1e-8, std, torch.ones_like(std))


def blocks_with_progress(shards: Shards, block_rows: int, label: str) -> Iterable[Tensor]:
    return progress(shards.blocks(block_rows), label, total=math.ceil(len(shards) / block_rows))


def refuse_infinite(shards: Shards, start: int, rows: Tensor) -> None:
    """Raise the InputError for the first row that is not finite; the rows are numbered from `start`."""
    bad = start + int((~torch.isfinite(rows).all(1)).nonzero()[0])
    raise InputError(*shards.place(bad), "not finite", "Train this LoRA again, or leave it out")
