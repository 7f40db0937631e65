"""Atomic writes of packed tensors, JSON and CSV: under a temporary name, then renamed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from w2wpp.files.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

# One key only: safetensors writes several metadata keys in random order, so equal packs would differ in bytes.
META_KEY = "w2wpp"


def write_atomically(path: Path, write: Callable[[Path], object], replace: bool = True) -> None:
    """Call `write(temporary_path)` and rename the result to `path`, so that a kill leaves the old file or none.

    Args:
        replace: whether the result replaces a file that exists by then. If not, the old file stays, provided that the
            file system has hard links.

    Raises:
        InputError: the system refuses to write there: a full disk, a folder that others own.
    """
    path = Path(path)
    # Not the process id, which two machines that share the folder could both have.
    temporary = path.with_name(f".{path.name}.{uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            if not replace and _linked(temporary, path):
                return
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _unwritable(path, error) from error
    except SafetensorError as error:
        if found := _SYSTEM_ERROR.search(str(error)):
            number = int(found[1])
            raise _unwritable(path, OSError(number, os.strerror(number))) from error
        raise


# safetensors has the system's errors as text: "I/O error: No space left on device (os error 28)".
_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def _unwritable(path: Path, error: OSError) -> InputError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "Make room there" if full else "Make it writable, or give another place"
    return InputError(str(path), None, f"cannot be written ({error.strerror or error})", f"{remedy}, and run again")


def _linked(source: Path, target: Path) -> bool:
    """Name a file `target` unless that exists; False if the file system cannot do both in one step."""
    try:
        os.link(source, target)
    except FileExistsError:
        return True
    except OSError:
        return False
    return True


def write_pack(path: Path, tensors: dict[str, torch.Tensor], meta: dict | None = None, replace: bool = True) -> None:
    """Write tensors and one JSON-able `meta` dict as a safetensors file whose bytes depend on the content alone.

    For `replace` see `write_atomically`.
    """
    tensors = {key: tensor.detach().contiguous() for key, tensor in sorted(tensors.items())}
    metadata = {META_KEY: json.dumps(meta or {}, sort_keys=True)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata), replace)


@contextmanager
def open_pack(path: Path) -> Iterator[tuple[safe_open, dict]]:
    """Open a pack of `write_pack` to read parts of it: (safetensors handle, meta).

    Raises:
        InputError: the file is missing, is not safetensors, carries no w2w++ metadata, or fails while it is read.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(str(path), None, "no such file", "Run `dvc repro` to make it")
    try:
        with safe_open(path, framework="pt") as pack:
            try:
                meta = json.loads((pack.metadata() or {}).get(META_KEY, ""))
            except ValueError:
                meta = None
            if not isinstance(meta, dict):
                raise InputError(
                    str(path),
                    META_KEY,
                    "metadata missing or malformed, so this is not a w2w++ pack",
                    "Write it with w2wpp.files.storage.write_pack",
                )
            yield pack, meta
    except (SafetensorError, OSError) as error:
        raise InputError(
            str(path),
            None,
            f"not a readable safetensors file ({error})",
            "Delete it and run `dvc repro`, or `git checkout` it if it is tracked",
        ) from error


def read_pack(path: Path, needed: Sequence[str] = ()) -> tuple[dict[str, torch.Tensor], dict]:
    """Read a pack of `write_pack`: (tensors, meta).

    Args:
        needed: names of required tensors.

    Raises:
        InputError: the file is missing, is not safetensors, carries no w2w++ metadata, or lacks a needed tensor.
    """
    with open_pack(path) as (pack, meta):
        for name in needed:
            if name not in pack.keys():  # noqa: SIM118
                raise InputError(
                    str(path), name, "no such tensor in this file", "Give the right file; this is of another stage"
                )
        return {key: pack.get_tensor(key) for key in pack.keys()}, meta  # noqa: SIM118


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_hash(folder: Path) -> str:
    """SHA-256 of the names and bytes of all files in a folder and its subfolders, in hex."""
    files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    lines = [f"{path.relative_to(folder).as_posix()} {file_hash(path)}" for path in files]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_json(path: Path, content: dict) -> None:
    """Write a dict as sorted, indented JSON; refuses NaN and infinities with ValueError."""
    text = json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def read_json(path: Path) -> dict:
    """Read a JSON object.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError as error:
        raise InputError(str(path), None, "no such file", "Run `dvc repro` to make it") from error
    except ValueError as error:
        raise InputError(str(path), None, f"not valid JSON ({error})", "Delete it and run `dvc repro`") from error


def rounded(tree: dict, digits: int = 4) -> dict:
    """A metrics tree with rounded floats, so that diffs show changes and no noise."""
    return {
        key: rounded(value, digits)
        if isinstance(value, dict)
        else round(value, digits)
        if isinstance(value, float)
        else value
        for key, value in tree.items()
    }


def write_csv(path: Path, rows: list[dict] | pd.DataFrame) -> None:
    """Write rows as CSV without an index column."""
    import pandas as pd  # of the extra `pipeline`, as tables are

    frame = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(rows)
    write_atomically(path, lambda temporary: frame.to_csv(temporary, index=False))


def read_csv(path: Path, columns: Sequence[str] = ()) -> pd.DataFrame:
    """Read a CSV and check that it has `columns`; names of people remain text even if they look like numbers.

    Raises:
        InputError: the file is missing, unreadable, or lacks a column.
    """
    import pandas as pd  # as above

    try:
        frame = pd.read_csv(path, keep_default_na=False, dtype={"person": str})
    except FileNotFoundError as error:
        raise InputError(str(path), None, "no such file", "Run `dvc repro` to make it") from error
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(str(path), None, f"not a readable CSV ({error})", "Delete it and run `dvc repro`") from error
    for column in columns:
        if column not in frame:
            raise InputError(str(path), column, "column missing", "Delete the file and run `dvc repro`")
    return frame
