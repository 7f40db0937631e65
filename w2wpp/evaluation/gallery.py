"""ID scores of models of held-out people, against photos that no model was made from."""

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
from w2wpp.faces.portraits import Portraits
from w2wpp.faces.recognizers import Embeddings, Recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.settings import Count, Prompt, Section
from w2wpp.files.settings import Path as PathText
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.weights import Weights


class EvaluateParams(Section):
    """How models of held-out people are scored."""

    prompt: Prompt = "a photo of sks person"
    """Prompt of the pictures that ID scores are of."""
    seeds: Count = 4
    """Pictures per model."""
    class_samples: Annotated[int, Field(ge=2)] = 500
    """Pictures of the base model, to see that it draws faces."""
    prompted_people: Count = 12
    """Test people whose true LoRAs are asked for expressions and backgrounds."""
    prompted_samples: Count = 128
    """Pictures per prompt of the base model; a LoRA draws `seeds`."""
    bootstrap: Annotated[int, Field(ge=100)] = 2000
    """Bootstrap resamples of the people."""
    prompt_alignment: Literal["none", "clip"] = "none"
    """`clip` measures how well pictures show what their prompts say, as CLIP sees it."""
    clip: PathText = "openai/clip-vit-large-patch14"
    """Folder of the CLIP model, or its name on the Hugging Face Hub."""
    clip_revision: Prompt = "32bd64288804d66eefd0ccbe215aa642df71cc41"
    """Revision of the CLIP model on the Hub."""


def draw_zoo(
    pipe: StableDiffusionPipeline, data: Weights, params: EvaluateParams, drawing: GenerateParams
) -> tuple[Portraits, list[int]]:
    """A picture of each of `params.class_samples` zoo people, drawn by their LoRAs, for zoos without photos of them.

    People are evenly spread over the zoo; of those with several LoRAs, the first one draws.

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
    """Embeddings [..., e] and found [...] of uint8 images [..., h, w, 3] with any leading axes."""
    flat = recognizer.embed(images.flatten(0, -4).numpy())
    lead = images.shape[:-3]
    return Embeddings(flat.vectors.reshape(*lead, -1), flat.found.reshape(lead))


@dataclass(frozen=True)
class Gallery:
    """What every score is measured against: real photos of the held-out people, seen by a recogniser.

    Attributes:
        people: names [n]; splits: "validation" or "test" of each.
        real: embeddings [n, photos, e] of the photos kept for scoring.
        mean: mean embedding [e] of the zoo people, the centre of every cosine.
        zoo: embeddings [z, e] of one photo of each zoo person.
        floor: id score of a stranger; ceiling: of the person's own photos.
    """

    people: list[str]
    splits: list[str]
    real: Embeddings
    mean: np.ndarray
    zoo: Embeddings
    floor: float
    ceiling: float

    @classmethod
    def build(cls, people: list[str], splits: list[str], real: Embeddings, zoo: Embeddings) -> "Gallery":
        """Centre on the zoo, measure floor and ceiling on the test people.

        Raises:
            ValueError: no zoo photo has a face, or too few held-out photos have one (see `real_floor_and_ceiling`).
        """
        if not zoo.found.any():
            raise ValueError("the recogniser found no face in any photo of the zoo people")
        mean = zoo.vectors[zoo.found].mean(0)
        test = np.array(splits) == "test"
        floor, ceiling = scoring.real_floor_and_ceiling(real.vectors[test], real.found[test], mean)
        return cls(people, splits, real, mean, zoo, floor, ceiling)

    def rows(self, split: str) -> np.ndarray:
        """bool [n]: the people of a split of whom a real photo shows a face, so that they can be scored."""
        return (np.array(self.splits) == split) & self.real.found.any(1)

    def id_scores(self, generated: Embeddings) -> np.ndarray:
        """ID score [n] of pictures [n, g] of each person; NaN for a person who cannot be scored."""
        scores = np.full(len(self.people), np.nan)
        can = self.real.found.any(1)
        scores[can] = scoring.id_scores(
            generated.vectors[can],
            generated.found[can],
            self.real.vectors[can],
            self.real.found[can],
            self.mean,
            self.floor,
        )
        return scores

    def id_cosines(self, generated: Embeddings) -> np.ndarray:
        """Cosine of each picture [n, g] with the person's real photos; see `scoring.id_cosines`.

        Raises:
            ValueError: a person has no real photo with a face.
        """
        return scoring.id_cosines(
            generated.vectors,
            generated.found,
            self.real.vectors,
            self.real.found,
            self.mean,
            self.floor,
        )

    def summary(self, generated: Embeddings, bootstrap: int, split: str = "test") -> dict[str, float]:
        """ID score with its 95 % interval over people, normalised score, TAR at FAR 1 %, share of faces found."""
        rows = self.rows(split)
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
            "real": self.real.vectors,
            "real_found": self.real.found,
            "mean": self.mean,
            "zoo": self.zoo.vectors,
            "zoo_found": self.zoo.found,
        }
        write_pack(
            path,
            {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in tensors.items()},
            {"people": self.people, "splits": self.splits, "floor": self.floor, "ceiling": self.ceiling},
        )

    @classmethod
    def load(cls, path: Path) -> "Gallery":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or corrupt, or not a gallery.
        """
        tensors, meta = read_pack(path, ("real", "real_found", "mean", "zoo", "zoo_found"))
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        return cls(
            meta["people"],
            meta["splits"],
            Embeddings(arrays["real"], arrays["real_found"]),
            arrays["mean"],
            Embeddings(arrays["zoo"], arrays["zoo_found"]),
            meta["floor"],
            meta["ceiling"],
        )


def build_gallery(held_out: Portraits, real: Embeddings, zoo: Embeddings, recognizer: str) -> Gallery:
    """`Gallery.build`, for photos that are the user's.

    Raises:
        InputError: the recogniser finds too few faces to tell people apart, or does not.
    """
    try:
        gallery = Gallery.build(held_out.names, held_out.splits, real, zoo)
        scoring.normalised(0.0, gallery.floor, gallery.ceiling)
        if gallery.rows("test").sum() < 2:
            raise ValueError("fewer than two test people have a photo with a face")
    except ValueError as error:
        raise InputError(
            "data/portraits",
            None,
            f"{recognizer} cannot score these people ({error})",
            "Give photos that show one face each, or another recogniser",
        ) from error
    return gallery


def score_pictures(
    pictures: dict[str, torch.Tensor], gallery: Gallery, recognizer: Recognizer, bootstrap: int
) -> tuple[dict[str, dict[str, float]], pd.DataFrame]:
    """Score pictures of the gallery's people.

    Args:
        pictures: uint8 [n, seeds, h, w, 3] of each rung, in the order of the gallery's people.

    Returns:
        The gallery's summary on the test people, per rung; and a table with columns person, split, rung, id_score.
    """
    summaries, scores = {}, []
    for rung, drawn in pictures.items():
        seen = embed_all(recognizer, drawn)
        summaries[rung] = gallery.summary(seen, bootstrap)
        scores.append(
            pd.DataFrame(
                {"person": gallery.people, "split": gallery.splits, "rung": rung, "id_score": gallery.id_scores(seen)}
            )
        )
    return summaries, pd.concat(scores)


def score_rungs(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    rungs: dict[str, torch.Tensor],
    gallery: Gallery,
    recognizer: Recognizer,
    params: EvaluateParams,
    drawing: GenerateParams,
) -> tuple[dict[str, torch.Tensor], dict[str, dict[str, float]], pd.DataFrame]:
    """Draw the models of each rung, one per held-out person, and score the pictures.

    Args:
        rungs: weight vectors of each rung, [n, d] in the order of the gallery's people or [1, d] of one model for all.

    Returns:
        Pictures uint8 [n, seeds, h, w, 3] per rung, and what `score_pictures` says of them.
    """
    pictures = {
        rung: generate(pipe, layout, weights, [params.prompt], params.seeds, drawing, f"{rung} LoRAs")[:, 0].expand(
            len(gallery.people), -1, -1, -1, -1
        )
        for rung, weights in rungs.items()
    }
    return pictures, *score_pictures(pictures, gallery, recognizer, params.bootstrap)
