"""The weights2weights data set as folders of shards, one per split, made in bounded memory and resumable."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import progress
from w2wpp.compute.schedules import chunks
from w2wpp.files.errors import InputError
from w2wpp.files.quarantine import QUARANTINE, ROWS, write_quarantine
from w2wpp.files.storage import file_hash, read_csv, read_json, write_csv, write_json
from w2wpp.files.tensor_files import opened, printable
from w2wpp.ingest.torch_files import StoredMatrix, open_matrix
from w2wpp.ingest.w2w_people import SPLITS, assign_splits, read_people
from w2wpp.ingest.w2w_source import W2WFiles
from w2wpp.ingest.w2w_units import is_finished, pack_unit
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import Shards, open_shards

_AGAIN = "Delete the folder and make it again"


@dataclass(frozen=True)
class W2WData:
    """Weight vectors of the splits, with who they are.

    Attributes:
        shards: the vectors of each split that has any.
        layout: the order of the d numbers.
        people: one row per vector, those of a split in its shards' order: person, split, row (of the published
            weights), file (if known), and the 40 attributes of CelebA as -1 or 1.
        quarantine: one row per vector that was left out: person ("" where unknown), row, key, reason.
    """

    shards: dict[str, Shards]
    layout: WeightLayout
    people: pd.DataFrame
    quarantine: pd.DataFrame


def pack_w2w(
    files: W2WFiles,
    layout: WeightLayout,
    out: str | Path,
    scratch: str | Path,
    *,
    seed: int = 0,
    validation: float = 0.05,
    test: float = 0.05,
    dtype: torch.dtype = torch.float16,
    rows_per_shard: int = 1024,
    block_rows: int = 64,
) -> W2WData:
    """Pack the published vectors into one folder of shards per split, with people and checksums.

    The weights are read once, in order, `rows_per_shard` rows at a time; what these give for every split is a unit of
    work. A finished unit is kept in `scratch`, where the next call with the same files and settings finds it; `out`
    appears when all is done. Equal files and settings give equal bytes, however often the work was interrupted.

    Rows that are not finite, too large for `dtype` or of nobody are left out and listed in quarantine.csv, however many
    they are.

    Memory: about 5 rows_per_shard d bytes for float16, so 0.5 GiB for the defaults and d = 99,648, beside the table.

    Args:
        files: as `find_files` gives them.
        layout: of the vectors: for the published ones, rank 1 on to_q and to_v of Stable Diffusion 1.5.
        out: the new folder, on the same file system as `scratch`.
        scratch: for resuming.
        seed, validation, test: see `assign_splits`.
        dtype: of the shards: float16, bfloat16 or float32.
        rows_per_shard: rows of the source, of all splits together.
        block_rows: rows that are read at once; of no influence on the result.

    Raises:
        InputError: a file cannot be read or is damaged (its checksum is that of no other content); the two do not
            belong together; fewer than two rows of zoo people can be used; `out` exists, or the disk is too small.
    """
    out, where = Path(out), printable(files.weights)
    if out.exists():
        raise InputError(str(out), None, "exists already", "Delete it or choose another folder")
    matrix, people = open_matrix(files.weights, layout.dimension), read_people(files.identities)
    if len(people) != matrix.rows:
        raise InputError(
            printable(files.identities),
            None,
            f"{len(people)} rows, the weights have {matrix.rows}",
            "Give the table that belongs to the weights",
        )
    people.insert(1, "split", assign_splits(people["person"], seed, validation, test))
    people.insert(2, "row", range(matrix.rows))
    if (people["split"] == "zoo").sum() < 2:
        raise InputError(
            printable(files.identities),
            "identity",
            "fewer than two rows of zoo people",
            "Lower the shares of validation and test",
        )

    work = scratch_folder(
        scratch,
        "w2w",
        rows=matrix.rows,
        crc32=matrix.crc32,
        identities=file_hash(files.identities),
        layout=layout.hash,
        dtype=str(dtype),
        seed=seed,
        validation=validation,
        test=test,
        rows_per_shard=rows_per_shard,
    )
    data = work / "data"
    data.mkdir(exist_ok=True)
    for left in data.rglob(".*"):  # half-written by a run that was killed
        left.unlink()
    _check_room(out, data, matrix.rows * layout.dimension * dtype.itemsize)
    units, quarantine, crc = [], [], 0
    with opened(files.weights) as file, progress(None, "rows", total=matrix.rows, unit="row") as bar:
        for number, (start, length) in enumerate(chunks(matrix.rows, rows_per_shard)):
            record = work / f"{number:06d}.json"
            if not is_finished(record, data):
                rows = people.iloc[start : start + length]
                write_json(record, pack_unit(number, rows, matrix, file, crc, layout, dtype, block_rows, data))
            units.append(read_json(record))
            quarantine += units[-1]["quarantine"]
            crc = units[-1]["crc32"]
            bar.update(length)
    if crc != matrix.crc32:
        shutil.rmtree(work)
        raise InputError(
            where,
            None,
            "its numbers do not have the checksum that the archive has for them",
            "The file is damaged; fetch it again",
        )

    kept = people[~people["row"].isin([each["row"] for each in quarantine])]
    if (kept["split"] == "zoo").sum() < 2:
        first = quarantine[0]
        raise InputError(
            where,
            first["key"],
            f"{len(quarantine)} of {matrix.rows} rows are unusable, too many for a "
            f"zoo; the first (row {first['row']}): {first['reason']}",
            "Fetch the file again",
        )
    write_csv(data / "people.csv", kept.sort_values("split", kind="stable", key=lambda split: split.map(SPLITS.index)))
    write_quarantine(data, quarantine, ROWS)
    _write_manifest(
        data,
        files,
        matrix,
        units,
        layout,
        {
            "seed": seed,
            "validation": validation,
            "test": test,
            "dtype": str(dtype).removeprefix("torch."),
            "rows_per_shard": rows_per_shard,
        },
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    os.rename(data, out)
    shutil.rmtree(work)
    return read_w2w(out)


def read_w2w(folder: str | Path) -> W2WData:
    """Open what `pack_w2w` wrote; of the vectors, headers alone are read.

    Raises:
        InputError: a file is missing or malformed, or they do not belong together.
    """
    folder = Path(folder)
    people = read_csv(folder / "people.csv", ["person", "split", "row"])
    quarantine = read_csv(folder / QUARANTINE, ROWS)
    shards = {split: open_shards(folder / split) for split in SPLITS if (people["split"] == split).any()}
    if not shards:
        raise InputError(str(folder / "people.csv"), "split", f"nobody is in {', '.join(SPLITS)}", _AGAIN)
    layout = next(iter(shards.values())).layout
    for split, each in shards.items():
        if each.layout != layout or len(each) != (people["split"] == split).sum():
            raise InputError(
                str(folder / split),
                None,
                f"{len(each)} vectors, people.csv names others, or the layout is not that of the other splits",
                _AGAIN,
            )
    return W2WData(shards, layout, people, quarantine)


def verify_w2w(folder: str | Path) -> None:
    """Compare all files with the checksums in manifest.json.

    Raises:
        InputError: naming the first file that is missing or another than the one that was written.
    """
    folder = Path(folder)
    for name, expected in progress(sorted(read_json(folder / "manifest.json")["files"].items()), "checksums"):
        if not (folder / name).is_file():
            raise InputError(str(folder / name), None, "no such file", _AGAIN)
        if file_hash(folder / name) != expected["sha256"]:
            raise InputError(str(folder / name), None, "does not have the checksum in manifest.json", _AGAIN)


def _check_room(out: Path, data: Path, needed: int) -> None:
    """Refuse to begin what could not be finished: `data`, which is to hold `needed` bytes, is renamed to `out`."""
    parent = next(parent for parent in out.absolute().parents if parent.exists())
    if parent.stat().st_dev != data.stat().st_dev:
        raise InputError(str(out), None, f"on another file system than {data}", "Put the scratch folder beside it")
    missing = needed - sum(path.stat().st_size for path in data.rglob("*.safetensors"))
    free = shutil.disk_usage(data).free
    if free < missing:
        raise InputError(str(data), None, f"{free / 1e9:.1f} GB free, {missing / 1e9:.1f} GB needed", "Make room")


def _write_manifest(
    data: Path, files: W2WFiles, matrix: StoredMatrix, units: list[dict], layout: WeightLayout, settings: dict
) -> None:
    """manifest.json: what the data were made of, with which settings, and size and SHA-256 of every file."""
    written = {name: each for unit in units for name, each in unit["files"].items()}
    for name in ("people.csv", QUARANTINE):
        written[name] = {"bytes": (data / name).stat().st_size, "sha256": file_hash(data / name)}
    write_json(
        data / "manifest.json",
        {
            "weights": {
                "name": files.weights.name,
                "rows": matrix.rows,
                "dimension": matrix.columns,
                "bytes": files.weights.stat().st_size,
                "crc32": matrix.crc32,
            },
            "identities": {"name": files.identities.name, "sha256": file_hash(files.identities)},
            "layout": layout.hash,
            "settings": settings,
            "files": written,
        },
    )
