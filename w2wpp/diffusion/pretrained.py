"""A base model that was trained elsewhere, and the reference to it by the hashes of its files."""

from pathlib import Path

import torch
from diffusers import UNet2DConditionModel

from w2wpp.diffusion.hub import find_model
from w2wpp.files.errors import InputError
from w2wpp.files.storage import file_hash, read_json, write_json

REFERENCE = "pretrained.json"  # in place of a model: names its folder
# Files of a StableDiffusionPipeline; safety checker and single-file checkpoints are not used.
FILES = (
    "model_index.json",
    "scheduler/*.json",
    "text_encoder/*.json",
    "text_encoder/*.safetensors",
    "tokenizer/*",
    "unet/config.json",
    "unet/*.safetensors",
    "vae/config.json",
    "vae/*.safetensors",
)
_AGAIN = "Put it back, or run `dvc repro -f base` to take what is there now"


def refer_to_model(model: str, revision: str | None, out: Path, owner: type | None = None) -> Path:
    """Write `pretrained.json` in `out` in place of a base model: the folder that has it, and what is in it.

    The files, some 4 GB for Stable Diffusion 1.5, are not copied.

    Args:
        model, revision, owner: see `find_model`.

    Returns:
        The folder.

    Raises:
        InputError: see `find_model`.
    """
    folder = find_model(model, revision, FILES, owner).absolute()
    files = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    write_json(
        out / REFERENCE,
        {
            "folder": str(folder),
            "model": model,
            "revision": revision,
            "files": {
                path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
                for path in files
            },
        },
    )
    return folder


def follow_reference(path: Path) -> Path:
    """The folder that a `pretrained.json` refers to, after comparing the sizes of its files.

    Raises:
        InputError: the file is no such reference, or a file of the model is missing or has another size.
    """
    reference = read_json(path)
    try:
        folder, files = Path(reference["folder"]), reference["files"]
        sizes = {folder / name: content["bytes"] for name, content in files.items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(
            str(path), None, f"no reference to a base model ({error!r})", "Run `dvc repro -f base`"
        ) from error
    for file, size in sizes.items():
        if not file.is_file():
            raise InputError(str(file), None, f"no such file, but {path} refers to it", _AGAIN)
        if file.stat().st_size != size:
            raise InputError(str(file), None, f"not of the size that {path} knows", _AGAIN)
    return folder


def model_folder(folder: str | Path) -> Path:
    """The folder with the files of a base model: the folder itself, or the one that its reference names.

    Raises:
        InputError: the referenced model is missing or has changed.
    """
    folder = Path(folder)
    if not (folder / REFERENCE).is_file():
        return folder
    return follow_reference(folder / REFERENCE)


def empty_unet(folder: str | Path) -> UNet2DConditionModel:
    """The UNet of a base model without its weights; only unet/config.json is read.

    Raises:
        InputError: the file is missing or describes no UNet; or see `model_folder`.
    """
    path = model_folder(folder) / "unet" / "config.json"
    config = read_json(path)
    try:
        with torch.device("meta"):
            return UNet2DConditionModel.from_config(config)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise InputError(
            str(path),
            None,
            f"not the configuration of a UNet ({' '.join(str(error).split())[:200]})",
            "Put the base model of the LoRAs there, in the format of diffusers",
        ) from error
