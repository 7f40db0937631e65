"""ID scores of models of held-out people, against photos that no model was trained on."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from pydantic import Field

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.evaluation import scoring
from w2wpp.faces.embeddings import BATCH, Embeddings
from w2wpp.faces.portraits import Portraits
from w2wpp.faces.recognizers import Recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.settings import Count, Prompt, Section
from w2wpp.files.settings import Path as PathText
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.weights import Weights


class EvaluateParams(Section):
    """Scoring of models of held-out people."""

    prompt: Prompt = "a photo of sks person"
    """Prompt of the pictures that plain ID scores are of."""
    seeds: Annotated[int, Field(ge=2)] = 4
    """Pictures per model and prompt."""
    class_samples: Annotated[int, Field(ge=2)] = 500
    """Pictures of the base model, to see that it draws faces."""
    prompted_samples: Count = 64
    """Pictures per prompt of the base model; a LoRA draws `seeds`."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples of the people."""
    prompt_alignment: Literal["none", "clip"] = "none"
    """`clip` measures how well pictures match their prompts, by CLIP."""
    clip: PathText = "openai/clip-vit-large-patch14"
    """Folder of the CLIP model, or its name on the Hugging Face Hub."""
    clip_revision: Prompt = "32bd64288804d66eefd0ccbe215aa642df71cc41"
    """Revision of the CLIP model on the Hub."""


def draw_zoo(
    pipe: StableDiffusionPipeline, data: Weights, params: EvaluateParams, drawing: GenerateParams
) -> tuple[Portraits, list[int]]:
    """A picture of each of `params.class_samples` zoo people, drawn by their LoRAs, for zoos without photos of them.

    People are spread evenly over the zoo; a person's first LoRA draws.

    Returns:
        The pictures as portraits with one photo each, and the rows of the LoRAs in the zoo.
    """
    first: dict[str, int] = {}
    for row, name in enumerate(data.names("zoo")):
        first.setdefault(name, row)
    people, spread = list(first), torch.linspace(0, len(first) - 1, min(params.class_samples, len(first)))
    names = [people[at] for at in spread.round().int().tolist()]
    rows = [first[name] for name in names]
    pictures = generate(pipe, data.layout, data.zoo.rows(rows), [params.prompt], 1, drawing, "zoo people")[:, 0]
    manifest = pd.DataFrame({"person": names, "split": "zoo", "photo": 0})
    return Portraits(pictures, names, ["zoo"] * len(names), manifest), rows


def embed_all(recognizer: Recognizer, images: torch.Tensor) -> Embeddings:
    """Embeddings [..., e] and found [...] of uint8 images [..., h, w, 3] with any leading axes.

    Equal pictures are embedded once: a photo that stands for every prompt's picture, or pictures that are everybody's.
    """
    flat, lead = images.flatten(0, -4).numpy(), images.shape[:-3]
    numbers: dict[bytes, int] = {}
    copies = np.array([numbers.setdefault(hashlib.sha256(each.tobytes()).digest(), len(numbers)) for each in flat])
    if len(numbers) < BATCH:  # a smaller batch would round differently
        seen = recognizer.embed(flat)
    else:
        different = recognizer.embed(flat[np.unique(copies, return_index=True)[1]])
        seen = Embeddings(different.vectors[copies], different.found[copies])
    return Embeddings(seen.vectors.reshape(*lead, -1), seen.found.reshape(lead))


@dataclass(frozen=True)
class Gallery:
    """The reference of all scores: a recogniser's embeddings of the held-out people's real photos.

    Attributes:
        people: names [n].
        photos: embeddings [n, photos, e] of all their photos, the input photo first.
        score_photos: how many of the last photos score models.
        mean: mean embedding [e] of the zoo people, the centre of every cosine.
        zoo: embeddings [z, e] of one photo of each zoo person.
        floor: ID score of a stranger; ceiling: of the person's own photos.
    """

    people: list[str]
    photos: Embeddings
    score_photos: int
    mean: np.ndarray
    zoo: Embeddings
    floor: float
    ceiling: float

    @classmethod
    def build(cls, people: list[str], photos: Embeddings, score_photos: int, zoo: Embeddings) -> "Gallery":
        """Centre on the zoo, measure floor and ceiling on the people.

        Raises:
            ValueError: no zoo photo has a face, or too few held-out photos have one (see `real_floor_and_ceiling`).
        """
        if not zoo.found.any():
            raise ValueError("the recogniser found no face in any photo of the zoo people")
        mean = zoo.vectors[zoo.found].mean(0)
        real = photos.vectors[:, -score_photos:], photos.found[:, -score_photos:]
        return cls(people, photos, score_photos, mean, zoo, *scoring.real_floor_and_ceiling(*real, mean))

    @property
    def real(self) -> Embeddings:
        """Embeddings [n, score_photos, e] of the photos kept for scoring."""
        return Embeddings(self.photos.vectors[:, -self.score_photos :], self.photos.found[:, -self.score_photos :])

    @property
    def scored(self) -> np.ndarray:
        """bool [n]: the people of whom a real photo shows a face, so that they can be scored."""
        return np.asarray(self.real.found.any(1))

    def id_cosines(self, generated: Embeddings) -> np.ndarray:
        """Cosine of each picture [n, g] with the person's real photos (see `scoring.id_cosines`).

        A person who cannot be scored has NaN.
        """
        cosines = np.full(generated.found.shape, np.nan)
        can = self.scored
        cosines[can] = scoring.id_cosines(
            generated.vectors[can],
            generated.found[can],
            self.real.vectors[can],
            self.real.found[can],
            self.mean,
            self.floor,
        )
        return cosines

    def id_scores(self, generated: Embeddings) -> np.ndarray:
        """ID score [n] of pictures [n, g] of each person; NaN for a person who cannot be scored."""
        return self.id_cosines(generated).mean(1)

    def summary(self, generated: Embeddings, bootstrap: int) -> dict[str, float]:
        """ID score with its 95 % interval over people, normalised score, TAR at FAR 1 %, share of faces found."""
        rows = self.scored
        mean, low, high = scoring.bootstrap_mean(self.id_scores(generated)[rows], n=bootstrap)
        tar = scoring.tar_at_far(
            generated.vectors[rows], generated.found[rows], self.real.vectors[rows], self.real.found[rows], self.mean
        )
        return {
            "id_score": mean,
            "id_score_low": low,
            "id_score_high": high,
            "id_score_normalised": float(scoring.normalised(mean, self.floor, self.ceiling)),
            "tar_at_far1": tar,
            "face_found": float(generated.found[rows].mean()),
        }

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""
        tensors = {
            "photos": self.photos.vectors,
            "photos_found": self.photos.found,
            "mean": self.mean,
            "zoo": self.zoo.vectors,
            "zoo_found": self.zoo.found,
        }
        numbers = {"score_photos": self.score_photos, "floor": self.floor, "ceiling": self.ceiling}
        write_pack(
            path,
            {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()},
            {"people": self.people, **numbers},
        )

    @classmethod
    def load(cls, path: Path) -> "Gallery":
        """Read a file of `save`.

        Raises:
            InputError: the file is missing or corrupt, or not a gallery.
        """
        tensors, meta = read_pack(path, ("photos", "photos_found", "mean", "zoo", "zoo_found"))
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        return cls(
            meta["people"],
            Embeddings(arrays["photos"], arrays["photos_found"]),
            meta["score_photos"],
            arrays["mean"],
            Embeddings(arrays["zoo"], arrays["zoo_found"]),
            meta["floor"],
            meta["ceiling"],
        )


def build_gallery(held_out: Portraits, score_photos: int, zoo: Portraits, recognizer: Recognizer) -> Gallery:
    """`Gallery.build` of held-out people's photos and of the zoo people's first ones, which may be the user's.

    Raises:
        InputError: the recogniser finds too few faces, or does not tell the people apart.
    """
    try:
        photos, strangers = embed_all(recognizer, held_out.images), embed_all(recognizer, zoo.images[:, 0])
        gallery = Gallery.build(held_out.names, photos, score_photos, strangers)
        scoring.normalised(0.0, gallery.floor, gallery.ceiling)
        if gallery.scored.sum() < 2:
            raise ValueError("fewer than two people have a photo with a face")
    except ValueError as error:
        raise InputError(
            "data/portraits",
            None,
            f"{recognizer.name} cannot score these people ({error})",
            "Give photos that show one face each, or another recogniser",
        ) from error
    return gallery
