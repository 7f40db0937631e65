"""A folder of strangers' LoRAs: all that can be read, each once, and a reason for each that cannot."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from w2wpp.compute.runtime import progress
from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import PICKLE_SUFFIXES, printable
from w2wpp.ingest.foreign import ForeignLora, read_lora
from w2wpp.lora.canonical import product_distance, singular_values
from w2wpp.lora.layout import WeightLayout

MAX_NAMES = 100_000
MAX_DEPTH = 8
# Rounding a LoRA to bfloat16 moves its products by about 2e-3 of their norm; LoRAs of two people are far apart.
SAME = 5e-3
_LORA_SUFFIXES = (".safetensors", *PICKLE_SUFFIXES)


@dataclass(frozen=True)
class Rejected:
    """A file that was not read: its name, the key at fault (None for the whole file), the reason, and what to do."""

    name: str
    key: str | None
    reason: str
    remedy: str | None


@dataclass(frozen=True)
class Duplicate:
    """A LoRA left out because it is the one called `original`: "identical file" or "equal weights", `distance` apart.

    The distance is the Frobenius norm of the difference of all products B A, as a share of the LoRA's own.
    """

    name: str
    original: str
    how: str
    distance: float


@dataclass(frozen=True)
class FolderScan:
    """What `scan_folder` found; every list is sorted by name, and names are paths relative to the folder.

    Attributes:
        layout: what the LoRAs were read for.
        accepted: the LoRAs by name.
        rejected: what claims to be a LoRA and was not read, and why.
        duplicates: LoRAs that can be read but are in `accepted` already.
        others: files that make no claim to be LoRAs.
    """

    layout: WeightLayout
    accepted: dict[str, ForeignLora]
    rejected: tuple[Rejected, ...]
    duplicates: tuple[Duplicate, ...]
    others: tuple[str, ...]

    def vectors(self) -> Tensor:
        """float32 [n, d] of the accepted LoRAs."""
        none = torch.empty(0, self.layout.dimension)
        return torch.cat([none, *(lora.vector[None] for lora in self.accepted.values())])


def scan_folder(folder: str | Path, layout: WeightLayout) -> FolderScan:
    """Read every LoRA in a folder and its subfolders (see `read_lora`); those that cannot be read do not stop it.

    Symbolic links are followed to files within the folder only, and to no folder. Hidden files are not read, and hidden
    folders not entered.

    Raises:
        InputError: the folder itself cannot be read, or holds more than `MAX_NAMES` names.
    """
    folder = Path(folder)
    loras, rejected, others = {}, [], []
    for name, refusal in progress(sorted(_names(folder)), "LoRAs"):
        if not refusal and not name.lower().endswith(_LORA_SUFFIXES):
            others.append(printable(name))
            continue
        try:
            if refusal:
                raise InputError(name, None, refusal, "Put a copy of the LoRA into the folder")
            loras[name] = read_lora(folder / name, layout)
        except InputError as error:
            # What is at fault may be the configuration beside the LoRA.
            beside = "" if Path(error.where).name == Path(name).name else f"{Path(error.where).name}: "
            rejected.append(Rejected(printable(name), error.key, beside + error.reason, error.remedy))
    duplicates = find_duplicates(loras, layout)
    known = {duplicate.name for duplicate in duplicates}
    accepted = {name: lora for name, lora in loras.items() if name not in known}
    return FolderScan(layout, accepted, tuple(rejected), duplicates, tuple(others))


def find_duplicates(loras: dict[str, ForeignLora], layout: WeightLayout) -> tuple[Duplicate, ...]:
    """LoRAs whose products B A are within `SAME` of those of one with a smaller name.

    A hash of rounded numbers would miss copies: among so many, one always lies at the edge of its rounding.
    """
    names, duplicates, originals = sorted(loras), [], []
    if not names:
        return ()
    spectra = torch.cat([singular_values(loras[name].vector[None], layout) for name in names])
    for row, name in enumerate(names):
        limit = SAME * spectra[row].norm().item()
        apart = torch.linalg.vector_norm(spectra[originals] - spectra[row], dim=1)
        nearby = [originals[i] for i in (apart <= limit).nonzero().flatten()]
        distances = [product_distance(loras[names[i]].vector, loras[name].vector, layout) for i in nearby]
        if distances and min(distances) <= limit:
            nearest = names[nearby[distances.index(min(distances))]]
            how = "identical file" if loras[name].digest == loras[nearest].digest else "equal weights"
            duplicates.append(Duplicate(name, nearest, how, min(distances) * SAME / limit if limit else 0.0))
        else:
            originals.append(row)
    return tuple(duplicates)


def _names(folder: Path) -> Iterator[tuple[str, str]]:
    """All names below a folder, relative to it, each with the reason to refuse it or an empty string."""
    root, count, waiting = os.path.realpath(folder), 0, [""]
    while waiting:
        within = waiting.pop()
        try:
            with os.scandir(folder / within) as entries:
                children = list(islice(entries, MAX_NAMES + 1 - count))
        except OSError as error:
            if not within:
                raise InputError(printable(folder), None, f"cannot be read ({error.strerror})",
                                 "Give a folder of LoRAs") from error
            yield within, f"a folder that cannot be read ({error.strerror})"
            continue
        count += len(children)
        if count > MAX_NAMES:
            raise InputError(printable(folder), None, f"more than {MAX_NAMES} names", "Split the folder")
        for child in children:
            name = os.path.join(within, child.name)
            refusal = _refusal(child, name, root)
            if not refusal and child.is_dir(follow_symlinks=False) and not child.name.startswith("."):
                waiting.append(name)
            else:
                yield name, refusal


def _refusal(child: os.DirEntry, name: str, root: str) -> str:
    """Why something in a folder must not be opened; empty for what may be, or makes no claim to be a LoRA."""
    claims, folder = name.lower().endswith(_LORA_SUFFIXES), child.is_dir(follow_symlinks=False)
    if folder and not claims:
        return f"a folder more than {MAX_DEPTH} deep" if name.count("/") >= MAX_DEPTH else ""
    if not claims:
        return ""
    if folder:
        return "a folder named like a LoRA"
    if printable(name) != name:
        return "an unprintable or overlong name"
    if child.name.startswith("."):
        return "a hidden file"
    if child.is_symlink():
        try:
            target = os.path.realpath(child.path, strict=True)
        except OSError as error:
            return f"a symbolic link that leads nowhere ({error.strerror})"
        if os.path.commonpath([root, target]) != root:
            return "a symbolic link out of the folder"
        if os.path.isdir(target):
            return "a symbolic link to a folder"
    return ""
