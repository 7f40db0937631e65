"""Files of torch.save, read without torch's unpickler: the pickle as inert data, the numbers of a matrix row by row.

torch.load(mmap=True) would map the file privately and writable. Linux refuses that by default for files larger than the
machine's memory, which the published weights usually are. A shared mapping would need a writable file. Neither compares
checksums, and a file that shrinks meanwhile crashes the process.
"""

import io
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from w2wpp.files.errors import InputError
from w2wpp.files.file_kinds import START, describe
from w2wpp.files.tensor_files import opened, printable
from w2wpp.ingest.pickles import Call, Global, Persistent, read_pickle

MAX_PICKLE_BYTES = 512 * 2**20
MAX_DIRECTORY_BYTES = 2**20
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_TENSOR_NAMES = (
    "torch._utils._rebuild_tensor_v2",
    "torch.FloatStorage",
    "torch.HalfStorage",
    "torch.BFloat16Storage",
    "torch.DoubleStorage",
    "torch.LongStorage",
    "torch.IntStorage",
    "collections.OrderedDict",
)
_DAMAGED = "The file is damaged or was not written by torch.save; fetch it again"
_RESAVE = "Save the matrix alone, with torch.save(weights.float().contiguous(), ...)"


@dataclass(frozen=True)
class Record:
    """One file of a zip archive, stored without compression: the place of its bytes, and their CRC-32."""

    begin: int
    size: int
    crc32: int


@dataclass(frozen=True)
class StoredMatrix:
    """A float32 matrix [rows, columns] in a file of torch.save, row after row from byte `begin`.

    Attributes:
        path: the file.
        rows, columns: the shape.
        begin: position of the numbers in the file.
        crc32: of the numbers, as the archive records it.
    """

    path: Path
    rows: int
    columns: int
    begin: int
    crc32: int

    def read(self, file: io.BufferedReader, start: int, stop: int) -> Tensor:
        """float32 [stop - start, columns] from the open file.

        Raises:
            InputError: the file has shrunk.
        """
        block = np.empty((stop - start, self.columns), dtype="<f4")
        file.seek(self.begin + 4 * self.columns * start)
        if file.readinto(block.data.cast("B")) < block.nbytes:
            raise InputError(
                printable(self.path), None, "the file shrank while it was read", "Try again when nobody writes to it"
            )
        return torch.from_numpy(block)


def read_saved(file: BinaryIO, allowed: Collection[str], where: str, remedy: str) -> object:
    """The content of a file of torch.save or pickle.dump, as `read_pickle` returns it.

    Raises:
        InputError: as `read_pickle`; or it is larger than `MAX_PICKLE_BYTES`, or a damaged archive.
    """
    start = file.read(START)
    file.seek(0)
    if start[:4] == b"PK\x03\x04":
        pickled, _ = _read_archive(file, where)
        return read_pickle(io.BytesIO(pickled), allowed, where, remedy)
    known = describe(start)
    if known:
        raise InputError(where, None, *known)
    size = os.fstat(file.fileno()).st_size
    if size > MAX_PICKLE_BYTES:
        raise InputError(where, None, f"{size} bytes, more than the {MAX_PICKLE_BYTES} allowed", remedy)
    content = io.BytesIO(file.read())
    value = read_pickle(content, allowed, where, remedy)
    if type(value) is int and value == LEGACY_MAGIC:
        # torch before 1.6 wrote, and later ones can: magic number, version, system, the value, keys of its tensors.
        _, _, value, _ = (read_pickle(content, allowed, where, remedy) for _ in range(4))
    return value


def open_matrix(path: str | Path, columns: int) -> StoredMatrix:
    """The float32 matrix [*, columns] that the file holds alone; only the archive's directory and its pickle are read.

    Raises:
        InputError: naming the file: it cannot be read, is no zip archive of torch.save, is damaged, holds other data,
            or a matrix of another dtype, width or memory order.
    """
    path, where = Path(path), printable(path)
    with opened(path) as file:
        start = file.read(START)
        if start[:4] != b"PK\x03\x04":
            raise InputError(where, None, *(describe(start) or ("not a zip archive of torch.save", _RESAVE)))
        pickled, records = _read_archive(file, where)
    value = read_pickle(io.BytesIO(pickled), _TENSOR_NAMES, where, _RESAVE)
    storage, offset, shape, strides = _tensor(value, where)
    if storage[1] != Global("torch.FloatStorage"):
        raise InputError(where, None, f"a {storage[1].name}, expected a torch.FloatStorage", _RESAVE)
    if len(shape) != 2 or shape[0] < 1 or shape[1] != columns:
        raise InputError(
            where,
            None,
            f"shape {list(shape)}, expected [rows, {columns}]",
            "Give weights of rank 1 on to_q and to_v of Stable Diffusion 1.5, that model in data/base, "
            "and the LoRA settings likewise",
        )
    if strides != (columns, 1) or offset:
        raise InputError(
            where, None, f"strides {list(strides)} from number {offset}, expected [{columns}, 1] from 0", _RESAVE
        )
    record = records.get(f"data/{storage[2]}")
    if record is None or record.size != 4 * storage[4]:
        raise InputError(where, None, f"{record.size if record else 0} bytes of {storage[4]} numbers", _DAMAGED)
    if storage[4] != shape[0] * columns:
        raise InputError(where, None, f"{storage[4]} numbers for shape {list(shape)}", _RESAVE)
    return StoredMatrix(path, shape[0], columns, record.begin, record.crc32)


def _tensor(value: object, where: str) -> tuple[tuple, int, tuple[int, ...], tuple[int, ...]]:
    """Storage ("storage", type, key, device, numel), offset, shape and strides of a tensor that is not built."""
    if not isinstance(value, Call) or value.function != "torch._utils._rebuild_tensor_v2":
        raise InputError(where, None, "holds something else than one tensor", _RESAVE)
    reference, offset, shape, strides = (*value.arguments, None, None, None, None)[:4]
    storage = reference.key if isinstance(reference, Persistent) else None
    if not (
        isinstance(storage, tuple)
        and len(storage) == 5
        and isinstance(storage[1], Global)
        and type(storage[2]) is str
        and _are_sizes((storage[4], offset))
        and storage[0] == "storage"
        and all(isinstance(part, tuple) and _are_sizes(part) for part in (shape, strides))
    ):
        raise InputError(where, None, "a tensor that makes no sense", _DAMAGED)
    return storage, offset, shape, strides


def _are_sizes(values: tuple) -> bool:
    return all(type(value) is int and 0 <= value < 2**48 for value in values) and math.prod(values) < 2**60


class _Bounded:
    """A file that reads at most `MAX_DIRECTORY_BYTES` at once, because zipfile reads directories of any size."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._read = file.seek, file.tell, file.read

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"{size} bytes of directory, more than the {MAX_DIRECTORY_BYTES} allowed")
        return self._read(size if size >= 0 else MAX_DIRECTORY_BYTES)


def _read_archive(file: BinaryIO, where: str) -> tuple[bytes, dict[str, Record]]:
    """The pickle in an archive of torch.save, and the archive's records by their names below its root folder."""
    size = os.fstat(file.fileno()).st_size
    try:
        entries = zipfile.ZipFile(_Bounded(file)).infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OverflowError, struct.error, EOFError) as error:
        raise InputError(where, None, f"not a sound zip archive ({printable(str(error))})", _DAMAGED) from error
    records = {}
    for entry in entries:
        name = entry.filename.partition("/")[2]
        file.seek(min(max(entry.header_offset, 0), size))
        header = file.read(_LOCAL_HEADER.size)
        signature, *lengths = _LOCAL_HEADER.unpack(header.ljust(_LOCAL_HEADER.size, b"\0"))
        begin = entry.header_offset + _LOCAL_HEADER.size + sum(lengths)
        stored = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
        inside = entry.header_offset >= 0 and begin + entry.file_size <= size
        if signature != b"PK\x03\x04" or not stored or not inside or name in records:
            raise InputError(where, printable(entry.filename), "not stored as torch.save stores it", _DAMAGED)
        records[name] = Record(begin, entry.file_size, entry.CRC)
    pickled = records.get("data.pkl")
    if pickled is None or pickled.size > MAX_PICKLE_BYTES:
        reason = f"{pickled.size} bytes, more than the {MAX_PICKLE_BYTES} allowed" if pickled else "missing"
        raise InputError(where, "data.pkl", reason, _DAMAGED)
    file.seek(pickled.begin)
    content = file.read(pickled.size)
    if zlib.crc32(content) != pickled.crc32:
        raise InputError(where, "data.pkl", "does not have the checksum that the archive has for it", _DAMAGED)
    if _content(file, records.get("byteorder"), b"little") != b"little":
        raise InputError(where, "byteorder", "written on a machine of another byte order", _RESAVE)
    return content, records


def _content(file: BinaryIO, record: Record | None, default: bytes) -> bytes:
    """The first bytes of a small record."""
    if record is None:
        return default
    file.seek(record.begin)
    return file.read(min(record.size, 16))
