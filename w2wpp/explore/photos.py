"""Photos that a page sends: read as files of strangers are, and deleted at once."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import printable
from w2wpp.inversion.own_photo import open_photo


def open_photos(files: Sequence[Mapping[str, str]]) -> list[Image.Image]:
    """The pictures of files, each a name and base64 content.

    Raises:
        InputError: naming the file: it is no picture that `w2wpp.invert` reads; or there is none.
    """
    with TemporaryDirectory() as folder:
        return [_opened(file, Path(folder)) for file in files]


def _opened(file: Mapping[str, str], folder: Path) -> Image.Image:
    name = re.sub(r"[^\w. -]", "_", Path(str(file.get("name", ""))).name)[:100] or "photo"
    path = folder / "photo"
    try:
        path.write_bytes(b64decode(str(file.get("content", "")), validate=True))
        return open_photo(path)
    except binascii.Error:
        raise InputError(printable(name), None, "did not arrive whole", "Try again") from None
    except InputError as error:
        where = printable(name) if error.where == printable(path) else error.where
        raise InputError(where, error.key, error.reason, error.remedy) from None
