"""Photos of held-out people from a folder of the user's: a sub-folder for each person, named after them."""

import hashlib
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from w2wpp.compute.runtime import progress
from w2wpp.faces.frames import Frame, align
from w2wpp.faces.portraits import PortraitsParams
from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import opened, printable

SUFFIXES, FORMATS = (".jpg", ".jpeg", ".png", ".webp"), ("JPEG", "PNG", "WEBP")
MAX_BYTES, MAX_PIXELS, MIN_SIDE = 64 * 2**20, 64 * 10**6, 64
# Names become names of files, and text in figures and tables.
_NAME = re.compile(r"\w[\w .'-]{0,62}\w|\w")


def read_people(params: PortraitsParams, seed: int, find: Callable[[np.ndarray], Frame | None]
                ) -> tuple[torch.Tensor, list[dict], list[dict]]:
    """Photos of the validation and test people, aligned by their faces (see `align`).

    Of each person the first photos by name are taken: one that inversion sees and `params.score_photos` to score
    against. Who is validation and who test is drawn by seed and name; people beyond those asked for are left out.

    Args:
        params: `path` is the folder.
        find: see `w2wpp.faces.frames.load_face_finder`.

    Returns:
        Photos uint8 [people, 1 + score_photos, photo_size, photo_size, 3]; a row per photo (person, split, photo, file,
        face: whether one was found); and a row (person, file, reason) per photo that cannot be read, and per person of
        whom there are too few.

    Raises:
        InputError: the folder cannot be read, a person's name is no plain name, something in it is a symbolic link, or
            there are too few people of whom there are enough photos.
    """
    folder, wanted = Path(params.path).expanduser(), params.validation + params.test
    names = sorted(names_of_people(folder), key=lambda name: (hashlib.sha256(f"{seed} {name}".encode()).digest(), name))
    images, rows, rejected = {}, {}, []
    for name in progress(names, "people with photos"):
        if len(images) == wanted:
            break
        photos, files, refused = _photos_of(folder / name, 1 + params.score_photos)
        rejected += [{"person": name, **each} for each in refused]
        if len(photos) <= params.score_photos:
            rejected.append({"person": name, "file": "", "reason": f"{len(photos)} photos can be read, expected at "
                             f"least {1 + params.score_photos}"})
            continue
        frames = [_find_small(photo, 2 * params.photo_size, find) for photo in photos]
        images[name] = np.stack([align(*each, params.photo_size) for each in zip(photos, frames, strict=True)])
        rows[name] = [{"photo": number, "file": file, "face": int(frame is not None)}
                      for number, (file, frame) in enumerate(zip(files, frames, strict=True))]
    if len(images) < wanted:
        first = f"; the first of {len(rejected)} rejected, {rejected[0]['person']}: {rejected[0]['reason']}" \
            if rejected else ""
        raise InputError(printable(folder), None, f"{len(images)} people with {1 + params.score_photos} photos each, "
                         f"expected {params.validation} validation and {params.test} test people{first}",
                         "Add people, or lower portraits.validation, portraits.test or portraits.score_photos")
    splits = dict(zip(images, ["validation"] * params.validation + ["test"] * params.test, strict=True))
    people = sorted(images, key=lambda name: (splits[name] == "test", name))
    return (torch.from_numpy(np.stack([images[name] for name in people])),
            [{"person": name, "split": splits[name], **row} for name in people for row in rows[name]], rejected)


def _find_small(photo: Image.Image, side: int, find: Callable[[np.ndarray], Frame | None]) -> Frame | None:
    """The face of a photo, looked for where its shorter side has `side` pixels at most, as detectors are slow."""
    shrink = max(1.0, min(photo.size) / side)
    small = photo.resize(tuple(max(1, round(length / shrink)) for length in photo.size), Image.Resampling.LANCZOS)
    frame = find(np.asarray(small))
    larger = photo.width / small.width
    return None if frame is None else (frame[0] * larger, frame[1] * larger)


def names_of_people(folder: Path) -> list[str]:
    """The sub-folders of a folder of photos; an InputError as of `read_people` where something is wrong with them."""
    names = []
    for child in _children(folder, "Give a folder that has a sub-folder of photos for each person"):
        if child.is_symlink():
            raise InputError(printable(child.path), None, "a symbolic link", "Put the folder itself in its place")
        if child.is_dir(follow_symlinks=False):
            if not _NAME.fullmatch(child.name):
                raise InputError(printable(child.path), None, "no plain name of a person",
                                 "Name the folder with at most 64 letters, digits, spaces or any of _ - . '")
            names.append(child.name)
    return names


def _photos_of(folder: Path, count: int) -> tuple[list[Image.Image], list[str], list[dict]]:
    """At most `count` photos of a person, their names, and a row (file, reason) per file before those that is none."""
    photos, files, refused = [], [], []
    for child in _children(folder, "Check its permissions"):
        if len(photos) == count:
            break
        if child.is_symlink():
            raise InputError(printable(child.path), None, "a symbolic link", "Put the photo itself in its place")
        try:
            photos.append(_read(Path(child.path)))
            files.append(printable(child.name))
        except InputError as error:
            refused.append({"file": printable(child.name), "reason": error.reason})
    return photos, files, refused


def _children(folder: Path, remedy: str) -> list[os.DirEntry]:
    """What is in a folder, sorted by name, without hidden files."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except (OSError, ValueError) as error:
        raise InputError(printable(folder), None, f"cannot be read ({getattr(error, 'strerror', None) or error})",
                         remedy) from error


def _read(path: Path) -> Image.Image:
    """A photo, RGB, turned the way it was taken."""
    where = printable(path)
    if path.suffix.lower() not in SUFFIXES:
        raise InputError(where, None, f"not named like one of {', '.join(FORMATS)}", "Convert it")
    with opened(path, os.O_NOFOLLOW) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(where, None, f"larger than {MAX_BYTES // 2**20} MiB", "Make it smaller")
    try:
        photo = Image.open(io.BytesIO(content), formats=FORMATS)
        if photo.width * photo.height > MAX_PIXELS or min(photo.size) < MIN_SIDE:
            raise InputError(where, None, f"{photo.width} x {photo.height} pixels, expected {MIN_SIDE} each way at "
                             f"least and {MAX_PIXELS // 10**6} million at most", "Give another photo")
        return ImageOps.exif_transpose(photo).convert("RGB")
    except InputError:
        raise
    except Exception as error:  # decoders raise what they like at damaged files
        raise InputError(where, None, f"no readable picture ({' '.join(str(error).split())[:200] or repr(error)})",
                         "Give another photo") from error
