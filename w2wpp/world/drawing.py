"""Photos of invented people, rendered on as many cores as pay off, in batches that survive a kill."""

from functools import partial
from pathlib import Path

import torch

from w2wpp.compute.batches import Batch, batches_of, finish, joined
from w2wpp.compute.engine import EngineParams
from w2wpp.compute.resume import scratch_folder
from w2wpp.world.populations import Person
from w2wpp.world.rendering import render_people

PEOPLE_PER_BATCH = 50
PHOTOS_PER_WORKER = 100  # photos that are rendered in the start-up time of a process


def _cores_worth_starting(people: list[Person]) -> int:
    """The number of torch's cores that renders photos of these people fastest."""
    photos = sum(len(nuisances) for _, nuisances in people)
    return max(1, min(torch.get_num_threads(), photos // PHOTOS_PER_WORKER))


def draw(people: list[Person], size: int, progress: str | None = None) -> torch.Tensor:
    """Photos uint8 [people, photos, size, size, 3], rendered on as many cores as pay off the start of a process."""
    return torch.from_numpy(render_people(people, size, workers=_cores_worth_starting(people), progress=progress))


def photo_folder(root: Path, seed: int, group: str, photos: int, size: int) -> Path:
    """The folder that keeps photos of a group's people for resuming, for any number of people (see `sample_people`).

    Args:
        root: of the stage's resume state.
        photos: per person.
        size: pixels along one side.
    """
    return scratch_folder(root, "photos", seed=seed, group=group, photos=photos, size=size)


def _draw_batch(size: int, people: list[Person]) -> dict[str, torch.Tensor]:
    return {"photos": torch.from_numpy(render_people(people, size))}


def photo_batches(people: list[Person], people_at_once: int, scratch: Path) -> list[Batch]:
    """Batches of "photos" [n, photos, size, size, 3] for `draw_batches`, with files in `scratch`."""
    return batches_of(len(people), people_at_once, scratch, lambda first, count: (people[first : first + count],))


def draw_batches(batches: list[Batch], size: int, engine: EngineParams | None = None) -> None:
    """Render the unfinished ones of `photo_batches` in `size` pixels, by `engine` or, by default, in this process."""
    cores = _cores_worth_starting([person for batch in batches for person in batch.inputs()[0]])
    finish(batches, partial(_draw_batch, size), "photos", engine, cores)


def draw_resumably(people: list[Person], size: int, scratch: Path, engine: EngineParams | None = None) -> torch.Tensor:
    """Photos as `draw` returns them; finished batches are read from `scratch`."""
    batches = photo_batches(people, PEOPLE_PER_BATCH, scratch)
    draw_batches(batches, size, engine)
    return joined(batches)["photos"]
