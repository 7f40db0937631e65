"""Weight vectors that exceed memory: a folder of packs, written and read a block of rows at a time."""

import os
import shutil
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from w2wpp.files.errors import InputError
from w2wpp.files.storage import open_pack, write_pack
from w2wpp.lora.layout import WeightLayout

KEY = "weights"
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


@dataclass(frozen=True)
class Shards:
    """Weight vectors [n, d] in the packs of one folder; opening them reads only headers.

    Attributes:
        paths: the packs, in the order of their rows.
        bounds: row number at which each pack starts, and n after the last.
        dtype: of the stored numbers: float16, bfloat16 or float32.
        layout: the order of the d numbers.
    """

    paths: tuple[Path, ...]
    bounds: tuple[int, ...]
    dtype: torch.dtype
    layout: WeightLayout

    def __len__(self) -> int:
        return self.bounds[-1]

    @property
    def dimension(self) -> int:
        """d, the length of a weight vector."""
        return self.layout.dimension

    def blocks(self, rows: int) -> Iterator[Tensor]:
        """All vectors in order, `rows` at a time: [rows, d] in `dtype`, the last one shorter.

        A block takes rows from as many packs as it needs, so blocks do not depend on the division into packs. It may be
        memory-mapped: do not write to it.

        Raises:
            InputError: a pack can no longer be read.
        """
        for start in range(0, len(self), rows):
            parts = [
                self._read(pack, start, start + rows)
                for pack in range(len(self.paths))
                if self.bounds[pack] < start + rows and self.bounds[pack + 1] > start
            ]
            yield parts[0] if len(parts) == 1 else torch.cat(parts)

    def rows(self, numbers: list[int]) -> Tensor:
        """The vectors [len(numbers), d] in `dtype` of single rows 0 .. n - 1, in the given order.

        Raises:
            InputError: a pack can no longer be read.
        """
        return torch.cat(
            [
                torch.empty(0, self.dimension, dtype=self.dtype),
                *(self._read(self._pack(number), number, number + 1) for number in numbers),
            ]
        )

    def place(self, row: int) -> tuple[str, str]:
        """The file and the entry in it, such as "weights[7]", of a row 0 .. n - 1."""
        pack = self._pack(row)
        return str(self.paths[pack]), f"{KEY}[{row - self.bounds[pack]}]"

    def _pack(self, row: int) -> int:
        return bisect_right(self.bounds, row) - 1

    def _read(self, pack: int, start: int, stop: int) -> Tensor:
        first, last = self.bounds[pack : pack + 2]
        # A pack is opened again for every block, because its pages count as memory in use until it is unmapped.
        with open_pack(self.paths[pack]) as (file, _):
            return file.get_slice(KEY)[max(start, first) - first : min(stop, last) - first]


def open_shards(folder: str | Path) -> Shards:
    """The packs *.safetensors of a folder, in the order of their names, each with one tensor `weights` [rows, d].

    Raises:
        InputError: there is no pack; or naming the first pack that is truncated or otherwise unreadable, holds other
            tensors or none of that shape, or differs from the first pack in dtype or layout.
    """
    paths = tuple(sorted(Path(folder).glob("*.safetensors")))
    if not paths:
        raise InputError(str(folder), None, "no *.safetensors file here", "Write the shards with write_shards")
    bounds, first = [0], None
    for path in paths:
        with open_pack(path) as (file, meta):
            keys = list(file.keys())
            if keys != [KEY]:
                raise InputError(
                    str(path),
                    KEY,
                    f"holds the tensors {keys}, expected this one alone",
                    "Keep other files out of the folder of shards",
                )
            shape, dtype = file.get_slice(KEY).get_shape(), file.get_slice(KEY).get_dtype()
        if first is None:
            first, layout = (dtype, meta.get("layout")), WeightLayout.from_meta(meta.get("layout", {}), str(path))
        if dtype not in _DTYPES:
            raise InputError(str(path), KEY, f"dtype {dtype}", f"Convert it to one of {', '.join(_DTYPES)}")
        if len(shape) != 2 or shape[0] == 0 or shape[1] != layout.dimension:
            raise InputError(
                str(path),
                KEY,
                f"shape {shape}, expected [rows, {layout.dimension}]",
                "Put only shards of one layout into the folder, none of them empty",
            )
        if (dtype, meta.get("layout")) != first:
            field = "dtype" if dtype != first[0] else "layout"
            raise InputError(
                str(path),
                KEY,
                f"{field} differs from that of {paths[0].name}",
                f"Put only shards of one {field} into the folder",
            )
        bounds.append(bounds[-1] + shape[0])
    return Shards(paths, tuple(bounds), _DTYPES[dtype], layout)


def write_shard(folder: str | Path, number: int, rows: Tensor, layout: WeightLayout) -> Path:
    """Write rows [*, d] atomically as pack `number` of a folder of shards; returns its path."""
    path = Path(folder) / f"{number:06d}.safetensors"
    write_pack(path, {KEY: rows}, {"layout": layout.to_meta()})
    return path


def write_shards(folder: str | Path, blocks: Iterable[Tensor], layout: WeightLayout, rows_per_shard: int) -> Shards:
    """Write blocks of any number of rows [*, d] as packs of `rows_per_shard` rows each, the last one shorter.

    One pack and one block are in memory at a time. The folder appears when all packs are written; a kill leaves none.

    Raises:
        InputError: the folder exists already.
        ValueError: a block is not [*, d] in the first block's dtype, that dtype is not float16, bfloat16 or float32, or
            there are no rows.
    """
    folder = Path(folder)
    if folder.exists():
        raise InputError(str(folder), None, "exists already", "Delete it or choose another folder")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shard, filled, written = None, 0, 0

    try:
        for block in blocks:
            if shard is None:
                shard = torch.empty(rows_per_shard, layout.dimension, dtype=block.dtype)
            if (
                block.ndim != 2
                or block.shape[1] != layout.dimension
                or block.dtype != shard.dtype
                or block.dtype not in _DTYPES.values()
            ):
                raise ValueError(
                    f"expected rows [*, {layout.dimension}] of {shard.dtype}, one of "
                    f"{list(_DTYPES.values())}; got {list(block.shape)} of {block.dtype}"
                )
            while len(block):
                taken = min(rows_per_shard - filled, len(block))
                shard[filled : filled + taken] = block[:taken]
                block, filled = block[taken:], filled + taken
                if filled == rows_per_shard:
                    write_shard(temporary, written, shard, layout)
                    filled, written = 0, written + 1
        if shard is not None and filled:
            write_shard(temporary, written, shard[:filled], layout)
        elif not written:
            raise ValueError("there are no rows to write")
        os.rename(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return open_shards(folder)
