"""Folders of people's photos for the fuzz run, with their typical contents and the photos that may be taken."""

import io
import os
import random
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path

import numpy as np
from photo_files import MODES, SUFFIXES, bomb, encoded, noise, other_kind, scene, truncate
from PIL import Image, ImageOps

from w2wpp.faces.photos import FolderPhotos, check_people, read_people
from w2wpp.faces.portraits import PortraitsParams

PHOTOS = PortraitsParams(
    source="folder", path="x", photo_size=32, size=32, photos=4, score_photos=2, validation=2, test=2
)
NEEDED, EACH = PHOTOS.validation + PHOTOS.test, 1 + PHOTOS.score_photos


class Made:
    """A generated folder of people's photos: the photos that may be taken, and whether all of it must be refused.

    `scenes` has the seed of each readable photo by person and file, under the expected names.
    """

    def __init__(self, folder: Path, rng: random.Random, number: int) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.rng, self.number = folder, rng, number
        self.scenes: dict[tuple[str, str], int] = {}
        self.refused = False
        for person in range(rng.randrange(3, 7)):
            for photo in range(rng.choice((2, 3, 3, 4))):
                self.photo(f"Person {person}", f"{photo}.{rng.choice(SUFFIXES)}", 100 * number + 10 * person + photo)

    def photo(self, person: str, file: str, seed: int, **options) -> None:
        """Write a photo; nobody else needs to have one of this name."""
        path = self.folder / person / file
        path.parent.mkdir(exist_ok=True)
        picture = scene(seed, (96, 80))
        kind = self.rng.choice(list(MODES))
        if options:
            picture = picture.resize((144, 120), Image.Resampling.BICUBIC)
            picture = ImageOps.mirror(picture) if options["mirrored"] else picture
        path.write_bytes(encoded(picture, kind, "RGB", **({} if kind == "PNG" else {"quality": 85})))
        self.scenes[unicodedata.normalize("NFC", person), unicodedata.normalize("NFC", file)] = seed

    @property
    def sound(self) -> bool:
        """Whether enough people have enough photos that nobody else has."""
        owners = {
            seed: {person for (person, _), each in self.scenes.items() if each == seed} for seed in self.scenes.values()
        }
        own = [next(iter(people)) for people in owners.values() if len(people) == 1]
        return not self.refused and sum(own.count(person) >= EACH for person in set(own)) >= NEEDED

    def someone(self) -> Path:
        """The folder of a person."""
        return self.folder / self.rng.choice(sorted({person for person, _ in self.scenes}))


def nothing(_: Made) -> None:
    pass


def bystanders(case: Made) -> None:
    for name, content in (
        (".DS_Store", b"\0\0\0\1Bud1"),
        ("Thumbs.db", b"\xd0\xcf\x11\xe0"),
        ("desktop.ini", b"[a]"),
        ("0.txt", b"a photo of sks person"),
        ("0.json", b"{}"),
        ("._0.jpg", b"\0\5\x16\7"),
        ("0.safetensors", bytes(16)),
        (".hidden.png", b"\x89PNG"),
    ):
        (case.rng.choice((case.folder, case.someone())) / name).write_bytes(content)


def left_by_archives(case: Made) -> None:
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", "empty"):
        (case.folder / name).mkdir()
        (case.folder / name / "._0.jpg").write_bytes(b"\0\5\x16\7")


def loose_photos(case: Made) -> None:
    for photo in range(3):
        (case.folder / f"{photo}.png").write_bytes(encoded(scene(photo), "PNG", "RGB"))


def deep_folders(case: Made) -> None:
    deep = case.someone() / "/".join(["0"] * 60)
    deep.mkdir(parents=True)
    (deep / "0.png").write_bytes(encoded(scene(1), "PNG", "RGB"))


def link(case: Made) -> None:
    """Symbolic links: a loop, out of the folder, to nowhere, to a person, hidden."""
    target, name = case.rng.choice(
        (
            (".", "loop"),
            ("..", "loop"),
            ("/etc/passwd", "00.png"),
            ("nowhere", "00.jpg"),
            (str(case.someone()), "again"),
            ("/etc/passwd", ".hidden"),
        )
    )
    (case.rng.choice((case.folder, case.someone())) / name).symlink_to(target)
    # One beside photos that are enough is not come to.
    case.refused = name != ".hidden"


def no_file(case: Made) -> None:
    os.mkfifo(case.someone() / "00.png")
    (case.someone() / "000.jpg").mkdir()


def names(case: Made) -> None:
    """Names in any script, composed or not."""
    name = case.rng.choice(
        (
            "Jose\u0301",
            "José",
            "Зоя",
            "李 小龍",
            "हिन्दी",
            "عمر",
            "Ngũgĩ wa Thiong\u2019o",
            "ยุทธ์",
            "Ann-Marie O'Neil Jr.",
            "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
            "anna (1)",
            "𐌰𐌽𐌽𐌰",
            "12",
        )
    )
    for photo in range(EACH):
        case.photo(name, f"e\u0301te\u0301 {photo}.png", 100 * case.number + 50 + photo)


def hostile_names(case: Made) -> None:
    name = case.rng.choice(
        (
            "a\nb",
            "$x^2$",
            "a<b>",
            " a",
            "a ",
            "-a",
            "a" * 70,
            "a\\b",
            "\udcff",
            "\u202ea",
            "𐌰" * 60,
            "\u0301a",
            "a\x7f",
            "😀",
        )
    )
    (case.folder / name).mkdir()
    case.refused = True


def same_name(case: Made) -> None:
    for name in ("Jose\u0301", "José"):
        case.photo(name, "0.png", 100 * case.number + 60)
    case.refused = True


def copies(case: Made) -> None:
    """Photos of a person again: byte by byte, or in another format, size and quality, or mirrored."""
    for (person, file), seed in list(case.scenes.items()):
        path = case.folder / person / file
        for name in (f"0{file}", f"{file} (1)"):
            if case.rng.random() < 0.5:
                (path.parent / name).write_bytes(path.read_bytes())
                case.scenes[person, name] = seed
            else:
                case.photo(person, name, seed, mirrored=case.rng.random() < 0.5)


def shared_photos(case: Made) -> None:
    people = sorted({person for person, _ in case.scenes})
    for (person, file), seed in list(case.scenes.items()):
        if case.rng.random() < 0.5:
            case.photo(case.rng.choice(people), f"{case.rng.randrange(9)} {person} {file}", seed, mirrored=False)


def damaged_photos(case: Made) -> None:
    for person in sorted({person for person, _ in case.scenes}):
        for photo in range(case.rng.randrange(4)):
            damage = case.rng.choice((truncate, noise, other_kind, bomb))
            content = damage(encoded(scene(photo), "JPEG", "RGB"), case.rng)
            try:  # what happens to be sound after all would be one more photo
                Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")).load()
            except Exception:
                (case.folder / person / f"00{photo}.jpg").write_bytes(content)


def unprintable_files(case: Made) -> None:
    for name in ("\x1b[2J.png", "\udcff.jpg", "n" * 251 + ".png", "a\nb.jpg"):
        (case.someone() / name).write_bytes(b"no photo")


def crowd(case: Made) -> None:
    """More names than are listed, in a person's folder or loose."""
    crowded = case.folder.parent / "crowd"
    if not crowded.exists():
        crowded.mkdir()
        for number in range(100_001):
            (crowded / f"{number}.txt").touch()
    crowded.rename(case.folder / case.rng.choice(("Crowd", ".crowd", "__MACOSX")))
    case.refused = (case.folder / "Crowd").exists()


THINGS: tuple[Callable[[Made], None], ...] = (
    nothing,
    bystanders,
    left_by_archives,
    loose_photos,
    deep_folders,
    link,
    no_file,
    names,
    hostile_names,
    same_name,
    copies,
    shared_photos,
    damaged_photos,
    unprintable_files,
    crowd,
)


def read_folder(folder: Path, seed: int) -> FolderPhotos:
    """What the stages settings and portraits read of a folder, with a finder that sees no faces."""
    params = PHOTOS.model_copy(update={"path": str(folder)})
    check_people(params)
    with redirect_stderr(io.StringIO()):  # its progress bar
        return read_people(params, seed, lambda _: [])


def folder_fault(found: FolderPhotos, case: Made, seed: int) -> str | None:
    """What is wrong with what was read of a folder; None when it is what the folder was made of."""
    taken = [case.scenes.get((row["person"], row["file"])) for row in found.rows]
    if None in taken:
        return "a photo that nobody made"
    if len(set(taken)) < len(taken):
        return "a photo twice"
    if len({row["person"] for row in found.rows}) != NEEDED or found.photos.shape[:2] != (NEEDED, EACH):
        return "not as many people and photos as were asked for"
    for seen, number in zip(found.photos.flatten(0, 1).numpy(), taken, strict=True):
        whole = scene(number, (96, 80))
        cuts = (
            np.asarray(ImageOps.fit(each, seen.shape[:2], Image.Resampling.LANCZOS)).astype(int)
            for each in (whole, ImageOps.mirror(whole))
        )
        if min(np.abs(cut - seen).mean() for cut in cuts) > 4:
            return "another picture than the file's"
    again = read_folder(case.folder, seed)
    return (
        "other the second time"
        if (again.rows, again.rejected, again.others) != (found.rows, found.rejected, found.others)
        else None
    )
