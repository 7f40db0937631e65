"""Read thousands of damaged photos and of folders of photos; each must give the photos that it holds, or an InputError.

Each photo starts as a sound JPEG, PNG or WebP of any mode and is then damaged in one of the ways of
`photo_files.DAMAGES`. It is silently accepted if Pillow refuses the file, if Pillow's plain reading gives another
picture, or if the picture is not RGB or exceeds the limits. Each folder is assembled from typical contents
(`photo_folders.THINGS`). It is silently accepted if its photos differ from the assembled ones, if people or photos are
counted twice, or if two readings differ. The table counts, per damage and thing, the inputs accepted, rejected
(InputError), crashed (another error), hung (longer than the time limit) and silently accepted. It also has the
longest time and the most memory of each. The exit status is 1 if any input crashed, hung or was silently accepted, or
an undamaged one was rejected.
"""

import random
import tempfile
import warnings
from pathlib import Path

import numpy as np
from fuzzing import Tally, attempt, run
from photo_files import DAMAGES, SUFFIXES, broken_exif, sound_photo, undamaged
from photo_folders import THINGS, Made, crowd, folder_fault, read_folder
from PIL import Image, ImageOps
from tqdm import tqdm

from w2wpp.faces.pictures import MAX_PIXELS, MAX_RATIO, MAX_SIDE, MIN_SIDE, read_picture


def plain_picture(path: Path) -> np.ndarray:
    """A photo as Pillow reads it, float64 [h, w, 3] on white; turned by Pillow if its metadata are readable."""
    picture = Image.open(path)
    picture.load()
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:
        picture = Image.open(path)
    if picture.mode == "I;16":
        grey = np.asarray(picture).astype(float)
        grey[grey == picture.info.get("transparency")] = 65_535
        return np.repeat(grey[..., None] / 257, 3, axis=2)
    rgba = np.asarray(picture.convert("RGBA") if picture.mode != "CMYK" else picture.convert("RGB").convert("RGBA"))
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def fault(picture: Image.Image, path: Path) -> str | None:
    """The fault of a picture that was read from `path`; None if it is the picture in the file."""
    if (
        picture.mode != "RGB"
        or min(picture.size) < MIN_SIDE
        or max(picture.size) > min(MAX_SIDE, MAX_RATIO * min(picture.size))
        or picture.width * picture.height > MAX_PIXELS
    ):
        return "not RGB within the limits"
    try:
        with warnings.catch_warnings(action="ignore"):
            plain = plain_picture(path)
    except Exception as error:
        return f"no picture to Pillow ({error!r})"
    seen = np.asarray(picture)
    if seen.shape != plain.shape:
        return "of another shape than the file's"
    return "another picture than the file's" if np.abs(seen - plain).max() > 1 else None


def fuzz(inputs: int, seed: int, limit: float = 5.0) -> Tally:
    """Read `inputs` inputs, of which one in ten is a folder, each within `limit` seconds."""
    rng, tally = random.Random(seed), Tally()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for number in tqdm(range(inputs), "inputs", mininterval=1.0, dynamic_ncols=True):
            if number % 10 == 9:
                _fuzz_folder(root, rng, number, tally, limit)
                continue
            damage, path = rng.choice(DAMAGES), root / f"photo.{rng.choice(SUFFIXES)}"
            path.write_bytes(damage(sound_photo(rng, number), rng))
            tally.add(
                damage.__name__,
                f"photo {number}",
                attempt(lambda path=path: read_picture(path), lambda picture, path=path: fault(picture, path), limit),
                sound=damage in (undamaged, broken_exif),
            )
            path.unlink()
    return tally


def _fuzz_folder(root: Path, rng: random.Random, number: int, tally: Tally, limit: float) -> None:
    with tempfile.TemporaryDirectory(dir=root) as folder:
        case, thing = Made(Path(folder), rng, number), rng.choice(THINGS)
        thing(case)
        made_seed = rng.randrange(99)
        tally.add(
            f"folder: {thing.__name__}",
            f"folder {number}",
            attempt(
                lambda: read_folder(case.folder, made_seed), lambda found: folder_fault(found, case, made_seed), limit
            ),
            sound=case.sound,
        )
        for name in ("Crowd", ".crowd", "__MACOSX"):
            if thing is crowd and (case.folder / name).exists():
                (case.folder / name).rename(root / "crowd")


if __name__ == "__main__":
    run(__doc__, fuzz)
