"""Photos for the fuzz run, sound ones of all modes, and the ways to damage them."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache

import numpy as np
from PIL import Image

from w2wpp.faces.pictures import MAX_SIDE

MODES = {"JPEG": ("L", "RGB", "CMYK"), "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "WEBP": ("RGB", "RGBA")}
SUFFIXES = ("jpg", "JPG", "jpeg", "jpe", "jfif", "png", "PNG", "webp", "bmp", "heic", "dat", "")


def scene(seed: int, size: tuple[int, int] = (90, 80)) -> Image.Image:
    """A picture that differs from the pictures of all other seeds."""
    rng = np.random.default_rng(seed)
    blobs = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    return Image.fromarray((np.asarray(blobs) + rng.normal(0, 4, (*size[::-1], 3))).clip(0, 255).astype(np.uint8))


def encoded(picture: Image.Image, kind: str, mode: str, **options) -> bytes:
    """A picture as a file of one of `MODES`; alpha is a ramp."""
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    elif mode in ("LA", "RGBA"):
        picture = picture.convert(mode)
        picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    else:
        picture = picture.convert(mode)
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def sound_photo(rng: random.Random, number: int) -> bytes:
    """The bytes of a photo of a random format, mode, size and orientation."""
    kind = rng.choice(list(MODES))
    mode, size = rng.choice(MODES[kind]), (rng.randrange(64, 130), rng.randrange(64, 130))
    options = {}
    if rng.random() < 0.4:
        options["exif"] = Image.Exif()
        options["exif"][0x0112] = rng.randrange(1, 9)
    if kind == "JPEG":
        options |= {"quality": rng.randrange(30, 96), "progressive": rng.random() < 0.3}
    elif kind == "PNG" and mode == "P" and rng.random() < 0.5:
        options["transparency"] = rng.choice((rng.randrange(256), rng.randbytes(200)))
    elif kind == "PNG" and mode in ("1", "L", "I;16") and rng.random() < 0.3:
        options["transparency"] = rng.randrange(2 if mode == "1" else 256 if mode == "L" else 2**16)
    elif kind == "WEBP":
        options |= {"lossless": rng.random() < 0.5, "quality": 80}
    if rng.random() < 0.1 and kind != "JPEG" and mode in ("RGB", "RGBA"):
        options |= {"save_all": True, "append_images": [scene(number + 10**6, size).convert(mode)]}
    return encoded(scene(number, size), kind, mode, **options)


def undamaged(content: bytes, _: random.Random) -> bytes:
    return content


def flip_start(content: bytes, rng: random.Random) -> bytes:
    return _flip(content, rng, min(len(content), 200))


def flip_anywhere(content: bytes, rng: random.Random) -> bytes:
    return _flip(content, rng, len(content))


def _flip(content: bytes, rng: random.Random, high: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(high)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + rng.choice((rng.randbytes(9), rng.randbytes(5000), content, b"\0" * 10**5))


def splice(content: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.randrange(1, 60)
    return content[:start] + rng.randbytes(rng.choice((0, length, 7))) + content[start + length :]


def broken_exif(content: bytes, rng: random.Random) -> bytes:
    """The same picture with invalid metadata."""
    exif = rng.choice(
        (
            rng.randbytes(rng.randrange(200)),
            b"Exif\0\0" + rng.randbytes(30),
            b"II*\0\x08\0\0\0\xff\xff",
            b"MM\0*\0\0\0\x08\0\x02\x01\x12\0\x03\0\0\0\x01\0\x09\0\0\x01\x12\0\x04\xff\xff\xff\xff",
            b"\0\x08\0\x02\x01\x12\0\x03",
            b"II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0abcd\x08\0\0\0",
        )
    )
    if content.startswith(b"\x89PNG"):
        return content[:33] + chunk(b"eXIf", exif) + content[33:]
    if content.startswith(b"\xff\xd8"):
        return content[:2] + segment(0xE1, b"Exif\0\0" + exif) + content[2:]
    extra = b"EXIF" + struct.pack("<I", len(exif)) + exif + b"\0" * (len(exif) % 2)
    return b"RIFF" + struct.pack("<I", len(content) - 8 + len(extra)) + content[8:] + extra


def other_structure(content: bytes, rng: random.Random) -> bytes:
    """Leave out, repeat, exchange or invent parts of the file, with correct checksums."""
    number = rng.choice((0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1))
    if content.startswith(b"\x89PNG"):
        parts = list(_png_parts(content))
        at = rng.randrange(len(parts))
        kind, data = parts[at]
        choice = rng.randrange(5)
        if choice == 0:
            del parts[at]
        elif choice == 1:
            parts.insert(rng.randrange(len(parts)), parts[at])
        elif choice == 2:
            parts[at] = kind, rng.choice((b"", data[:-1], data + b"\0", rng.randbytes(len(data))))
        elif choice == 3:
            header = bytearray(parts[0][1].ljust(13, b"\0"))
            where, value = rng.choice(
                (
                    (0, number),
                    (4, number),
                    (8, rng.choice((1, 2, 3, 4, 8, 16, 32)) << 24),
                    (9, rng.randrange(8) << 24),
                    (10, 1 << 24),
                    (12, rng.randrange(3) << 24),
                )
            )
            header[where : where + 4] = struct.pack(">I", value)[: 4 if where < 8 else 1]
            parts[0] = parts[0][0], bytes(header[:13])
        else:
            made_up = rng.choice(
                (
                    b"tRNS",
                    b"PLTE",
                    b"gAMA",
                    b"iCCP",
                    b"acTL",
                    b"fcTL",
                    b"fdAT",
                    b"tEXt",
                    b"zTXt",
                    b"iTXt",
                    b"pHYs",
                    b"cHRM",
                    b"sBIT",
                    b"IEND",
                )
            )
            parts.insert(
                rng.randrange(1, len(parts)),
                (
                    made_up,
                    rng.choice((b"", rng.randbytes(26), b"a\0" + b"\0" * 9, b"a\0\0" + zlib.compress(bytes(10**6)))),
                ),
            )
        return content[:8] + b"".join(chunk(*part) for part in parts)
    if content.startswith(b"\xff\xd8"):
        markers = [
            at
            for at in range(2, len(content) - 4)
            if content[at] == 255 and content[at + 1] in (0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xEE)
        ]
        at = rng.choice(markers)
        length = 2 + int.from_bytes(content[at + 2 : at + 4])
        choice = rng.randrange(4)
        if choice == 0:
            return content[:at] + content[at + length :]
        if choice == 1:
            return content[: at + length] + content[at : at + length] * rng.choice((1, 2, 100)) + content[at + length :]
        if choice == 2:
            return content[: at + 2] + struct.pack(">H", number & 0xFFFF) + content[at + 4 :]
        frame = next(at for at in markers if content[at + 1] in (0xC0, 0xC2))
        where = frame + rng.choice((5, 7))
        return content[:where] + struct.pack(">H", number & 0xFFFF) + content[where + 2 :]
    at = rng.choice((4, 12, 16, 20, 24, 26, 27))
    return content[:at] + struct.pack("<I", number) + content[at + 4 :]


def bomb(content: bytes, rng: random.Random) -> bytes:
    """A small file with large demands: declared or cut-off pixels, sides, scans, segments, chunks."""
    choice = rng.randrange(7)
    if choice == 0:
        return _blank(rng.choice(((80_000, 64), (64, 20_000), (2_000, 64), (64, 257), (MAX_SIDE, MAX_SIDE))))
    if choice == 1:
        return _blank((8_000, 8_000))[: -rng.randrange(30, 200)]
    if choice == 2:
        sides = rng.choice(((2**31 - 1, 2**31 - 1), (10**5, 10**5), (8_000, 8_001)))
        header = struct.pack(">IIBBBBB", *sides, 8, 6, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999))
    jpeg = encoded(scene(rng.randrange(9)), "JPEG", "RGB", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    if choice == 3:
        return jpeg[:scan] + jpeg[scan:-2] * 10_000 + jpeg[-2:]
    if choice == 4:
        return jpeg[:2] + segment(0xE5, b"") * 10**6 + jpeg[2:]
    if choice == 5:
        png = encoded(scene(rng.randrange(9)), "PNG", "RGB")
        return png[:33] + chunk(b"prVt", b"") * 200_000 + png[33:]
    side = struct.pack("<I", MAX_SIDE - 2)[:3]
    flags = bytes((2,)) + bytes(3)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + flags + side + side + b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", len(body)) + body + content[12:]


@cache
def _blank(size: tuple[int, int]) -> bytes:
    return encoded(Image.new("1", size), "PNG", "1")


def other_kind(_: bytes, rng: random.Random) -> bytes:
    """Other files that are named like a photo."""
    picture, file = scene(rng.randrange(99)), io.BytesIO()
    kind = rng.choice(("GIF", "BMP", "TIFF", "ICO", "PPM", "JPEG2000", "AVIF", "TGA", ""))
    if kind:
        picture.save(file, kind)
        return file.getvalue()
    return rng.choice(
        (
            b"",
            b"\0",
            b"<!DOCTYPE html><html>Sign in</html>",
            b"version https://git-lfs.github.com/spec/v1\n",
            b"PK\3\4" + rng.randbytes(99),
            b"%PDF-1.7",
            b"\0\0\0\x18ftypheic" + rng.randbytes(99),
            b"\0\0\0\x18ftypmp42" + rng.randbytes(99),
            b"\0\5\x16\7" + bytes(99),
            b'{"a": 1}',
            bytes(4096),
        )
    )


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.choice((b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP")) + rng.randbytes(
        rng.choice((0, 1, 9, 100, len(content)))
    )


DAMAGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    undamaged,
    flip_start,
    flip_anywhere,
    truncate,
    extend,
    splice,
    broken_exif,
    other_structure,
    bomb,
    other_kind,
    noise,
)


def chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    """A segment of a JPEG."""
    return bytes((255, marker)) + struct.pack(">H", len(data) + 2) + data


def _png_parts(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 8
    while at < len(png):
        length = int.from_bytes(png[at : at + 4])
        yield png[at + 4 : at + 8], png[at + 8 : at + 8 + length]
        at += 12 + length
