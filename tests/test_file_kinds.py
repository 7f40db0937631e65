"""Files are told by their first bytes, whatever they are called."""

import io
import tarfile
import zipfile

import pytest
from PIL import Image

from w2wpp.files.file_kinds import START, as_text, describe, kind_of


@pytest.mark.parametrize(
    ("format", "name"),
    [
        ("JPEG", "a JPEG picture"),
        ("PNG", "a PNG picture"),
        ("WEBP", "a WebP picture"),
        ("GIF", "a GIF picture"),
        ("TIFF", "a TIFF picture or a camera's raw file"),
        ("BMP", "a BMP picture"),
        ("AVIF", "an AVIF picture"),
        ("JPEG2000", "a JPEG 2000 picture"),
    ],
)
def test_pictures(format, name):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, format)
    kind = kind_of(file.getvalue()[:START])
    assert (kind.name, kind.picture) == (name, True)
    assert describe(file.getvalue()[:START]) == (name, "Give it the ending of what it is")


@pytest.mark.parametrize("compression", ["gz", "xz"])
def test_archives(compression):
    file = io.BytesIO()
    tarfile.open(fileobj=file, mode=f"w:{compression}").close()
    assert "archive" in kind_of(file.getvalue()[:START]).name
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("a", b"")
    assert kind_of(file.getvalue()[:START]).name == "a zip archive"


@pytest.mark.parametrize("length", [0x0AFF, 0x002A4949, 0x002B4949, 0x4D42, 1])
def test_a_safetensors_file_is_none_of_them_whatever_the_length_of_its_header(length):
    start = length.to_bytes(8, "little") + b'{"lora.weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    assert kind_of(start) is None


def test_the_first_bytes_of_a_text():
    assert kind_of(b"\xef\xbb\xbf <?xml version='1.0'?>\n<svg>").name == "an SVG picture"
    assert kind_of(b"<?xml version='1.0'?><Error>").name == "a server's answer in XML, not the file"
    assert kind_of(b"Entry not found") is None
    assert as_text(b"Entry not found")[0] == "a text, not the file: 'Entry not found'"
    assert as_text(bytes(range(128, 200))) is None
