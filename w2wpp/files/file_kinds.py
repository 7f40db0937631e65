"""The type of a file whose name misleads, recognised by its first bytes, and the remedy."""

import numpy as np

# Bytes that `describe` needs.
START = 512

_AGAIN = "Fetch it again"
_ITSELF = "Download the file itself; where the page asks to sign in or to accept a licence, do that first"
_RENAME = "Give it the ending of what it is"
_UNPACK = "Unpack it, if there are LoRAs in it"
_TEXTS = (
    (
        b"version https://git-lfs.github.com/",
        "a Git LFS pointer, which only stands for the file",
        "Run `git lfs pull` in the repository that it is from",
    ),
    (b"# xet version", "a Xet pointer, which only stands for the file", "Fetch the file itself, as `hf download` does"),
    (b"<!doctype html", "a web page, not the file", _ITSELF),
    (b"<html", "a web page, not the file", _ITSELF),
    (b"<head", "a web page, not the file", _ITSELF),
    (b"<!--", "a web page, not the file", _ITSELF),
    (b"<?xml", "a server's answer in XML, not the file", _ITSELF),
    (b'{"', "a JSON text, not the file", _ITSELF),
)
_MAGICS = (
    (
        b"\x00\x05\x16\x07",
        "what macOS keeps about a file beside it, in archives",
        "Delete it; the file itself is called the same without ._",
    ),
    (b"\x1f\x8b", "a gzip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\xfd7zXZ", "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", _UNPACK),
    (b"\x89PNG", "a PNG picture", _RENAME),
    (b"\xff\xd8\xff", "a JPEG picture", _RENAME),
    (b"RIFF", "a WebP picture or a video", _RENAME),
    (b"%PDF", "a PDF document", _RENAME),
    (b"GGUF", "a GGUF file", "Use the LoRA in safetensors"),
    (b"\x89HDF", "an HDF5 file", "Use the LoRA in safetensors"),
)


def describe(start: bytes) -> tuple[str, str] | None:
    """The type of a file that begins with these bytes, and the remedy; None if the type is unknown.

    Args:
        start: the first `START` bytes, or all of a shorter file, that is no safetensors file and no pickle.
    """
    if not start:
        return "an empty file", f"{_AGAIN}, or delete it"
    for magic, what, remedy in _MAGICS:
        if start.startswith(magic):
            return what, remedy
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for beginning, what, remedy in _TEXTS:
        if text.startswith(beginning):
            return what, remedy
    if b"/annex/objects/" in start:
        return "a git-annex pointer, which only stands for the file", "Run `git annex get` in the repository it is from"
    if not np.frombuffer(start, np.uint8).any():
        return "zeros at its start, as of a download that was not finished", _AGAIN
    return None


def as_text(start: bytes) -> tuple[str, str] | None:
    """Type and remedy if these bytes are UTF-8 text of an unknown type."""
    # The last character may be cut off.
    words = " ".join(start.decode("utf-8", errors="ignore").split())
    if words.isprintable() and len(words.encode()) > 0.8 * len(start):
        return f"a text, not the file: {words[:60]!r}", _AGAIN
    return None
