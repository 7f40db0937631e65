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

    def photo(self, person: str, file: str, seed: int, **how) -> None:
        """Write a photo; its name may be unique to this person."""
        path = self.folder / person / file
        path.parent.mkdir(exist_ok=True)
        picture = scene(seed, (96, 80))
        kind = self.rng.choice(list(MODES))
        if how:
            picture = picture.resize((144, 120), Image.Resampling.BICUBIC)
            picture = ImageOps.mirror(picture) if how["mirrored"] else picture
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


def bystanders(made: Made) -> None:
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
        (made.rng.choice((made.folder, made.someone())) / name).write_bytes(content)


def left_by_archives(made: Made) -> None:
    for name in ("__MACOSX", "@eaDir", "$RECYCLE.BIN", ".git", "empty"):
        (made.folder / name).mkdir()
        (made.folder / name / "._0.jpg").write_bytes(b"\0\5\x16\7")


def loose_photos(made: Made) -> None:
    for photo in range(3):
        (made.folder / f"{photo}.png").write_bytes(encoded(scene(photo), "PNG", "RGB"))


def deep_folders(made: Made) -> None:
    deep = made.someone() / "/".join(["0"] * 60)
    deep.mkdir(parents=True)
    (deep / "0.png").write_bytes(encoded(scene(1), "PNG", "RGB"))


def link(made: Made) -> None:
    """Symbolic links: a loop, out of the folder, to nowhere, to a person, hidden."""
    target, name = made.rng.choice(
        (
            (".", "loop"),
            ("..", "loop"),
            ("/etc/passwd", "00.png"),
            ("nowhere", "00.jpg"),
            (str(made.someone()), "again"),
            ("/etc/passwd", ".hidden"),
        )
    )
    (made.rng.choice((made.folder, made.someone())) / name).symlink_to(target)
    # A link after enough photos is not reached.
    made.refused = name != ".hidden"


def no_file(made: Made) -> None:
    os.mkfifo(made.someone() / "00.png")
    (made.someone() / "000.jpg").mkdir()


def names(made: Made) -> None:
    """Names in any script, composed or not."""
    name = made.rng.choice(
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
        made.photo(name, f"e\u0301te\u0301 {photo}.png", 100 * made.number + 50 + photo)


def hostile_names(made: Made) -> None:
    name = made.rng.choice(
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
    (made.folder / name).mkdir()
    made.refused = True


def same_name(made: Made) -> None:
    for name in ("Jose\u0301", "José"):
        made.photo(name, "0.png", 100 * made.number + 60)
    made.refused = True


def copies(made: Made) -> None:
    """Photos of a person again: byte by byte, or in another format, size and quality, or mirrored."""
    for (person, file), seed in list(made.scenes.items()):
        path = made.folder / person / file
        for name in (f"0{file}", f"{file} (1)"):
            if made.rng.random() < 0.5:
                (path.parent / name).write_bytes(path.read_bytes())
                made.scenes[person, name] = seed
            else:
                made.photo(person, name, seed, mirrored=made.rng.random() < 0.5)


def shared_photos(made: Made) -> None:
    people = sorted({person for person, _ in made.scenes})
    for (person, file), seed in list(made.scenes.items()):
        if made.rng.random() < 0.5:
            made.photo(made.rng.choice(people), f"{made.rng.randrange(9)} {person} {file}", seed, mirrored=False)


def damaged_photos(made: Made) -> None:
    for person in sorted({person for person, _ in made.scenes}):
        for photo in range(made.rng.randrange(4)):
            damage = made.rng.choice((truncate, noise, other_kind, bomb))
            content = damage(encoded(scene(photo), "JPEG", "RGB"), made.rng)
            try:  # a damaged file that is still readable would be another photo
                Image.open(io.BytesIO(content), formats=("JPEG", "PNG", "WEBP")).load()
            except Exception:
                (made.folder / person / f"00{photo}.jpg").write_bytes(content)


def unprintable_files(made: Made) -> None:
    for name in ("\x1b[2J.png", "\udcff.jpg", "n" * 251 + ".png", "a\nb.jpg"):
        (made.someone() / name).write_bytes(b"no photo")


def crowd(made: Made) -> None:
    """More names than are listed, in a person's folder or loose."""
    crowded = made.folder.parent / "crowd"
    if not crowded.exists():
        crowded.mkdir()
        for number in range(100_001):
            (crowded / f"{number}.txt").touch()
    crowded.rename(made.folder / made.rng.choice(("Crowd", ".crowd", "__MACOSX")))
    made.refused = (made.folder / "Crowd").exists()


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


def folder_fault(found: FolderPhotos, made: Made, seed: int) -> str | None:
    """The fault of a folder's reading; None if it gives the photos that the folder was made of."""
    taken = [made.scenes.get((row["person"], row["file"])) for row in found.rows]
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
    again = read_folder(made.folder, seed)
    return (
        "other the second time"
        if (again.rows, again.rejected, again.others) != (found.rows, found.rejected, found.others)
        else None
    )
