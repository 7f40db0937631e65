"""Where a base model, a space and its photo encoder lie: by the names that the pipeline gives them, or by their files.

Names are looked up below the current directory, where `make repro` leaves what it makes.
"""

from pathlib import Path

from w2wpp.diffusion.hub import find_model
from w2wpp.diffusion.pretrained import FILES, REFERENCE
from w2wpp.files.errors import ArgumentError
from w2wpp.files.folders import expanded
from w2wpp.files.tensor_files import printable
from w2wpp.spaces.base import SPACE

DATA = Path("data")
BASE = DATA / "base"
SPACES = DATA / "spaces"
ENCODERS = DATA / "photo_encoders"
WEIGHTS = DATA / "weights"
EDITS = DATA / "edits"
RESTORER = DATA / "restorer" / "restorer.safetensors"
_INDEX = FILES[0]


def base_folder(where: str | Path = BASE) -> Path:
    """The folder of a base model.

    Args:
        where: a folder with a StableDiffusionPipeline or a reference to one, or a name on the Hugging Face Hub, which
            is asked where HF_HUB_OFFLINE allows it.

    Raises:
        ArgumentError: naming `base`: there is no such model.
    """
    folder = expanded(where)
    if any((folder / name).is_file() for name in (_INDEX, REFERENCE)):
        return folder
    if folder == BASE:
        raise ArgumentError(None, "base", f"no base model in {BASE}", "Run `make repro`, or give the folder of another")
    if folder.is_dir():
        raise ArgumentError(
            None,
            "base",
            f"no {_INDEX} in {printable(where)}, so this is no base model",
            "Give the folder of a StableDiffusionPipeline",
        )
    return find_model(str(where), None, FILES, None, "base")


def space_file(where: str | Path) -> Path:
    """The file of a space, which is one of the pipeline's by name, such as "vae", or any other by its path.

    Raises:
        ArgumentError: naming `space`: there is no such file.
    """
    return _named(where, SPACES, SPACE, "space")


def encoder_file(where: str | Path) -> Path:
    """The file of a photo encoder, which is one of the pipeline's by the name of its space, or any other by its path.

    Raises:
        ArgumentError: naming `encoder`: there is no such file.
    """
    return _named(where, ENCODERS, None, "encoder")


def restorer_file(where: str | Path = RESTORER) -> Path:
    """The file of a restorer, by default the one that the pipeline leaves.

    Raises:
        ArgumentError: naming `restorer`: there is no such file.
    """
    path = expanded(where)
    if not path.is_file():
        raise ArgumentError(
            None, "restorer", f"no such file: {printable(where)}", "Run `dvc repro restorer`, or give one"
        )
    return path


def encoder_beside(space: Path) -> Path | None:
    """The photo encoder that lies where the pipeline leaves it for the space of this file; None if there is none."""
    if space.name != SPACE or len(space.parents) < 3:
        return None
    encoder = space.parents[2] / ENCODERS.name / f"{space.parent.name}.safetensors"
    return encoder if encoder.is_file() else None


def directions_beside(space: Path | None) -> Path | None:
    """Where the pipeline leaves the directions of attributes for the space of this file; None if it is elsewhere."""
    if space is None or space.name != SPACE or len(space.parents) < 3:
        return None
    return space.parents[2] / EDITS.name / space.parent.name / "directions.safetensors"


def is_name(where: str | Path) -> bool:
    """Whether a space or encoder is told by its name, and not by the path of a file."""
    path = Path(where)
    return isinstance(where, str) and path.name == where and path.suffix == "" and not path.is_file()


def names_in(folder: Path, file: str | None) -> list[str]:
    """Names of what is there, sorted: folders that have this file, or files of tensors.

    Args:
        folder: `SPACES` or `ENCODERS`.
        file: None if each name is that of a file.
    """
    paths = folder.glob(f"*/{file}" if file else "*.safetensors")
    return sorted(path.parent.name if file else path.stem for path in paths)


def _named(where: str | Path, folder: Path, file: str | None, key: str) -> Path:
    if not is_name(where):
        path = expanded(where)
        if not path.is_file():
            raise ArgumentError(None, key, f"no such file: {printable(where)}", f"Give a file{_known(folder, file)}")
        return path
    path = folder / where / file if file else folder / f"{where}.safetensors"
    if not path.is_file():
        raise ArgumentError(
            None, key, f"no {path} in the current directory", f"Run `make repro`, or give a file{_known(folder, file)}"
        )
    return path


def _known(folder: Path, file: str | None) -> str:
    """What to add to an advice: the names that are there."""
    names = names_in(folder, file)
    return f", or a name that is there: {', '.join(names)}" if names else ""
