"""Models from a folder or from the Hugging Face Hub's cache; downloads only where they are allowed."""

import os
import re
from pathlib import Path

import huggingface_hub

from w2wpp.files.errors import ArgumentError
from w2wpp.files.folders import expanded
from w2wpp.files.tensor_files import printable

_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids connections; read here, because huggingface_hub reads it only on import."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def find_model(
    model: str, revision: str | None, files: tuple[str, ...], owner: type | None = None, key: str = "model"
) -> Path:
    """The folder of a model.

    Args:
        model: its folder, or its name on the Hub, which is contacted unless HF_HUB_OFFLINE is set.
        revision: of the model on the Hub.
        files: patterns of the used files; each must match a file.
        owner, key: the setting that names the model, for errors (see `ArgumentError`).

    Raises:
        ArgumentError: the model is not there and cannot be had, or lacks a file; it says what to put where.
    """
    name = printable(model)
    remedy = (
        f"Where there is a network, run `hf download {name}{f' --revision {revision}' if revision else ''} "
        f"--local-dir models/{name.split('/')[-1]}` and give that folder; or set HF_HUB_OFFLINE=0 to "
        "have it downloaded"
    )
    folder = expanded(model)
    if not folder.is_dir():
        if not _NAME.fullmatch(model):
            raise ArgumentError(
                owner,
                key,
                f"no such folder: {name}",
                "Give the folder of the model, or its name on the Hugging Face Hub",
            )
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    model, revision=revision, allow_patterns=list(files), local_files_only=offline()
                )
            )
        # The error of a broken connection depends on the HTTP library, which changes with the version of the client.
        except Exception as error:
            cause = "HF_HUB_OFFLINE is set" if offline() else printable(" ".join(str(error).split()) or repr(error))
            raise ArgumentError(
                owner,
                key,
                f"{name} is no folder here, not in the Hub's cache, and cannot be downloaded ({cause})",
                remedy,
            ) from error
    for pattern in files:
        if not any(folder.glob(pattern)):
            raise ArgumentError(
                owner, key, f"no {pattern} in {printable(folder)}, so this is not all of the model", remedy
            )
    return folder
