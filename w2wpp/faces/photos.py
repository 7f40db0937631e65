"""Photos of held-out people from a folder of the user's: a sub-folder for each person, named after them."""

import unicodedata
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image

from w2wpp.compute.runtime import progress
from w2wpp.faces.frames import Frame, align, find_faces
from w2wpp.faces.pictures import check_kind, claims_to_be_picture, read_picture
from w2wpp.faces.portraits import PortraitsParams
from w2wpp.files.errors import InputError
from w2wpp.files.folders import children, left_behind, normal_form
from w2wpp.files.quarantine import PHOTOS, first_refused, refusal
from w2wpp.files.splits import drawn_order
from w2wpp.files.tensor_files import printable

# Names become names of files, of at most 255 bytes with what is added to them, and text in figures and tables.
MAX_NAME, MAX_NAME_BYTES = 64, 192
_INSIDE = " _-.,'·()&+"
_JOINERS = "\u2019\u200c\u200d"  # the curved apostrophe; two that shape letters of Persian and Indic names
_ACCESS = "Check its permissions"
# A print is a photo in PRINT x PRINT greys, in units of their deviation from their mean. JPEG and WebP of quality 50 to
# 95 move no grey of a photo of 160 pixels or more by more than 0.21; rendered photos of one person are 0.56 apart.
PRINT, SAME = 32, 0.25


class FolderPhotos(NamedTuple):
    """What `read_people` found.

    Attributes:
        photos: uint8 [people, 1 + score_photos, photo_size, photo_size, 3].
        rows: of each photo, its person, split, photo (number), file, face (1 if one was found) and faces (how many).
        rejected: person, file, reason, remedy of each photo that is not taken; of each person who has too few, too.
        others: person, file of what makes no claim to be a photo, such as captions, hidden files and folders.
    """

    photos: torch.Tensor
    rows: list[dict]
    rejected: list[dict]
    others: list[dict]


class _Person(NamedTuple):
    """What `_read_person` found: aligned photos, their rows, their prints by file; the rest as in `FolderPhotos`."""

    images: list[np.ndarray]
    rows: list[dict]
    prints: dict[str, np.ndarray]
    rejected: list[dict]
    others: list[str]


def read_people(
    params: PortraitsParams,
    seed: int,
    find: Callable[[np.ndarray], list[Frame]],
    section: str = PortraitsParams.__name__,
) -> FolderPhotos:
    """Photos of the validation and test people, aligned by their largest faces (see `align`).

    Of each person the first photos by name are taken: one that inversion sees and `params.score_photos` to score
    against. Copies of photos that are taken already are not, be they of another format, size or quality, or mirrored.
    Who is validation and who test is drawn by seed and name; people beyond those asked for are left out. All names are
    in normal form (NFC).

    Args:
        params: `path` is the folder.
        find: see `w2wpp.faces.finders.load_face_finder`.
        section: the name of `params` in errors.

    Raises:
        InputError: as of `people_in`, a photo is a symbolic link, or there are too few people with enough photos.
    """
    wanted, count = params.validation + params.test, 1 + params.score_photos
    people, beside = people_in(_folder(params))
    images: dict[str, np.ndarray] = {}
    rows: dict[str, list[dict]] = {}
    known: dict[str, np.ndarray] = {}
    rejected: list[dict] = []
    others = [{"person": "", "file": _shown(path)} for path in beside]
    names = drawn_order(people, seed, " ")
    for name in progress(names, "people with photos"):
        if len(images) == wanted:
            break
        person = _read_person(people[name], count, params.photo_size, find, known)
        rejected += person.rejected
        others += [{"person": name, "file": file} for file in person.others]
        if len(person.rows) < count:
            rejected.append(
                {
                    "person": name,
                    "file": "",
                    "reason": f"{len(person.rows)} photos can be read, expected at least {count}",
                    "remedy": None,
                }
            )
            continue
        images[name], rows[name] = np.stack(person.images), person.rows
        known |= {f"{file} of {name}": each for file, each in person.prints.items()}
    if len(images) < wanted:
        raise _too_few(params, section, len(images), people, beside, rejected)
    splits = dict(zip(images, ["validation"] * params.validation + ["test"] * params.test, strict=True))
    order = sorted(images, key=lambda name: (splits[name] == "test", name))
    return FolderPhotos(
        torch.from_numpy(np.stack([images[name] for name in order])),
        [
            {"person": name, "split": splits[name], "photo": number, **row}
            for name in order
            for number, row in enumerate(rows[name])
        ],
        rejected,
        others,
    )


def check_people(params: PortraitsParams, section: str = PortraitsParams.__name__) -> None:
    """Refuse at once what `read_people` would refuse, by what files begin with and without decoding any.

    Args:
        section: as of `read_people`.

    Raises:
        InputError: as of `read_people`, but that whatever begins like a photo counts as one.
    """
    wanted, count = params.validation + params.test, 1 + params.score_photos
    people, beside = people_in(_folder(params))
    found, refused = 0, []
    for name, folder in people.items():
        photos = 0
        for path in (path for path, claims in _files(folder) if claims):
            try:
                check_kind(path)
            except InputError as error:
                refused.append(refusal(error, PHOTOS, person=name, file=_shown(path)))
                continue
            photos += 1
            if photos == count:
                found += 1
                break
        if found == wanted:
            return
    raise _too_few(params, section, found, people, beside, refused)


def people_in(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """The folder of each person by their name in normal form, and what lies beside these folders.

    Raises:
        InputError: the folder cannot be read or holds too many names, a sub-folder is not named as a person may be or,
            in normal form, as another one, or a symbolic link is in it.
    """
    people: dict[str, Path] = {}
    beside = []
    for child in children(folder, f"Give a folder that has a sub-folder of photos for each person, {_such_as(folder)}"):
        path, name = Path(child.path), normal_form(child.name)
        if left_behind(child):
            beside.append(path)
        elif child.is_symlink():
            raise InputError(printable(path), None, "a symbolic link", "Put the folder itself in its place")
        elif not child.is_dir(follow_symlinks=False):
            beside.append(path)
        elif not _is_plain(name):
            raise InputError(
                printable(path),
                None,
                "no plain name of a person",
                "Begin it with a letter or digit, and "
                f"use letters, digits, spaces and {' '.join(_INSIDE[1:])} alone, {MAX_NAME} or, in UTF-8, "
                f"{MAX_NAME_BYTES} bytes at most",
            )
        elif name in people:
            raise InputError(
                printable(folder),
                None,
                f"{people[name].name!a} and {path.name!a} are one name, spelt with other characters",
                "Rename one of the folders, or join them",
            )
        else:
            people[name] = path
    return people, beside


def _folder(params: PortraitsParams) -> Path:
    if params.path is None:  # which no settings are that ask for photos from a folder
        raise ValueError("path is not set")
    return Path(params.path)


def _is_plain(name: str) -> bool:
    spelt = all(
        each.isalnum() or unicodedata.category(each).startswith("M") or each in _INSIDE + _JOINERS for each in name
    )
    return (
        spelt
        and name[0].isalnum()
        and not name.endswith(" ")
        and len(name) <= MAX_NAME
        and len(name.encode()) <= MAX_NAME_BYTES
    )


def _too_few(
    params: PortraitsParams,
    section: str,
    found: int,
    people: dict[str, Path],
    beside: list[Path],
    rejected: list[dict],
) -> InputError:
    folder = _folder(params)
    reason = (
        f"{found} people with {1 + params.score_photos} photos each, expected {params.validation} validation and "
        f"{params.test} test people"
    )
    remedy = f"Add people, or lower {section}.validation, {section}.test or {section}.score_photos"
    if rejected:
        reason += f"; {first_refused(rejected, 'person', 'file')}"
        if rejected[0]["remedy"]:
            remedy = f"{rejected[0]['remedy']}; or {remedy[0].lower()}{remedy[1:]}"
    loose = [_shown(path) for path in beside if not path.name.startswith(".") and claims_to_be_picture(path)]
    if loose:
        reason += f"; photos that lie loose, in no person's folder: {len(loose)}, such as {loose[0]}"
    deeper = next((name for name, path in islice(people.items(), 100) if _has_folders(path)), None)
    if deeper is not None:
        reason += f"; photos in sub-folders of a person, as of {deeper}, are not looked for"
    if loose or deeper is not None or not people:
        remedy = (
            f"Put the photos of each person into a sub-folder named after them, {_such_as(folder)}; or "
            f"{remedy[0].lower()}{remedy[1:]}"
        )
    return InputError(printable(folder), None, reason, remedy)


def _such_as(folder: Path) -> str:
    return f"such as {printable(folder / 'anna' / '1.jpg')} and {printable(folder / 'bert' / '1.jpg')}"


def _has_folders(folder: Path) -> bool:
    return any(child.is_dir(follow_symlinks=False) and not left_behind(child) for child in children(folder, _ACCESS))


def _shown(path: Path) -> str:
    return printable(normal_form(path.name))


def _files(folder: Path) -> Iterator[tuple[Path, bool]]:
    """All that is in a person's folder, sorted by name, and whether it claims to be a photo; nothing hidden does."""
    for child in children(folder, _ACCESS):
        path = Path(child.path)
        if left_behind(child):
            yield path, False
        elif child.is_symlink():
            raise InputError(printable(path), None, "a symbolic link", "Put the photo itself in its place")
        else:
            yield path, claims_to_be_picture(path)


def _read_person(
    folder: Path, count: int, size: int, find: Callable[[np.ndarray], list[Frame]], known: dict[str, np.ndarray]
) -> _Person:
    """The first `count` photos of a person, or as many as there are; `known` has the prints of other people's."""
    person = _Person([], [], {}, [], [])
    for path, claims in _files(folder):
        if len(person.rows) == count:
            break
        file = _shown(path)
        if not claims:
            person.others.append(file)
            continue
        try:
            photo = read_picture(path)
            taken = _print(photo)
            _refuse_copy(taken, person.prints, known, path)
        except InputError as error:
            person.rejected.append(refusal(error, PHOTOS, person=normal_form(folder.name), file=file))
            continue
        frames = find_faces(photo, 2 * size, find)
        person.images.append(align(photo, frames[0] if frames else None, size))
        person.rows.append({"file": file, "face": int(bool(frames)), "faces": len(frames)})
        person.prints[file] = taken
    return person


def _print(photo: Image.Image) -> np.ndarray:
    greys = np.asarray(photo.convert("L").resize((PRINT, PRINT), Image.Resampling.BILINEAR), np.float32)
    return (greys - greys.mean()) / max(1.0, greys.std())


def _refuse_copy(taken: np.ndarray, own: dict[str, np.ndarray], others: dict[str, np.ndarray], path: Path) -> None:
    for prints, doubt in ((own, ""), (others, ", so that whom it shows is not sure")):
        for name, each in prints.items():
            if min(np.abs(each - taken).max(), np.abs(each - taken[:, ::-1]).max()) <= SAME:
                raise InputError(printable(path), None, f"a copy of {name}{doubt}", "Give another photo")
