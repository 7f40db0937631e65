"""Untrusted safetensors files: everything is checked before use, and sizes before anything large is read."""

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from w2wpp.files.errors import InputError
from w2wpp.files.file_kinds import START, as_text, describe

MAX_FILE_BYTES = 2 * 2**30
# Trainers write the tags of the whole data set into the header; the tags of 100,000 pictures take some megabytes.
MAX_HEADER_BYTES = 32 * 2**20
MAX_TENSORS = 10_000
# A tensor has some 14 values in the header: its name, dtype, 8 sizes, 2 offsets. As many bytes of JSON could
# otherwise become twenty times as many in memory.
MAX_JSON_VALUES = 50 * MAX_TENSORS
PICKLE_SUFFIXES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth")

_DTYPES = {
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F32": torch.float32,
    "F64": torch.float64,
    "I32": torch.int32,
    "I64": torch.int64,
}
_DAMAGED = "The file is damaged or no safetensors file; fetch it again"
# Spaces of other scripts, and the joiners that Persian, Hindi and emoji need.
_HARMLESS = dict.fromkeys(
    map(ord, "\u00a0\u1680\u202f\u205f\u3000\u200c\u200d" + "".join(map(chr, range(0x2000, 0x200B))))
)


@dataclass(frozen=True)
class Entry:
    """The header's entry of one tensor, whose bytes lie from `begin` to `end` in the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def printable(text: str | Path) -> str:
    """A name for a message, in any script: one line of at most 300 characters, without control characters, marks that
    change the writing direction, or lone surrogates.
    """
    text = str(text)
    return (text if text.translate(_HARMLESS).isprintable() else ascii(text)[1:-1])[:300]


@contextmanager
def opened(path: Path, flags: int = 0) -> Iterator[BufferedReader]:
    """A regular file, open for reading; `flags` such as os.O_NOFOLLOW are added.

    Raises:
        InputError: there is no such regular file, or the system cannot open it or, within the context, read it.
    """
    where = printable(path)
    if "\0" in str(path):
        raise InputError(where, None, "cannot be read (null byte in its name)", "Check the name")
    try:
        # O_NONBLOCK: opening a named pipe would otherwise wait for a writer.
        with open(path, "rb", opener=lambda name, mode: os.open(name, mode | os.O_NONBLOCK | flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise InputError(where, None, "not a regular file", "Put a file in its place")
            yield file
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", None) or "impossible name"
        raise InputError(where, None, f"cannot be read ({reason})", "Check the file and its permissions") from error


def parse_object(text: str | bytes, where: str, key: str | None) -> dict:
    """A JSON object without duplicate keys, with at most `MAX_JSON_VALUES` values.

    Raises:
        InputError: naming `where` and `key`: the text is no such object.
    """

    def once(pairs: list[tuple]) -> dict:
        content = dict(pairs)
        if len(content) < len(pairs):
            raise ValueError("a key is given twice")
        return content

    encoded = text.encode(errors="surrogatepass") if isinstance(text, str) else text
    if _most_values(encoded) > MAX_JSON_VALUES:
        raise InputError(where, key, f"more than the {MAX_JSON_VALUES} values that are read", "Save the LoRA alone")
    try:
        content = json.loads(text if isinstance(text, str) else text.decode("utf-8-sig"), object_pairs_hook=once)
    except RecursionError as error:
        raise InputError(where, key, "not valid JSON (nested too deeply)", _DAMAGED) from error
    except ValueError as error:
        known = None if encoded.startswith(b"{") else describe(encoded[:START])
        raise InputError(
            where,
            key,
            f"not valid JSON ({known[0] if known else printable(str(error))})",
            known[1] if known else _DAMAGED,
        ) from error
    if not isinstance(content, dict):
        raise InputError(where, key, "not a JSON object", _DAMAGED)
    return content


def read_header(file: BinaryIO, where: str) -> tuple[dict[str, Entry], dict[str, str]]:
    """The entries of a safetensors file by key, and its metadata; no tensor is read.

    The safetensors library checks the rules of the format: types, sizes, and tensors that fill the rest of the file
    without gap or overlap. This function also refuses duplicate names and unprintable names, which the library accepts.
    Files whose first bytes show another type, such as a pickle, an archive, a web page or a Git LFS pointer, are
    refused unread.

    Raises:
        InputError: naming `where` and the key at fault: the header is larger, or has more tensors, than
            `MAX_HEADER_BYTES` and `MAX_TENSORS` allow, or breaks the format.
    """
    size = os.fstat(file.fileno()).st_size
    start = file.read(START)
    length = int.from_bytes(start[:8], "little")
    if start[8:9] != b"{" or length > size - 8:
        if start[:4] == b"PK\x03\x04" or (start[:1] == b"\x80" and start[8:9] != b"{"):
            raise InputError(
                where,
                None,
                "a pickle, which could run code when loaded",
                "Have it converted to safetensors by someone who trusts it",
            )
        reason = f"a header of {length} bytes in a file of {size}" if start[8:9] == b"{" else "not a safetensors file"
        raise InputError(where, None, *(describe(start) or as_text(start) or (reason, _DAMAGED)))
    if length > MAX_HEADER_BYTES:
        raise InputError(
            where,
            None,
            f"a header of {length} bytes, more than the {MAX_HEADER_BYTES} that are read",
            "Save the LoRA again without its metadata, such as tags of the training pictures",
        )
    file.seek(8)
    header = parse_object(file.read(length), where, "header")
    metadata = header.pop("__metadata__", None) or {}
    if len(header) > MAX_TENSORS:
        raise InputError(
            where, None, f"{len(header)} tensors, more than the {MAX_TENSORS} allowed", "Save the LoRA alone"
        )
    for key, content in header.items():
        if printable(key) != key:
            raise InputError(where, printable(key), "unprintable or overlong key", _DAMAGED)
        if not isinstance(content, dict) or content.keys() != {"dtype", "shape", "data_offsets"}:
            raise InputError(where, key, "not described by dtype, shape and data_offsets", _DAMAGED)
    _check_format(file, header, 8 + length, where)
    entries = {
        key: Entry(
            key, content["dtype"], tuple(content["shape"]), *(8 + length + offset for offset in content["data_offsets"])
        )
        for key, content in header.items()
    }
    return entries, metadata


def check_size(file: BinaryIO, where: str) -> None:
    """Refuse, with an InputError, a file larger than `MAX_FILE_BYTES`; headers of larger ones may be read."""
    size = os.fstat(file.fileno()).st_size
    if size > MAX_FILE_BYTES:
        raise InputError(
            where, None, f"{size} bytes, more than the {MAX_FILE_BYTES} allowed", "Save the LoRA alone, in float16"
        )


def read_tensor(file: BinaryIO, entry: Entry, where: str) -> Tensor:
    """The tensor of an entry, in its own dtype; the caller has checked the size of the shape.

    Raises:
        InputError: LoRAs have no such dtype, a value is not finite, or the file has shrunk meanwhile.
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


def _most_values(text: bytes) -> int:
    """An upper bound of a JSON text's values: each but the first follows a comma or an opening bracket."""
    characters = np.frombuffer(text.replace(b"\\\\", b"__").replace(b'\\"', b"__"), np.uint8)
    between = ~np.logical_xor.accumulate(characters == ord('"'))
    return 1 + sum(int(np.count_nonzero((characters == opener) & between)) for opener in b",[{")


def _check_format(file: BinaryIO, header: dict[str, dict], data: int, where: str) -> None:
    """Have the safetensors library check a file with this header, whose tensors start at byte `data`."""
    try:
        # By its descriptor, as another file could have taken the path; unmapped, as the file could shrink meanwhile.
        with safe_open(f"/dev/fd/{file.fileno()}", framework="np", backend="pread"):
            return
    except SafetensorError as error:
        _, in_json, detail = str(error).rpartition("invalid JSON in header: ")
        if in_json:
            reason = f"not valid JSON ({printable(detail)})"
        elif detail.endswith("file not fully covered"):
            end = data + max((content["data_offsets"][1] for content in header.values()), default=0)
            size = os.fstat(file.fileno()).st_size
            if size < end:
                raise InputError(
                    where, None, f"{size} bytes of {end}: the end of the file is missing", "Fetch it again"
                ) from error
            reason = f"the tensors end at byte {end} of {size}"
        else:
            # The library visits tensors in random order, so it may find another fault the next time.
            reason = "dtypes, shapes and offsets of the tensors do not fit each other or the file"
        raise InputError(where, "header", reason, _DAMAGED) from error
