"""Pictures from strangers: told by their content, bounded before they are decoded, and 8-bit RGB afterwards."""

import os
import re
import warnings
from collections.abc import Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from w2wpp.files.errors import InputError
from w2wpp.files.file_kinds import START, Kind, kind_of
from w2wpp.files.tensor_files import opened, printable

# Those that are read, as Pillow calls them.
FORMATS = {"a JPEG picture": "JPEG", "a PNG picture": "PNG", "a WebP picture": "WEBP"}
MAX_BYTES, MAX_PIXELS = 64 * 2**20, 64 * 10**6
MIN_SIDE, MAX_SIDE, MAX_RATIO = 64, 16_384, 4
# Of a progressive JPEG, which has 10 or so; each costs the time of a whole picture, in as little as 50 bytes.
MAX_SCANS = 50
MAX_PARTS = 100_000  # segments of a JPEG or chunks of a PNG: Pillow spends microseconds and a list entry on each

_NAMED_LIKE_ONE = re.compile(
    r"\.(?:jpg|jpeg|jpe|jfif|jif|pjpeg|pjp|a?png|webp|gif|bmp|dib|tiff?|hei[cf]|hif|avif|jp2|jxl|psd|"
    r"dng|cr[23]|nef|arw|raf|orf|rw2)",
    re.IGNORECASE,
)
# How Pillow undoes the eight orientations of Exif.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# In compressed data, a byte 255 that begins no marker is followed by 0 or by the number of a restart.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_START_OF_SCAN, _END, _WITHOUT_LENGTH = 0xDA, 0xD9, (0x01, 0xD8)


def claims_to_be_picture(path: Path) -> bool:
    """Whether a file is a picture by its content, or by its name; a file that cannot be opened, by its name.

    A symbolic link is not followed.
    """
    if _NAMED_LIKE_ONE.fullmatch(path.suffix):
        return True
    try:
        with opened(path, os.O_NOFOLLOW) as file:
            kind = kind_of(file.read(START))
            return kind is not None and kind.picture
    except InputError:
        return False


def check_kind(path: Path) -> None:
    """Refuse a file that does not begin like a picture that `read_picture` reads; an InputError as of it."""
    with opened(path, os.O_NOFOLLOW) as file:
        _known(file.read(START), printable(path))


def read_picture(path: Path) -> Image.Image:
    """A picture, RGB, turned the way it was taken.

    What it is counts, not how it is named: JPEG (also CMYK, grey, the first of several), PNG and WebP. Greyscale of 16
    bits is scaled to 8; what is transparent is laid on white; of an animation the first picture is taken; a colour
    profile is not applied. Metadata that cannot be read turn nothing.

    Raises:
        InputError: no file to read, or too large a one; another kind of file, which the reason names; shorter than
            `MIN_SIDE`, longer than `MAX_SIDE`, more than `MAX_RATIO` times as long as wide or of more than `MAX_PIXELS`
            pixels; or damaged. The same bytes give the same reason.
    """
    where = printable(path)
    with opened(path, os.O_NOFOLLOW) as file:
        content = file.read(START)
        kind = _known(content, where)
        content += file.read(MAX_BYTES + 1 - len(content))
    if len(content) > MAX_BYTES:
        raise InputError(where, None, f"larger than {MAX_BYTES // 2**20} MiB", "Make it smaller")
    _check_parts(content, kind, where)
    try:
        with warnings.catch_warnings(action="ignore"):
            photo = Image.open(BytesIO(content), formats=tuple(FORMATS.values()))
            _check_size(photo.size, where)
            photo.load()  # before its metadata are, for which Pillow may load it and keep half of a damaged picture
            return _turned(_to_rgb(photo, content[24] if photo.format == "PNG" else None), _orientation(photo))
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(where, None, f"more than {MAX_PIXELS // 10**6} million pixels", "Make it smaller") from error
    except Exception as error:  # decoders raise what they like at damaged files
        raise InputError(where, None, f"a damaged {kind} ({_words(error)})", "Give another photo") from error


def as_rgb(picture: Image.Image) -> Image.Image:
    """A copy of an opened picture by the rules of `read_picture`: RGB, turned the way it was taken."""
    clear = picture.info.get("transparency")
    deep = any(value > 255 for value in (clear if isinstance(clear, tuple) else (clear,)) if isinstance(value, int))
    depth = (16 if deep else 8) if picture.format == "PNG" else None
    return _turned(_to_rgb(picture.copy(), depth), _orientation(picture))


def _known(start: bytes, where: str) -> str:
    """The format of a picture that is read, as Pillow calls it."""
    kind = kind_of(start) or Kind("no picture")
    if kind.name not in FORMATS:
        raise InputError(where, None, f"{kind.name}; JPEG, PNG and WebP are read", kind.remedy or "Convert it")
    return FORMATS[kind.name]


def _check_size(size: tuple[int, int], where: str) -> None:
    if (
        min(size) < MIN_SIDE
        or max(size) > MAX_SIDE
        or max(size) > MAX_RATIO * min(size)
        or size[0] * size[1] > MAX_PIXELS
    ):
        raise InputError(
            where,
            None,
            f"{size[0]} x {size[1]} pixels, expected {MIN_SIDE} to {MAX_SIDE} each way, at "
            f"most {MAX_RATIO} times as many one way as the other, and {MAX_PIXELS // 10**6} million at "
            "most",
            "Cut or resize it",
        )


def _check_parts(content: bytes, kind: str, where: str) -> None:
    if kind not in ("JPEG", "PNG"):  # a WebP's are walked through by its library, in no time
        return
    parts: list[int | bytes] = list(islice(_segments(content) if kind == "JPEG" else _chunks(content), MAX_PARTS + 1))
    if len(parts) > MAX_PARTS or parts.count(_START_OF_SCAN) > MAX_SCANS:
        raise InputError(where, None, f"a {kind} of more than {MAX_PARTS} parts or {MAX_SCANS} scans", "Convert it")


def _segments(jpeg: bytes) -> Iterator[int]:
    """The markers of the first picture of a JPEG, damaged or not."""
    at = 0
    while found := _MARKER.search(jpeg, at):
        marker, at = found[0][1], found.end()
        yield marker
        if marker == _END:
            return
        if marker not in _WITHOUT_LENGTH:
            at += int.from_bytes(jpeg[at : at + 2])


def _chunks(png: bytes) -> Iterator[bytes]:
    """The types of the chunks of a PNG, damaged or not."""
    at = 8
    while at < len(png):
        yield png[at + 4 : at + 8]
        at += 12 + int.from_bytes(png[at : at + 4])


def _orientation(photo: Image.Image) -> Image.Transpose | None:
    try:
        value = photo.getexif().get(ExifTags.Base.Orientation)
    except Exception:  # of whatever kind; the picture itself is sound
        return None
    return _TURNS.get(value) if isinstance(value, int) else None


def _turned(picture: Image.Image, turn: Image.Transpose | None) -> Image.Image:
    return picture if turn is None else picture.transpose(turn)


def _to_rgb(photo: Image.Image, depth: int | None) -> Image.Image:
    """`depth` is that of a PNG's samples, in bits."""
    clear = photo.info.get("transparency")  # what is transparent: a grey, a colour, or an alpha per entry of a palette
    if photo.mode.startswith("I;16"):
        values = np.asarray(photo)
        grey = (np.minimum(values, 65_407) + 128) // 257
        return Image.fromarray(np.where(values == clear, 255, grey).astype(np.uint8)).convert("RGB")
    if depth is not None and photo.mode in ("L", "RGB") and clear is not None:
        # Pillow brings the pixels to 8 bits, but not the colour that it then compares them to.
        photo.info["transparency"] = (
            tuple(map(_to_8_bits, clear, [depth] * 3)) if photo.mode == "RGB" else _to_8_bits(clear, depth)
        )
    if not photo.has_transparency_data:
        return photo.convert("RGB")
    white = Image.new("RGBA", photo.size, "white")
    white.alpha_composite(photo.convert("RGBA"))
    return white.convert("RGB")


def _to_8_bits(value: int, depth: int) -> int:
    return value >> 8 if depth == 16 else value * 255 // (2**depth - 1) & 255


def _words(error: Exception) -> str:
    """What a decoder says, without addresses of its objects, which differ from run to run."""
    words = " ".join(re.sub(r"<[^>]*>|\b0x[0-9a-fA-F]+", "", str(error)).split())
    return printable(words)[:200] or type(error).__name__
