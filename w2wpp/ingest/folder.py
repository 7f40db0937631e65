"""A folder of untrusted LoRAs: each readable LoRA once, and a reason for each other file."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from w2wpp.compute.runtime import progress
from w2wpp.files.errors import InputError
from w2wpp.files.folders import normal_form
from w2wpp.files.tensor_files import opened, printable, read_header
from w2wpp.ingest.checkpoints import Training, find_trainings
from w2wpp.ingest.foreign import ForeignLora, read_lora
from w2wpp.ingest.kinds import bystander
from w2wpp.ingest.names import names_within
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.products import product_distance, singular_values

# More checkpoints than one training usually keeps without another sign that they belong together.
MAX_UNSURE = 50
# Rounding a LoRA to bfloat16 changes its products by about 2e-3 of their norm; LoRAs of two people differ far more.
SAME = 5e-3


@dataclass(frozen=True)
class Rejected:
    """A LoRA that was not read: its name, the key at fault (None for the whole file), the reason, and the remedy."""

    name: str
    key: str | None
    reason: str
    remedy: str | None


@dataclass(frozen=True)
class Duplicate:
    """A LoRA left out as a copy of `original`: "identical file" or "equal weights", at `distance`.

    The distance is the Frobenius norm of the difference of all products B A, relative to the norm of the LoRA's own.
    """

    name: str
    original: str
    match: str
    distance: float


@dataclass(frozen=True)
class Other:
    """A file that is no LoRA of a UNet, or an earlier checkpoint, and the reason for leaving it out."""

    name: str
    reason: str


@dataclass(frozen=True)
class FolderScan:
    """The result of `scan_folder`; every list is sorted by name, and names are paths relative to the folder.

    Attributes:
        layout: of the LoRAs' vectors.
        accepted: the LoRAs by name.
        trainings: the training of each of these LoRAs.
        rejected: files that should be LoRAs and were not read, with reasons.
        duplicates: readable LoRAs that are in `accepted` already.
        others: files that are not meant as LoRAs, and earlier checkpoints.
    """

    layout: WeightLayout
    accepted: dict[str, ForeignLora]
    trainings: dict[str, Training]
    rejected: tuple[Rejected, ...]
    duplicates: tuple[Duplicate, ...]
    others: tuple[Other, ...]

    def vectors(self) -> Tensor:
        """float32 [n, d] of the accepted LoRAs."""
        none = torch.empty(0, self.layout.dimension)
        return torch.cat([none, *(lora.vector[None] for lora in self.accepted.values())])


def scan_folder(
    folder: str | Path, layout: WeightLayout, checkpoints: Literal["last", "all"] = "last", listed: Collection[str] = ()
) -> FolderScan:
    """Read every LoRA in a folder and its subfolders (see `read_lora`); unreadable ones do not stop the scan.

    Symbolic links are followed only to files within the folder, never to folders. Hidden files and folders, and files
    that trainers, archives and systems leave beside LoRAs, are not read.

    Args:
        checkpoints: which LoRAs of a training are read (see `find_trainings`). "last" reads the one without a number,
            or else the readable one with the highest number.
        listed: names, in Unicode's normal form C, of LoRAs that are always read; other LoRAs of their trainings are not
            read.

    Raises:
        InputError: the folder itself cannot be read, or holds more than `w2wpp.files.folders.MAX_NAMES` names; or more
            than `MAX_UNSURE` LoRAs that are not listed differ by a number at the end of their names alone, so that they
            could be checkpoints of one training as well as people.
    """
    folder = Path(folder)
    metadata, rejected, others = _sorted_out(folder)
    loras: dict[str, ForeignLora] = {}
    of: dict[str, Training] = {}
    with progress(None, "LoRAs", total=len(metadata)) as bar:
        for training in find_trainings(metadata):
            wanted = tuple(name for name in training.names if normal_form(name) in listed)
            if training.unsure and not wanted and len(training.numbered) > MAX_UNSURE:
                raise _ambiguous(folder, training)
            tries = [wanted or training.names] if wanted or checkpoints == "all" else training.from_the_end
            read, refused = _first_sound(folder, tries, layout)
            tried = read.keys() | {each.name for each in refused}
            kept = [name for name in training.names if name in read] or list(training.names)
            loras |= read
            of |= dict.fromkeys(read, training)
            rejected += refused
            others += [
                Other(printable(name), f"another checkpoint of the training of {printable(kept[-1])}")
                for name in training.names
                if name not in tried
            ]
            bar.update(len(training.names))
    duplicates = find_duplicates(loras, layout)
    known = {duplicate.name for duplicate in duplicates}
    accepted = {name: loras[name] for name in sorted(loras) if name not in known}
    return FolderScan(
        layout,
        accepted,
        {name: of[name] for name in accepted},
        tuple(sorted(rejected, key=lambda each: each.name)),
        duplicates,
        tuple(sorted(others, key=lambda each: each.name)),
    )


def _sorted_out(folder: Path) -> tuple[dict[str, dict[str, str]], list[Rejected], list[Other]]:
    """The metadata of each file that should be a LoRA of a UNet, the files that must not be opened, and all other
    files.
    """
    metadata: dict[str, dict[str, str]] = {}
    rejected, others = [], []
    for name, refusal, reason in progress(sorted(names_within(folder)), "names"):
        written: dict[str, str] = {}
        if not refusal and not reason:
            written, reason = _peek(folder / name)
        if refusal:
            rejected.append(
                Rejected(
                    printable(name), None, refusal, "Put a copy of the LoRA itself, under a plain name, into the folder"
                )
            )
        elif reason:
            others.append(Other(printable(name), reason))
        else:
            metadata[name] = written
    return metadata, rejected, others


def _first_sound(
    folder: Path, tries: list[tuple[str, ...]], layout: WeightLayout
) -> tuple[dict[str, ForeignLora], list[Rejected]]:
    """Read LoRAs by name, group after group until a group has a readable one, with reasons for the unreadable ones."""
    loras: dict[str, ForeignLora] = {}
    rejected = []
    for names in tries:
        for name in names:
            try:
                loras[name] = read_lora(folder / name, layout)
            except InputError as error:
                # The fault may be in the configuration beside the LoRA.
                beside = "" if error.where == printable(folder / name) else f"{Path(error.where).name}: "
                rejected.append(Rejected(printable(name), error.key, beside + error.reason, error.remedy))
        if loras:
            break
    return loras, rejected


def _ambiguous(folder: Path, training: Training) -> InputError:
    return InputError(
        printable(folder),
        printable(training.numbered[0]),
        f"one of {len(training.numbered)} files that are numbered as checkpoints of one training are",
        "If each is of another person, say so in people.csv (columns file, person); if not, keep the last alone",
    )


def _peek(path: Path) -> tuple[dict[str, str], str]:
    """The metadata of a safetensors file, and the type of the file if it is no LoRA of a UNet.

    Both are empty for an unreadable file, which `read_lora` refuses with a reason.
    """
    if path.suffix.lower() != ".safetensors":
        return {}, ""
    try:
        with opened(path) as file:
            entries, metadata = read_header(file, printable(path))
    except InputError:
        return {}, ""
    beside = bystander(entries) if entries else None
    return metadata, f"{beside[0]} is {beside[1]}" if beside else ""


def find_duplicates(loras: dict[str, ForeignLora], layout: WeightLayout) -> tuple[Duplicate, ...]:
    """LoRAs whose products B A are within `SAME` of those of a LoRA earlier in the order of names.

    A hash of rounded numbers would miss copies, because among so many numbers one always lies at a rounding edge.
    """
    names, duplicates = sorted(loras), []
    originals: list[int] = []
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
            match = "identical file" if loras[name].digest == loras[nearest].digest else "equal weights"
            duplicates.append(Duplicate(name, nearest, match, min(distances) * SAME / limit if limit else 0.0))
        else:
            originals.append(row)
    return tuple(duplicates)
