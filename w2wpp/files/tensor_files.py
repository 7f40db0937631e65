"""Safetensors files from strangers: nothing in them is believed, and nothing large is read, before it is checked."""

import json
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from w2wpp.files.errors import InputError

MAX_FILE_BYTES = 2 * 2**30
# Trainers that write the tags of their whole data set into the header stay well below this.
MAX_HEADER_BYTES = 8 * 2**20
MAX_TENSORS = 10_000
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

_BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "U16": 2, "I16": 2, "F16": 2, "BF16": 2,
          "U32": 4, "I32": 4, "F32": 4, "U64": 8, "I64": 8, "F64": 8}
_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
           "I32": torch.int32, "I64": torch.int64}
_DAMAGED = "The file is damaged or no safetensors file; fetch it again"


@dataclass(frozen=True)
class Entry:
    """What a header says of one tensor; its bytes lie from `begin` to `end` in the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def printable(text: str | Path) -> str:
    """A name fit for a message: on one line, at most 300 characters, without control characters or half surrogates."""
    text = str(text)
    return (text if text.isprintable() else ascii(text)[1:-1])[:300]


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[BinaryIO]:
    """A regular file, open for reading; `flags` such as os.O_NOFOLLOW are added.

    Raises:
        InputError: there is no such regular file, or the system refuses to open or, within the context, to read it.
    """
    where = printable(path)
    if "\0" in str(path):
        raise InputError(where, None, "cannot be read (null byte in its name)", "Check the name")
    try:
        # O_NONBLOCK: opening a named pipe would wait for somebody to write into it.
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | os.O_NONBLOCK | flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(where, None, "not a regular file", "Put a file in its place")
            yield file
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or "impossible name"
        raise InputError(where, None, f"cannot be read ({reason})", "Check the file and its permissions") from error


def parse_object(text: str | bytes, where: str, key: str | None) -> dict:
    """A JSON object none of whose objects says anything twice.

    Raises:
        InputError: naming `where` and `key`: it is none.
    """
    def once(pairs: list[tuple]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key is given twice")
        return content

    try:
        content = json.loads(text, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise InputError(where, key, f"not valid JSON ({printable(str(error))})", _DAMAGED) from error
    if not isinstance(content, dict):
        raise InputError(where, key, "not a JSON object", _DAMAGED)
    return content


def read_header(file: BinaryIO, where: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries of a safetensors file by key, and its metadata; no tensor is read.

    The rules are those of the safetensors format: an 8-byte little-endian header length, a JSON header, and tensors
    that fill the rest of the file without gap or overlap. Zip archives and pickles are told apart by their first bytes
    and refused unread.

    Raises:
        InputError: naming `where` and the key at fault: the file or its header is larger, or has more tensors, than
            `MAX_FILE_BYTES`, `MAX_HEADER_BYTES` and `MAX_TENSORS` allow, or breaks the format.
    """
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        raise InputError(where, None, f"{size} bytes, more than the {MAX_FILE_BYTES} allowed",
                         "Save the LoRA alone, in float16")
    start = file.read(9)
    if start[8:] != b"{":
        if start[:4] == b"PK\x03\x04" or start[:1] == b"\x80":
            raise InputError(where, None, "a pickle, which could run code when loaded",
                             "Have it converted to safetensors by someone who trusts it")
        raise InputError(where, None, "not a safetensors file", _DAMAGED)
    length = int.from_bytes(start[:8], "little")
    if length > min(MAX_HEADER_BYTES, size - 8):
        raise InputError(where, None, f"a header of {length} bytes in a file of {size}; {MAX_HEADER_BYTES} are allowed",
                         _DAMAGED)
    header = parse_object(start[8:] + file.read(length - 1), where, "header")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(_is_text(part) for pair in metadata.items() for part in pair):
        raise InputError(where, "__metadata__", "not text by text keys", _DAMAGED)
    if len(header) > MAX_TENSORS:
        raise InputError(where, None, f"{len(header)} tensors, more than the {MAX_TENSORS} allowed",
                         "Save the LoRA alone")
    entries = {key: _entry(key, content, 8 + length, where) for key, content in header.items()}
    end = 8 + length
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != end:
            raise InputError(where, entry.key, f"starts at byte {entry.begin}, expected {end}", _DAMAGED)
        end = entry.end
    if end != size:
        raise InputError(where, None, f"the tensors end at byte {end} of {size}", _DAMAGED)
    return entries, metadata


def read_tensor(file: BinaryIO, entry: Entry, where: str) -> Tensor:
    """The tensor of an entry, in its own dtype; its caller has checked that the shape is a modest one.

    Raises:
        InputError: it is of no dtype that LoRAs have, not finite, or the file has shrunk meanwhile.
    """
    if entry.dtype not in _DTYPES:
        raise InputError(where, entry.key, f"dtype {entry.dtype}", "Convert it to float16, bfloat16 or float32")
    file.seek(entry.begin)
    content = bytearray(file.read(entry.end - entry.begin))
    if len(content) < entry.end - entry.begin:
        raise InputError(where, entry.key, "the file shrank while it was read", "Try again when nobody writes to it")
    tensor = torch.frombuffer(content, dtype=_DTYPES[entry.dtype]).reshape(entry.shape)
    if not torch.isfinite(tensor).all():
        raise InputError(where, entry.key, "not finite", "Train this LoRA again")
    return tensor


def _is_text(value: object) -> bool:
    return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_FILE_BYTES


def _entry(key: str, content: object, data: int, where: str) -> Entry:
    """The checked entry of a header's `content`; the tensors' bytes start at `data`."""
    name = printable(key)
    if name != key:
        raise InputError(where, name, "unprintable or overlong key", _DAMAGED)
    if not isinstance(content, dict) or content.keys() != {"dtype", "shape", "data_offsets"}:
        raise InputError(where, key, "not described by dtype, shape and data_offsets", _DAMAGED)
    dtype, shape, offsets = content["dtype"], content["shape"], content["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _BYTES:
        raise InputError(where, key, f"dtype {printable(repr(dtype))}", "Convert it to float16, bfloat16 or float32")
    if not isinstance(shape, list) or len(shape) > 8 or not all(map(_is_size, shape)):
        raise InputError(where, key, "impossible shape", _DAMAGED)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise InputError(where, key, "impossible data_offsets", _DAMAGED)
    if offsets[1] - offsets[0] != math.prod(shape) * _BYTES[dtype]:
        raise InputError(where, key, f"{dtype} of shape {shape} in {offsets[1] - offsets[0]} bytes", _DAMAGED)
    return Entry(key, dtype, tuple(shape), data + offsets[0], data + offsets[1])
