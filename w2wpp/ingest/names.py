"""What lies in a folder of LoRAs: which files claim to be LoRAs, and what the others are, by their names alone."""

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from w2wpp.files.folders import MAX_NAMES, children, entries, left_behind
from w2wpp.files.tensor_files import printable

MAX_DEPTH = 8

_LORA_SUFFIXES = (".safetensors", ".bin", ".ckpt", ".pt", ".pth")
_STATE = re.compile(
    r"(?:optimizer|(?:lr_)?scheduler|(?:grad_)?scaler|(?:dl_)?sampler|random_states|rng_state|training_(?:args|state)|"
    r"train(?:er)?_state|custom_checkpoint|ema(?:_model)?|zero_pp_rank|mp_rank)(?:[-_]?\d+)*\.\w+|.*\.(?:pkl|pickle)",
    re.IGNORECASE,
)
# w2wmodel.pt holds coefficients in weights2weights' own space.
_MODEL = re.compile(
    r"(?:diffusion_pytorch_model|pytorch_model|learned_embeds|model-\d+-of)\b.*\.(?:bin|safetensors)|"
    r"w2wmodel\.pt"
)
_STATE_OF_FOLDER = ("optimizer.bin", "random_states_0.pkl", "train_state.json")
_OTHERS = (
    (("png", "jpg", "jpeg", "webp", "gif", "bmp", "avif", "mp4"), "a picture"),
    (("txt", "caption", "md", "csv", "log"), "a text"),
    (("json", "yaml", "yml", "toml", "ini"), "a configuration"),
    (("zip", "tar", "gz", "tgz", "7z", "rar", "xz", "zst"), "an archive; unpack it if LoRAs are in it"),
    (("part", "crdownload", "download", "incomplete", "aria2", "tmp"), "a download that was not finished"),
)


def names_within(folder: Path, limit: int = MAX_NAMES) -> Iterator[tuple[str, str, str]]:
    """The names of all files below a folder, in any order: (path relative to it, refusal, reason).

    `refusal` says why what claims to be a LoRA must not be opened, `reason` why something makes no such claim; both are
    empty for what is to be read. Hidden folders, those more than `MAX_DEPTH` deep, and what trainers, archives and
    systems leave beside LoRAs, are named and not entered; nor are symbolic links to folders, so that none is a loop.

    Raises:
        InputError: the folder itself cannot be read, or holds more than `limit` names.
    """
    root, count, waiting = os.path.realpath(folder), 0, [""]
    while waiting:
        within = waiting.pop()
        try:
            found = (
                entries(folder / within, folder, count, limit)
                if within
                else children(folder, "Give a folder of LoRAs", limit)
            )
        except OSError as error:
            yield within, f"a folder that cannot be read ({error.strerror})", ""
            continue
        count += len(found)
        for child in found:
            name = os.path.join(within, child.name)
            reason = _no_lora(child, name)
            if not reason and child.is_dir(follow_symlinks=False):
                waiting.append(name)
            else:
                yield name, "" if reason else _refusal(child, name, root), reason


def _no_lora(child: os.DirEntry, name: str) -> str:
    """Why something in a folder makes no claim to be a LoRA, and need not be looked into; empty where it may."""
    folder = child.is_dir(follow_symlinks=False)
    if left := left_behind(child):
        return left
    if folder:
        if name.count("/") >= MAX_DEPTH:
            return f"a folder more than {MAX_DEPTH} deep"
        state = child.name.endswith("-state") and any(
            map(os.path.exists, (os.path.join(child.path, file) for file in _STATE_OF_FOLDER))
        )
        return "a trainer's state" if state else ""
    if _STATE.fullmatch(child.name):
        return "of a trainer's state"
    if _MODEL.fullmatch(child.name):
        return "by its name a whole model, an embedding or coefficients"
    if child.is_symlink() and os.path.isdir(child.path):
        return "a symbolic link to a folder, which is not followed"
    if child.name.lower().endswith(_LORA_SUFFIXES):
        return ""
    suffix = PurePosixPath(child.name).suffix[1:].lower()
    return next((what for suffixes, what in _OTHERS if suffix in suffixes), "no LoRA by its name")


def _refusal(child: os.DirEntry, name: str, root: str) -> str:
    """Why what claims to be a LoRA must not be opened; empty for what may be."""
    if printable(name) != name:
        return "an unprintable or overlong name"
    if child.is_symlink():
        try:
            child.stat()  # the system gives up after 40 links, realpath only when Python's stack is full
            target = os.path.realpath(child.path, strict=True)
        except OSError as error:
            return f"a symbolic link that leads nowhere ({error.strerror})"
        if os.path.commonpath([root, target]) != root:
            return "a symbolic link out of the folder"
    return ""
