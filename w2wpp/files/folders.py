"""Listings of folders with untrusted files: bounded in size, in an order that does not depend on the file system."""

import os
import unicodedata
from itertools import islice
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable

MAX_NAMES = 100_000
_LEFT_BEHIND = {
    "__macosx": "macOS leaves in archives",
    "@eadir": "a Synology NAS keeps beside files",
    "$recycle.bin": "Windows keeps of deleted files",
    "lost+found": "Linux keeps of a damaged disk",
    "system volume information": "Windows keeps of a disk",
}


def expanded(path: str | Path) -> Path:
    """A path in which a leading ~ is the home directory, as in a shell; ~ of an unknown user stays."""
    return Path(os.path.expanduser(path))


def normal_form(name: str) -> str:
    """A name with its accents composed (NFC), because file systems differ in this."""
    return unicodedata.normalize("NFC", name)


def left_behind(entry: os.DirEntry) -> str:
    """What something is that a system, an archive or a file server leaves in a folder, or that is hidden, else ""."""
    if entry.name.lower() in _LEFT_BEHIND:
        return f"what {_LEFT_BEHIND[entry.name.lower()]}"
    if entry.name.startswith("._"):
        return "what macOS keeps beside a file"
    if entry.name.startswith("."):
        return f"a hidden {'folder' if entry.is_dir(follow_symlinks=False) else 'file'}"
    return ""


def entries(folder: Path, root: Path | None = None, counted: int = 0, limit: int = MAX_NAMES) -> list[os.DirEntry]:
    """All that lies in a folder, hidden files too, sorted by name.

    Args:
        root: the folder that is looked through, and this one is in; by default this one itself.
        counted: names that were found in it already.
        limit: more names are an error, and are not looked at.

    Raises:
        OSError: the folder cannot be read.
        InputError: naming `root`, which holds more than `limit` names.
    """
    with os.scandir(folder) as found:
        listed = list(islice(found, limit + 1 - counted))
    if counted + len(listed) > limit:
        raise InputError(printable(root or folder), None, f"more than {limit} names", "Split the folder")
    return sorted(listed, key=lambda entry: (normal_form(entry.name), entry.name))


def children(folder: Path, remedy: str, limit: int = MAX_NAMES) -> list[os.DirEntry]:
    """As `entries`, but a folder that cannot be read is an InputError with this remedy."""
    try:
        return entries(folder, limit=limit)
    except (OSError, ValueError) as error:
        raise InputError(
            printable(folder), None, f"cannot be read ({getattr(error, 'strerror', None) or error})", remedy
        ) from error
