"""Disjoint groups of people, and packs of their photos with a manifest of every factor."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from w2wpp.compute.batches import Batch, batches_of, finish, joined
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, read_pack, write_csv, write_pack
from w2wpp.run.params import EngineParams, PortraitsParams
from w2wpp.world.people import Identity, Nuisance, identity_row, nuisance_row, sample_identity, sample_nuisance
from w2wpp.world.rendering import render_people

GROUPS = ("base", "probe", "zoo", "validation", "test")
PEOPLE_PER_BATCH = 50
PHOTOS_PER_WORKER = 100    # drawn in the time that a process takes to start

Person = tuple[Identity, list[Nuisance]]


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def sample_people(seed: int, group: str, count: int, photos: int) -> list[Person]:
    """Identities and photo circumstances of the people of a group.

    Person i of a group depends on (seed, group, i) alone, so groups never share people and counts may grow.
    """
    where = GROUPS.index(group)
    return [(sample_identity(_seed(seed, where, index)),
             [sample_nuisance(_seed(seed, where, index, photo)) for photo in range(photos)])
            for index in range(count)]


def with_photos(people: list[Person], first: int, last: int) -> list[Person]:
    """The same people with photos first .. last - 1 alone."""
    return [(identity, nuisances[first:last]) for identity, nuisances in people]


def person_names(group: str, count: int) -> list[str]:
    """Names such as "zoo-00012", unique over all groups."""
    return [f"{group}-{index:05d}" for index in range(count)]


def held_out_people(seed: int, params: PortraitsParams) -> tuple[list[str], list[str], list[Person]]:
    """Names, splits and people (with the circumstances of all their photos): first validation, then test."""
    names, splits, people = [], [], []
    for split, count in (("validation", params.validation), ("test", params.test)):
        names += person_names(split, count)
        splits += [split] * count
        people += sample_people(seed, split, count, params.photos)
    return names, splits, people


def manifest_rows(names: list[str], splits: list[str], people: list[Person]) -> list[dict]:
    """One row per photo: person, split, photo, then every identity and nuisance factor."""
    return [{"person": name, "split": split, "photo": photo, **identity_row(identity), **nuisance_row(nuisance)}
            for name, split, (identity, nuisances) in zip(names, splits, people, strict=True)
            for photo, nuisance in enumerate(nuisances)]


def _cores_worth_starting(people: list[Person]) -> int:
    """On how many of the cores that torch uses photos of these people are drawn soonest."""
    photos = sum(len(nuisances) for _, nuisances in people)
    return max(1, min(torch.get_num_threads(), photos // PHOTOS_PER_WORKER))


def draw(people: list[Person], size: int, progress: str | None = None) -> torch.Tensor:
    """Photos uint8 [people, photos, size, size, 3], drawn on as many cores as are worth starting a process for."""
    return torch.from_numpy(render_people(people, size, workers=_cores_worth_starting(people), progress=progress))


def _draw_batch(size: int, people: list[Person]) -> dict[str, torch.Tensor]:
    return {"photos": torch.from_numpy(render_people(people, size))}


def photo_batches(people: list[Person], people_at_once: int, scratch: Path) -> list[Batch]:
    """Batches of "photos" [n, photos, size, size, 3] that `draw_batches` draws, with files in `scratch`."""
    return batches_of(len(people), people_at_once, scratch, lambda first, count: (people[first:first + count],))


def draw_batches(batches: list[Batch], size: int, engine: EngineParams | None = None) -> None:
    """Draw what is missing of `photo_batches`, in pictures of `size` pixels, where `engine` says, by default here."""
    cores = _cores_worth_starting([person for batch in batches for person in batch.inputs()[0]])
    finish(batches, partial(_draw_batch, size), "photos", engine, cores)


def draw_resumably(people: list[Person], size: int, scratch: Path, engine: EngineParams | None = None) -> torch.Tensor:
    """Photos as `draw` gives them; finished batches are read back from `scratch`."""
    batches = photo_batches(people, PEOPLE_PER_BATCH, scratch)
    draw_batches(batches, size, engine)
    return joined(batches)["photos"]


@dataclass(frozen=True)
class Portraits:
    """Photos uint8 [people, photos, h, w, 3] with the names and splits of the people and their manifest."""

    images: torch.Tensor
    names: list[str]
    splits: list[str]
    manifest: pd.DataFrame


def write_portraits(folder: Path, images: torch.Tensor, rows: list[dict] | pd.DataFrame) -> None:
    """Write `photos.safetensors` and `manifest.csv` into `folder`."""
    write_csv(folder / "manifest.csv", rows)
    write_pack(folder / "photos.safetensors", {"photos": images}, {"layout": "people, photos, height, width, rgb"})


def read_portraits(folder: str | Path) -> Portraits:
    """Read what `write_portraits` wrote.

    Raises:
        InputError: a file is missing or malformed, or the manifest does not match the photos.
    """
    folder = Path(folder)
    manifest = read_csv(folder / "manifest.csv", ["person", "split", "photo"])
    tensors, _ = read_pack(folder / "photos.safetensors")
    images = tensors.get("photos")
    people = manifest.drop_duplicates("person")
    if images is None or images.ndim != 5 or images.dtype != torch.uint8:
        raise InputError(str(folder / "photos.safetensors"), "photos",
                         "expected a uint8 tensor [people, photos, height, width, 3]", "Run `dvc repro -f portraits`")
    if len(people) != images.shape[0] or len(manifest) != images.shape[0] * images.shape[1]:
        raise InputError(str(folder / "manifest.csv"), "person",
                         f"{len(manifest)} rows of {len(people)} people for photos of shape {list(images.shape)}",
                         "Run `dvc repro -f portraits`")
    return Portraits(images, people["person"].tolist(), people["split"].tolist(), manifest)
