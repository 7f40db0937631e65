"""Listings of folders with untrusted files: bounded in size, in an order that does not depend on the file system."""

import os
import unicodedata
from itertools import islice
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable

MAX_NAMES = 100_000


def normal_form(name: str) -> str:
    """A name with its accents composed (NFC), because file systems differ in this."""
    return unicodedata.normalize("NFC", name)


def children(folder: Path, remedy: str, limit: int = MAX_NAMES) -> list[os.DirEntry]:
    """All entries of a folder, including hidden ones, sorted by name.

    Args:
        remedy: of the error if the folder cannot be read.
        limit: more names are an error; the rest is not read.

    Raises:
        InputError: the folder cannot be read or holds more than `limit` names.
    """
    try:
        with os.scandir(folder) as entries:
            found = list(islice(entries, limit + 1))
    except (OSError, ValueError) as error:
        raise InputError(
            printable(folder), None, f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy
        ) from error
    if len(found) > limit:
        raise InputError(printable(folder), None, f"more than {limit} names", "Split the folder")
    return sorted(found, key=lambda entry: (normal_form(entry.name), entry.name))
