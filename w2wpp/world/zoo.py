"""The people whose LoRAs the collect stage trains, their photos and initial weights, and the training of a batch."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
from diffusers import StableDiffusionPipeline
from pydantic import Field, model_validator
from torch import Tensor

from w2wpp.compute.batches import Batch, batches_of, read_batch
from w2wpp.diffusion.dreambooth import DreamBoothParams, prompted_latents, train_loras
from w2wpp.faces.portraits import PortraitsParams
from w2wpp.files.settings import Count, Whole
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.populations import Person, manifest_rows, person_names, sample_people, with_photos


class ZooParams(DreamBoothParams):
    """The people of the zoo, their photos, and the training of their LoRAs."""

    people: Annotated[int, Field(ge=4)] = 2000
    """Zoo people."""
    repeated: Whole = 200
    """Zoo people who get a second LoRA from other photos and another seed."""
    photos: Count = 8
    """Photos per person."""
    start: Literal["kaiming", "gradients"] = "gradients"
    """`kaiming`: as peft and weights2weights; `gradients`: A spans the directions in which other people's gradients
    differ.
    """
    start_people: Annotated[int, Field(ge=2)] = 128
    """Base people for the gradients."""
    start_photos: Annotated[int, Field(ge=2, multiple_of=2)] = 8
    """Photos of each of them."""
    people_at_once: Count = 32
    """People whose LoRAs are trained in one batch."""

    @model_validator(mode="after")
    def _repeated_are_people(self) -> "ZooParams":
        if self.repeated > self.people:
            raise ValueError(f"collect.repeated must be at most collect.people ({self.people}), got {self.repeated}")
        return self


@dataclass(frozen=True)
class Role:
    """LoRAs of one kind: their people, with the circumstances of the photos they are trained on, and their seed."""

    name: str
    split: str
    names: list[str]
    people: list[Person]
    seed: int

    @property
    def folder(self) -> Path:
        """The folder of the role's batches, relative to the folder of all roles."""
        return Path(self.name, self.split)

    def rows(self, first: int, count: int) -> pd.DataFrame:
        """The manifest of the photos of some of the people, a row per photo."""
        some = slice(first, first + count)
        return pd.DataFrame(manifest_rows(self.names[some], [self.split] * count, self.people[some]))


def zoo_roles(seed: int, zoo: ZooParams, portraits: PortraitsParams) -> list[Role]:
    """The zoo people, those of them with a second LoRA, and the two references of the held-out people.

    Held-out people are rendered again instead of read from data/portraits. Another processor may round a picture
    differently, and that must not make hours of shipped training stale.
    """
    names, people = person_names("zoo", zoo.people), sample_people(seed, "zoo", zoo.people, 2 * zoo.photos)
    held_out = [
        (split, person_names(split, count), sample_people(seed, split, count, zoo.photos))
        for split, count in (("validation", portraits.validation), ("test", portraits.test))
    ]
    roles = [
        Role("zoo", "zoo", names, with_photos(people, 0, zoo.photos), seed),
        Role(
            "zoo-again",
            "zoo",
            names[: zoo.repeated],
            with_photos(people[: zoo.repeated], zoo.photos, 2 * zoo.photos),
            seed + 1,
        ),
        *(Role("true", *group, seed) for group in held_out),
        *(Role("one-photo", split, names, with_photos(people, 0, 1), seed) for split, names, people in held_out),
    ]
    return [role for role in roles if role.people]


def lora_batches(role: Role, people_at_once: int, scratch: Path, photos: list[Batch]) -> list[Batch]:
    """Batches of a role's LoRAs for `train_batch`, with files in `scratch`.

    Args:
        photos: batches of photos of the same people, which must be finished before training.
    """

    def inputs(first: int, count: int) -> tuple:
        drawn = read_batch(photos[first // people_at_once])["photos"]
        return drawn, role.rows(first, count), role.seed, f"{role.name} LoRAs {first + count}/{len(role.people)}"

    return batches_of(len(role.people), people_at_once, scratch / role.folder, inputs)


def train_batch(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    start: Tensor,
    class_latents: Tensor,
    params: DreamBoothParams,
    photos: Tensor,
    manifest: pd.DataFrame,
    seed: int,
    label: str,
) -> dict[str, Tensor]:
    """The "weights" [n, d] and "losses" [n] of `train_loras` on photos uint8 [n, photos, h, w, 3] and their manifest.

    Results depend only on the people of the batch and on the inputs that all batches share.
    """
    latents, text = prompted_latents(pipe, photos, manifest, params)
    weights, losses = train_loras(pipe, layout, start, latents, text, class_latents, params, seed, label)
    return {"weights": weights, "losses": losses}
