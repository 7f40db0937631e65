"""One unit of packing the weights2weights data: consecutive rows of the source, with a shard for each split."""

import zlib
from bisect import bisect_right
from io import BufferedReader
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from w2wpp.compute.schedules import chunks
from w2wpp.files.storage import file_hash, read_json
from w2wpp.ingest.torch_files import StoredMatrix
from w2wpp.ingest.w2w_people import SPLITS
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import write_shard


def pack_unit(
    number: int,
    people: pd.DataFrame,
    matrix: StoredMatrix,
    file: BufferedReader,
    crc32: int,
    layout: WeightLayout,
    dtype: torch.dtype,
    block_rows: int,
    folder: Path,
) -> dict:
    """Read the rows of `people`, check them, and write those of each split as its shard `number`.

    Args:
        number: of the unit.
        people: of the rows: consecutive "row" numbers, "person" and "split".
        matrix, file: the source, and the same file, open.
        crc32: checksum of all rows before these.
        layout: of the vectors.
        dtype: of the shards.
        block_rows: rows that are read at once.
        folder: of the splits' folders.

    Returns:
        Data for manifest and quarantine list: "files" with their sizes and checksums by name, "quarantine" with a dict
        for each row that was left out, and "crc32" of all rows up to the last of these.
    """
    vectors, faults = torch.empty(len(people), layout.dimension, dtype=dtype), {}
    start = int(people["row"].iloc[0])
    for first, length in chunks(len(people), block_rows):
        block = matrix.read(file, start + first, start + first + length)
        crc32 = zlib.crc32(block.numpy().data, crc32)
        vectors[first : first + length] = block
        for row, fault in find_faults(block, vectors[first : first + length], layout).items():
            faults[first + row] = fault
    for row, person in enumerate(people["person"]):
        if not person:
            faults.setdefault(row, ("identity", "nobody's: the table has no identity for it"))
    files, splits = {}, people["split"].tolist()
    for split in SPLITS:
        rows = [row for row in range(len(people)) if splits[row] == split and row not in faults]
        if rows:
            path = write_shard(folder / split, number, vectors[rows], layout)
            files[f"{split}/{path.name}"] = {"bytes": path.stat().st_size, "sha256": file_hash(path)}
    quarantine = [
        {"person": people["person"].iloc[row], "row": start + row, "key": key, "reason": reason}
        for row, (key, reason) in sorted(faults.items())
    ]
    return {"files": files, "quarantine": quarantine, "crc32": crc32}


def find_faults(source: Tensor, vectors: Tensor, layout: WeightLayout) -> dict[int, tuple[str, str]]:
    """Key and reason of each row's first number that is not finite in `vectors` [n, d], the cast of `source`."""
    faults = {}
    for row in (~torch.isfinite(vectors).all(1)).nonzero().flatten().tolist():
        broken = ~torch.isfinite(source[row])
        place = int((broken if broken.any() else ~torch.isfinite(vectors[row])).nonzero()[0])
        key = layout.entries[bisect_right(layout.entries, place, key=lambda entry: entry[2]) - 1][0]
        name = str(vectors.dtype).removeprefix("torch.")
        faults[row] = key, "not finite" if broken.any() else f"{source[row, place]:.6g} is too large for {name}"
    return faults


def is_finished(record: Path, folder: Path) -> bool:
    """Whether a unit's record exists, and all files that it names are intact."""
    if not record.exists():
        return False
    files = read_json(record)["files"].items()
    return all((folder / name).is_file() and file_hash(folder / name) == each["sha256"] for name, each in files)
