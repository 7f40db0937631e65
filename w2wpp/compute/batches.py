"""Work in batches that survive a kill and that any number of machines may share.

Shard i of n selects its share of all batches. The unfinished batches of the share are computed, here or by Ray. Each
result is written under a temporary name and renamed. At the end all batches are joined. Results do not depend on which
machine computed a batch.
"""

import hashlib
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from w2wpp.compute.engine import EngineParams
from w2wpp.compute.runtime import progress
from w2wpp.compute.schedules import chunks
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_pack, write_pack

Work = Callable[..., dict[str, Tensor]]


@dataclass(frozen=True)
class Batch:
    """A unit of work: its results become the pack `path`, and `inputs()` returns the arguments of the work."""

    path: Path
    inputs: Callable[[], tuple]


class Shard(NamedTuple):
    """Part `number`, from 1, of `of` equal parts of a stage's batches."""

    number: int = 1
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "3/64".

        Raises:
            InputError: `text` is not i/n with 1 <= i <= n.
        """
        number, _, of = text.partition("/")
        if not (
            number.isascii() and number.isdecimal() and of.isascii() and of.isdecimal() and 1 <= int(number) <= int(of)
        ):
            raise InputError("command line", "--shard", f"{text!r} is not i/n with i in 1 .. n", "Say --shard 3/64")
        return cls(int(number), int(of))

    @property
    def whole(self) -> bool:
        """Whether this is the only shard, so that the stage goes on to join the batches."""
        return self.of == 1

    def share(self, batches: list[Batch]) -> list[Batch]:
        """Every `of`-th batch, so that all shards get their share of each kind of work."""
        return batches[self.number - 1 :: self.of]

    def remaining(self, batches: list[Batch]) -> str:
        """The message of a stage at the end of a shard, on the batches of all shards."""
        mine, finished = len(self.share(batches)), sum(is_finished(batch) for batch in batches)
        return (
            f"shard {self.number}/{self.of}: {mine} batches finished, of all {len(batches)} batches {finished}. "
            "Run without --shard to merge them, which also computes what is missing."
        )


def batches_of(count: int, size: int, scratch: Path, inputs: Callable[[int, int], tuple]) -> list[Batch]:
    """Batches of at most `size` consecutive rows out of `count`, with files in `scratch`.

    Args:
        inputs: returns the arguments of the work on `length` rows from `first` on, given (first, length).
    """
    return [
        Batch(scratch / f"{first:06d}-{length}.safetensors", partial(inputs, first, length))
        for first, length in chunks(count, size)
    ]


def is_finished(batch: Batch) -> bool:
    """Whether the batch's file exists and is intact; a damaged file counts as missing."""
    try:
        read_batch(batch)
    except InputError:
        return False
    return True


def read_batch(batch: Batch) -> dict[str, Tensor]:
    """The results of a finished batch.

    Raises:
        InputError: its file is missing or damaged.
    """
    tensors, meta = read_pack(batch.path)
    if meta.get("sha256") != _digest(tensors):
        raise InputError(str(batch.path), "sha256", "not that of the content", "Run the stage again")
    return tensors


def joined(batches: list[Batch]) -> dict[str, Tensor]:
    """The results of finished batches, joined along their first axis.

    Raises:
        InputError: a file is missing or damaged.
    """
    done = [read_batch(batch) for batch in batches]
    return {key: torch.cat([tensors[key] for tensors in done]) for key in done[0]}


def finish(
    batches: list[Batch], work: Work, label: str = "", engine: EngineParams | None = None, cores: int | None = None
) -> None:
    """Compute the unfinished ones of `batches`.

    Args:
        work: gives a batch's results from its inputs, tensors of as many rows as the batch has; for Ray, a function of
            this library or a `functools.partial` of one.
        label: a name for the progress bar.
        engine: where; None for here.
        cores: None for work that takes a GPU where there is one, or else as many cores as torch uses; a number for
            work on one core each, of which so many are done here at a time.

    Raises:
        InputError: Ray is not installed, has no such cluster or machine, or lost a batch permanently.
    """
    missing = [batch for batch in batches if not is_finished(batch)]
    if not missing:
        return
    cluster = engine if engine is not None and engine.kind == "ray" else None
    if cluster is not None:
        from w2wpp.compute.ray_engine import compute_on_ray

        done = compute_on_ray(missing, work, cluster, one_core=cores is not None)
    else:
        done = _compute_here(missing, work, cores or 1)
    # Work in this process, batch after batch, has progress bars of its own.
    with progress(
        None,
        label,
        total=len(batches),
        initial=len(batches) - len(missing),
        unit="batch",
        disable=cluster is None and cores is None,
    ) as bar:
        for batch, tensors in done:
            _keep(batch, tensors)
            bar.update()


def in_resumable_batches(
    count: int, size: int, scratch: Path, work: Callable[[int, int], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Tensors of `work(first, length)` for consecutive runs of at most `size` rows, joined along their first axis.

    Each finished batch becomes a file in `scratch`, which the next call reuses.
    """
    batches = batches_of(count, size, scratch, lambda first, length: (first, length))
    finish(batches, work)
    return joined(batches)


def remember(path: Path, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """Tensors that `compute` returns, read from the pack `path` if it is finished.

    If several machines compute them, the first finished file is used. A damaged file is computed again.
    """
    batch = Batch(path, tuple)
    finish([batch], compute)
    return read_batch(batch)


def _compute_here(batches: list[Batch], work: Work, processes: int) -> Iterator[tuple[Batch, dict[str, Tensor]]]:
    """Each batch with its results, in order."""
    processes = min(processes, len(batches))
    with multiprocessing.get_context("spawn").Pool(processes) if processes > 1 else nullcontext() as pool:
        tasks = ((work, batch.inputs()) for batch in batches)
        yield from zip(batches, pool.imap(_call, tasks) if pool else map(_call, tasks), strict=True)


def _call(task: tuple[Work, tuple]) -> dict[str, Tensor]:
    work, inputs = task
    return work(*inputs)


def _keep(batch: Batch, tensors: dict[str, Tensor]) -> None:
    """Write a batch's results, unless another machine has just done so: that machine may already use its file."""
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
    if not is_finished(batch):
        batch.path.unlink(missing_ok=True)
        write_pack(batch.path, tensors, {"sha256": _digest(tensors)}, replace=False)


def _digest(tensors: dict[str, Tensor]) -> str:
    """Checksum of names, dtypes, shapes and bytes; tensors mapped from large files are not copied."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
