"""Pictures from strangers are read as what they hold, or refused by what they are."""

import io
import random
import re
import struct
import zlib

import numpy as np
import photo_files
import pytest
from fuzz_photos import fault
from hypothesis import given, settings
from hypothesis import strategies as st
from photo_files import MODES, chunk, encoded, scene, segment
from PIL import Image, ImageOps

from w2wpp.faces.pictures import MAX_PARTS, MAX_SCANS, check_kind, claims_to_be_picture, read_picture
from w2wpp.files.errors import InputError

HEIGHT, WIDTH = 80, 90


@pytest.fixture
def read(tmp_path):
    """read(content) gives the pixels int64 [h, w, 3] of a photo with these bytes."""

    def pixels(content: bytes, name: str = "photo.jpg") -> np.ndarray:
        (tmp_path / name).write_bytes(content)
        return np.asarray(read_picture(tmp_path / name)).astype(int)

    return pixels


@pytest.fixture
def refused(read):
    def reason(content: bytes, name: str = "photo.jpg") -> str:
        with pytest.raises(InputError) as caught:
            read(content, name)
        assert caught.value.remedy and str(caught.value).isprintable()
        return caught.value.reason

    return reason


def png(samples: np.ndarray, depth: int, color: int, extra: bytes = b"") -> bytes:
    """A PNG of samples [h, w, channels] of a depth that divides 16, written without Pillow."""
    if depth == 16:
        rows = [row.astype(">u2").tobytes() for row in samples]
    else:
        bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth - 1, -1, -1)) & 1
        rows = [np.packbits(row.flatten()).tobytes() for row in bits.astype(np.uint8)]
    header = struct.pack(">IIBBBBB", samples.shape[1], len(samples), depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
        + chunk(b"IEND", b"")
    )


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return color * alpha[..., None] + 255 * (1 - alpha[..., None])


GREY, COLOR = 0, 2


@pytest.mark.parametrize(("color", "channels"), [(GREY, 1), (COLOR, 3), (4, 2), (6, 4)])
def test_16_bits_equal_the_8_bit_picture_beside_it(read, color, channels):
    ramp = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, channels))
    expected = read(png(ramp, 8, color))
    assert np.ptp(expected) > 200
    np.testing.assert_array_equal(read(png(257 * ramp, 16, color)), expected)


def test_16_bits_between_those_of_8_are_rounded(read):
    values = np.arange(2**16)[:65280].reshape(240, 272, 1)
    np.testing.assert_array_equal(read(png(values, 16, GREY))[..., 0], np.rint(values[..., 0] / 257))


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
def test_a_transparent_grey_or_colour_is_laid_on_white(read, depth):
    most = 2**depth - 1
    samples = np.random.default_rng(1).integers(0, min(most, 9) + 1, (HEIGHT, WIDTH, 1)) * max(1, most // 9)
    clear = samples == samples[0, 0]
    assert 0.01 < clear.mean() < 0.6
    expected = np.where(clear, 255, np.rint(samples / most * 255))
    tag = struct.pack(">H", samples[0, 0, 0])
    np.testing.assert_array_equal(read(png(samples, depth, GREY, chunk(b"tRNS", tag))), expected.repeat(3, axis=2))
    if depth >= 8:
        np.testing.assert_array_equal(
            read(png(samples.repeat(3, axis=2), depth, COLOR, chunk(b"tRNS", 3 * tag))),
            np.where(clear, 255, samples >> (depth - 8)).repeat(3, axis=2),
        )


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_alpha_is_laid_on_white(read, kind):
    picture = scene(0, (WIDTH, HEIGHT)).convert("RGBA")
    alpha = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH))
    picture.putalpha(Image.fromarray(alpha.astype(np.uint8)))
    file = io.BytesIO()
    picture.save(file, kind, **({"lossless": True, "exact": True} if kind == "WEBP" else {}))
    expected = on_white(np.asarray(picture)[..., :3], alpha / 255)
    assert np.abs(read(file.getvalue()) - expected).max() <= 1


def test_palettes_with_transparency_are_laid_on_white(read):
    indices = np.random.default_rng(3).integers(0, 4, (HEIGHT, WIDTH, 1))
    palette = np.array([[10, 20, 30], [200, 100, 0], [0, 255, 9], [77, 77, 77]])
    alphas = np.array([0, 128, 255, 255])
    content = png(indices, 8, 3, chunk(b"PLTE", palette.astype(np.uint8).tobytes()) + chunk(b"tRNS", bytes([0, 128])))
    expected = on_white(palette[indices[..., 0]], alphas[indices[..., 0]] / 255)
    assert np.abs(read(content) - expected).max() <= 1


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in MODES.items() for mode in modes])
def test_every_mode_gives_the_picture(read, kind, mode):
    scenery = scene(4, (WIDTH, HEIGHT))
    grey = scenery.convert("1" if mode == "1" else "L").convert("RGB")
    expected = np.asarray(grey if mode in ("1", "L", "LA", "I;16") else scenery).astype(float)
    if mode in ("LA", "RGBA"):
        expected = on_white(expected, np.asarray(Image.linear_gradient("L").resize((WIDTH, HEIGHT))) / 255)
    how = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "JPEG" else {}
    difference = np.abs(read(encoded(scenery, kind, mode, **how)) - expected).mean()
    assert difference < {"JPEG": 5, "PNG": 20 if mode == "P" else 0.6, "WEBP": 0.6}[kind]


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_of_several_pictures_the_first_is_taken(read, kind):
    first, second = (scene(seed, (WIDTH, HEIGHT)) for seed in (5, 6))
    how = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind == "MPO" else {}
    file = io.BytesIO()
    first.save(file, kind, save_all=True, append_images=[second], **how)
    assert Image.open(io.BytesIO(file.getvalue())).n_frames == 2
    assert np.abs(read(file.getvalue()) - np.asarray(first)).mean() < 5


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_photos_are_turned_as_they_were_taken(read, kind, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    upright[:20, :30] = 255, 0, 0  # top left
    upright[:20, -30:] = 0, 255, 0  # top right
    # What the camera stored, in the words of Exif: where the first row and the first column of it belong.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.swapaxes(0, 1),
        6: upright.swapaxes(0, 1)[::-1],
        7: upright.swapaxes(0, 1)[::-1, ::-1],
        8: upright.swapaxes(0, 1)[:, ::-1],
    }[orientation]
    content = encoded(Image.fromarray(np.ascontiguousarray(stored)), kind, "RGB", exif=exif)
    seen = read(content)
    assert seen.shape == upright.shape
    assert np.abs(seen - upright).mean() < 3
    turned = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(seen, np.asarray(turned.convert("RGB")))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("seed", range(8))
def test_broken_metadata_turn_nothing(read, kind, seed):
    content = encoded(scene(7, (WIDTH, HEIGHT)), kind, "RGB")
    broken = photo_files.broken_exif(content, random.Random(seed))
    assert broken != content
    np.testing.assert_array_equal(read(broken), read(content))


@pytest.mark.parametrize("name", ["0.jfif", "0.JPE", "0.png", "0.heic", "0.bmp", "0.txt", "0", "é.jpg"])
def test_content_tells_what_a_file_is(tmp_path, read, name):
    content = encoded(scene(8, (WIDTH, HEIGHT)), "JPEG", "RGB")
    np.testing.assert_array_equal(read(content, name), read(content, "photo.jpg"))
    assert claims_to_be_picture(tmp_path / name)
    check_kind(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("GIF", "a GIF picture"),
        ("BMP", "a BMP picture"),
        ("TIFF", "a TIFF picture or a camera's raw file"),
        ("AVIF", "an AVIF picture"),
        ("JPEG2000", "a JPEG 2000 picture"),
        ("PDF", "a PDF document"),
        ("ICO", "no picture"),
    ],
)
def test_other_files_are_called_by_their_kind(tmp_path, refused, kind, words):
    file = io.BytesIO()
    scene(9, (WIDTH, HEIGHT)).save(file, kind)
    assert refused(file.getvalue()) == f"{words}; JPEG, PNG and WebP are read"
    with pytest.raises(InputError, match=words):
        check_kind(tmp_path / "photo.jpg")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"\0\0\0\x18ftypheic\0\0", "a HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0", "a HEIC"),
        (b"\0\0\0\x18ftypmp42\0\0", "a video"),
        (b"\n <!DOCTYPE html><html>", "a web page"),
        (b"PK\3\4", "a zip archive"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b"\0\5\x16\7\0\2", "what macOS keeps"),
        (b"hello", "no picture"),
        (b"BM", "no picture"),
    ],
)
def test_what_only_stands_for_a_photo_is_told(refused, content, words):
    assert refused(content).startswith(words)


def test_bystanders_make_no_claim(tmp_path):
    for name, content in (
        ("0.txt", b"a photo of sks person"),
        ("0.json", b"{}"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
        ("clip.mov", b"\0\0\0\x14ftypqt  "),
        ("empty", b""),
    ):
        (tmp_path / name).write_bytes(content)
        assert not claims_to_be_picture(tmp_path / name)
    (tmp_path / "picture.dat").write_bytes(b"GIF89a")
    assert claims_to_be_picture(tmp_path / "picture.dat")
    assert claims_to_be_picture(tmp_path / "absent.heic")


@pytest.mark.parametrize(
    "size", [(80_000, 64), (64, 16_385), (2_000, 64), (63, 80), (260, 64), (9_000, 8_000), (2**31 - 1, 2**31 - 1)]
)
def test_sizes_are_refused_before_anything_is_decoded(refused, size):
    header = struct.pack(">IIBBBBB", *size, 8, COLOR, 0, 0, 0)
    told = refused(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"no data"))
    assert f"{size[0]} x {size[1]} pixels, expected 64 to 16384" in told or "more than 64 million pixels" in told


def test_a_strip_of_which_all_is_there_is_refused(refused):
    assert refused(encoded(Image.new("RGB", (80_000, 64)), "PNG", "RGB")).startswith("80000 x 64 pixels")


def test_parts_are_counted_before_anything_is_decoded(refused, read):
    jpeg = encoded(scene(1), "JPEG", "RGB", progressive=True)
    scan = jpeg.rindex(b"\xff\xda")
    many = jpeg[:scan] + jpeg[scan:-2] * MAX_SCANS + jpeg[-2:]
    assert "50 scans" in refused(many)
    np.testing.assert_array_equal(read(jpeg[:scan] + jpeg[scan:-2] * 9 + jpeg[-2:]).shape, read(jpeg).shape)
    assert "100000 parts" in refused(jpeg[:2] + segment(0xE5, b"") * MAX_PARTS + jpeg[2:])
    whole = encoded(scene(1), "PNG", "RGB")
    assert "100000 parts" in refused(whole[:33] + chunk(b"prVt", b"") * MAX_PARTS + whole[33:])
    # What a camera appends to a photo, such as a film or another picture, is no part of it.
    np.testing.assert_array_equal(read(jpeg + many * 2), read(jpeg))


def test_large_files_are_refused(refused):
    assert refused(encoded(scene(1), "JPEG", "RGB") + bytes(64 * 2**20)) == "larger than 64 MiB"


@settings(max_examples=150)
@given(st.sampled_from(photo_files.DAMAGES), st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_damaged_photos_are_refused_or_what_they_hold(tmp_path_factory, damage, number, rng):
    path = tmp_path_factory.mktemp("photo") / f"x.{rng.choice(photo_files.SUFFIXES)}"
    path.write_bytes(damage(photo_files.sound_photo(rng, number), rng))
    reasons = []
    for _ in range(2):
        try:
            picture = read_picture(path)
        except InputError as error:
            assert damage not in (photo_files.undamaged, photo_files.broken_exif)
            assert error.reason.isprintable() and not re.search("0x|object at", error.reason)
            reasons.append(error.reason)
        else:
            assert fault(picture, path) is None
            reasons.append(None)
    assert reasons[0] == reasons[1]
