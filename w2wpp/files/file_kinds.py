"""What a file is, told by its first bytes, whatever its name says, and the remedy where it stands for another."""

import re
from typing import NamedTuple

import numpy as np

# As many bytes as `kind_of` needs.
START = 512


class Kind(NamedTuple):
    """What a file is.

    Attributes:
        name: with its article, as in "a PNG picture".
        remedy: what to do where another file was expected; None if it need only be called what it is.
        picture: whether it is one that cameras or drawing programs write.
    """

    name: str
    remedy: str | None = None
    picture: bool = False


_AGAIN = "Fetch it again"
_ITSELF = "Download the file itself; where the page asks to sign in or to accept a licence, do that first"
_UNPACK = "Unpack it, if what you want is in it"
_RENAME = "Give it the ending of what it is"
_TEXT = r"(?i)(?:\xef\xbb\xbf)?\s*"
# Where eight bytes could be the length of a safetensors header, those that no header has are ruled out.
_PATTERNS = (
    (r"\xff\xd8\xff", Kind("a JPEG picture", picture=True)),
    (r"\x89PNG\r\n\x1a\n", Kind("a PNG picture", picture=True)),
    (r"RIFF.{4}WEBP", Kind("a WebP picture", picture=True)),
    (r"GIF8[79]a", Kind("a GIF picture", picture=True)),
    (r"(?:II\*\0|II\x2b\0)(?!\0{4})|MM\0\*|MM\0\x2b", Kind("a TIFF picture or a camera's raw file", picture=True)),
    (r".{4}ftyp(?:hei|hev|mif1|msf1)", Kind("a HEIC picture", picture=True)),
    (r".{4}ftypavi[fs]", Kind("an AVIF picture", picture=True)),
    (r"8BPS", Kind("a Photoshop file", picture=True)),
    (r"\0\0\0\x0cjP  |\xff\x4f\xff\x51", Kind("a JPEG 2000 picture", picture=True)),
    (r"\0\0\0\x0cJXL |\xff\x0a(?!\0{6})", Kind("a JPEG XL picture", picture=True)),
    (r"BM.{12}[\x0c\x28\x38\x40\x6c\x7c]\0\0\0", Kind("a BMP picture", picture=True)),
    (r".{4}ftyp|\x1a\x45\xdf\xa3|RIFF.{4}AVI ", Kind("a video")),
    (
        r"\0\x05\x16\x07",
        Kind(
            "what macOS keeps about a file beside it, in archives",
            "Delete it; the file itself is called the same without ._",
        ),
    ),
    (r"\x1f\x8b", Kind("a gzip archive", _UNPACK)),
    (r"7z\xbc\xaf\x27\x1c", Kind("a 7z archive", _UNPACK)),
    (r"Rar!", Kind("a RAR archive", _UNPACK)),
    (r"\xfd7zXZ", Kind("an xz archive", _UNPACK)),
    (r"\x28\xb5\x2f\xfd", Kind("a Zstandard archive", _UNPACK)),
    (r"PK\x03\x04", Kind("a zip archive", _UNPACK)),
    (r"%PDF", Kind("a PDF document")),
    (r"GGUF", Kind("a GGUF file", "Use the LoRA in safetensors")),
    (r"\x89HDF", Kind("an HDF5 file", "Use the LoRA in safetensors")),
    (
        _TEXT + r"version https://git-lfs\.github\.com/",
        Kind(
            "a Git LFS pointer, which only stands for the file",
            "Run `git lfs pull` in the repository that it is from",
        ),
    ),
    (
        _TEXT + r"\# xet version",
        Kind("a Xet pointer, which only stands for the file", "Fetch the file itself, as `hf download` does"),
    ),
    (_TEXT + r"<(?:svg|\?xml.*<svg)", Kind("an SVG picture")),
    (_TEXT + r"<(?:!doctype html|html|head|!--)", Kind("a web page, not the file", _ITSELF)),
    (_TEXT + r"<\?xml", Kind("a server's answer in XML, not the file", _ITSELF)),
    (_TEXT + r'\{"', Kind("a JSON text, not the file", _ITSELF)),
    (
        r"[^\0]*/annex/objects/",
        Kind("a git-annex pointer, which only stands for the file", "Run `git annex get` in the repository it is from"),
    ),
)
_KINDS = tuple((re.compile(pattern.encode("latin-1"), re.DOTALL), kind) for pattern, kind in _PATTERNS)


def kind_of(start: bytes) -> Kind | None:
    """What begins with these bytes; None where they tell nothing.

    Args:
        start: the first bytes of a file, `START` where there are as many.
    """
    if not start:
        return Kind("an empty file", f"{_AGAIN}, or delete it")
    known = next((kind for begin, kind in _KINDS if begin.match(start)), None)
    if known is None and not np.frombuffer(start, np.uint8).any():
        return Kind("zeros at its start, as of a download that was not finished", _AGAIN)
    return known


def describe(start: bytes) -> tuple[str, str] | None:
    """What begins with these bytes, and what to do about it; None where they tell nothing.

    Args:
        start: as of `kind_of`, of a file that is no safetensors file and no pickle.
    """
    kind = kind_of(start)
    return kind and (kind.name, kind.remedy or _RENAME)


def as_text(start: bytes) -> tuple[str, str] | None:
    """The same where these bytes are text in UTF-8 of nothing that is known."""
    # The last character may be cut.
    words = " ".join(start.decode("utf-8", errors="ignore").split())
    if words.isprintable() and len(words.encode()) > 0.8 * len(start):
        return f"a text, not the file: {words[:60]!r}", _AGAIN
    return None
