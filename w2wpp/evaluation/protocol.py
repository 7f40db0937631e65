"""The measures of docs/protocol.md: what models of held-out people are worth, and what of it is a copy of the photo."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.diffusion.prompts import Request
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.faces.recognizers import Embeddings, Recognizer
from w2wpp.lora.layout import WeightLayout

Reader = Callable[[Tensor], dict[str, Tensor]]
"""Reads every factor and quantity off pictures uint8 [n, h, w, 3]: values [n] by name."""
QUANTITIES = ("yaw", "light")
MEASURES = (
    "id_obeyed",
    "id_score",
    "prompt_accuracy",
    "copying",
    "copying_identity",
    "variety",
    *(f"pose_spread_{name}" for name in QUANTITIES),
)
"""Columns of a table of measures, all per person."""


@dataclass(frozen=True)
class ModelPictures:
    """Pictures of models of n people.

    Attributes:
        plain: of the prompt that asks for the person and no more, uint8 [n, seeds, h, w, 3].
        requested: of prompts that contradict the input photo, uint8 [n, p, seeds, h, w, 3].
        obeyed: which of these show what was requested, bool [n, p, seeds].
    """

    plain: Tensor
    requested: Tensor
    obeyed: Tensor

    def tensors(self, rung: str) -> dict[str, Tensor]:
        """The pictures by name, as a pack holds those of a rung."""
        return {f"{rung} plain": self.plain, f"{rung} requested": self.requested, f"{rung} obeyed": self.obeyed}

    @classmethod
    def of(cls, pack: dict[str, Tensor], rung: str) -> "ModelPictures":
        """The pictures of a rung in a pack that has `tensors`."""
        return cls(*(pack[f"{rung} {name}"] for name in ("plain", "requested", "obeyed")))


def draw_models(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    prompt: str,
    requests: list[list[Request]],
    obeyed: Callable[[list[list[Request]], Tensor], Tensor],
    seeds: int,
    drawing: GenerateParams,
    label: str,
) -> ModelPictures:
    """Pictures of the models of n people.

    Args:
        weights: [n, d], or [1, d] of one model for everybody.
        prompt: the plain prompt.
        requests: p of each person.
        obeyed: says which pictures uint8 [n, p, seeds, h, w, 3] show what was requested.
    """
    people = len(requests)
    plain = generate(pipe, layout, weights, [prompt], seeds, drawing, label)[:, 0].expand(people, -1, -1, -1, -1)
    prompts = [[request.prompt for request in some] for some in requests]
    requested = generate(
        pipe, layout, weights.expand(people, -1), prompts, seeds, drawing.prompted, f"{label}, prompted"
    )
    return ModelPictures(plain, requested, obeyed(requests, requested))


@dataclass(frozen=True)
class Photos:
    """Real photos of n held-out people, as vectors.

    Attributes:
        latents: of the codec [n, photos, e], the input photo first; mean: of everybody's [e].
        quantities: of the same photos [n, photos] by name.
        faces: embeddings of the same photos [n, photos].
    """

    latents: np.ndarray
    mean: np.ndarray
    quantities: dict[str, np.ndarray]
    faces: Embeddings

    @classmethod
    def observe(cls, pipe: StableDiffusionPipeline, images: Tensor, read: Reader, recognizer: Recognizer) -> "Photos":
        """Look at photos uint8 [n, photos, h, w, 3], the input photo first."""
        latents = codec_vectors(pipe, images)
        read_all = read(images.flatten(0, 1))
        quantities = {name: read_all[name].unflatten(0, images.shape[:2]).numpy() for name in QUANTITIES}
        return cls(latents, latents.mean((0, 1)), quantities, embed_all(recognizer, images))


def codec_vectors(pipe: StableDiffusionPipeline, images: Tensor) -> np.ndarray:
    """Codec latents of pictures uint8 [n, g, h, w, 3] as vectors, float32 [n, g, e]."""
    return encode_images(pipe, images.flatten(0, 1)).flatten(1).unflatten(0, images.shape[:2]).cpu().numpy()


def measure(
    pipe: StableDiffusionPipeline,
    pictures: ModelPictures,
    gallery: Gallery,
    photos: Photos,
    read: Reader,
    recognizer: Recognizer,
) -> pd.DataFrame:
    """The `MEASURES` of every person of the gallery, a row each.

    Raises:
        ValueError: none of a person's real photos shows a face.
    """
    plain, requested = embed_all(recognizer, pictures.plain), embed_all(recognizer, pictures.requested.flatten(1, 2))
    obeyed = pictures.obeyed.flatten(1).numpy()
    latents = codec_vectors(pipe, pictures.plain)
    everything = np.ones(latents.shape[:2], dtype=bool)
    others = np.ones((len(latents), photos.latents.shape[1] - 1), dtype=bool)
    faces = Embeddings(photos.faces.vectors[:, 1:], photos.faces.found[:, 1:])
    seen = np.where(photos.faces.found[:, :1], photos.faces.vectors[:, 0], gallery.mean)
    quantities = read(pictures.plain.flatten(0, 1))
    table = {
        "id_obeyed": scoring.id_obeyed(gallery.id_cosines(requested), obeyed, gallery.floor),
        "id_score": gallery.id_scores(plain),
        "prompt_accuracy": obeyed.mean(1),
        "copying": scoring.copying(
            latents, everything, photos.latents[:, 0], photos.latents[:, 1:], others, photos.mean
        ),
        "copying_identity": scoring.copying(plain.vectors, plain.found, seen, faces.vectors, faces.found, gallery.mean),
        "variety": scoring.spread(latents, photos.mean) / scoring.spread(photos.latents[:, 1:], photos.mean),
    }
    for name in QUANTITIES:
        values = quantities[name].unflatten(0, pictures.plain.shape[:2]).numpy()
        table[f"pose_spread_{name}"] = values.std(1, ddof=1) / photos.quantities[name][:, 1:].std(1, ddof=1).mean()
    return pd.DataFrame(table)[list(MEASURES)]
