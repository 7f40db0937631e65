"""What models of people are worth that were made from pictures of other kinds than photos."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import EvaluateParams, Gallery, embed_all
from w2wpp.evaluation.protocol import codec_vectors
from w2wpp.evaluation.style_probe import StyleProbe
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.recognizers import Recognizer
from w2wpp.files.settings import Count, Section, Whole
from w2wpp.lora.layout import WeightLayout

MEASURES = ("id_score", "face_found", "photo_share", "copying")
"""Columns of a table of measures, per person."""


class OutsideParams(Section):
    """Held-out people's photos made into drawings, paintings and the like, and inverted."""

    seeds: Count = 2
    """Pictures per model."""
    dreambooth_steps: Whole = 100
    """Steps from the mean LoRA of the DreamBooth that spaces are compared with."""
    probe_people: Count = 1000
    """Zoo people whose photos, as they are and in every style, teach what a photo looks like."""


@dataclass(frozen=True)
class RealPhotos:
    """Photos of n held-out people that no model was made from, by their codec latents.

    Attributes:
        latents: [n, photos, e]; mean: of all of them [e].
    """

    latents: np.ndarray
    mean: np.ndarray

    @classmethod
    def of(cls, pipe: StableDiffusionPipeline, images: Tensor) -> "RealPhotos":
        """Of photos uint8 [n, photos, h, w, 3]."""
        latents = codec_vectors(pipe, images)
        return cls(latents, latents.mean((0, 1)))


def vectors(latents: Tensor) -> np.ndarray:
    """Latents [n, g, c, h, w] as float32 [n, g, c * h * w]."""
    return latents.flatten(2).numpy()


def measure(
    seen: Embeddings, latents: Tensor, styled: Tensor, real: RealPhotos, gallery: Gallery, probe: StyleProbe
) -> pd.DataFrame:
    """The `MEASURES` of models of the gallery's people, a row each.

    Args:
        seen: embeddings [n, g] of the pictures that the models draw.
        latents: scaled latents of these pictures, [n, g, c, h, w].
        styled: scaled latents [n, c, h, w] of the picture that each model was made from.

    Returns:
        "id_score" to the person's real photos, NaN where none shows a face; "face_found" and "photo_share", shares of
        the pictures; "copying" of the styled picture (see `scoring.copying`).
    """
    drawn = vectors(latents)
    everything = [np.ones(each.shape[:2], dtype=bool) for each in (drawn, real.latents)]
    return pd.DataFrame(
        {
            "id_score": gallery.id_scores(seen),
            "face_found": seen.found.mean(1),
            "photo_share": probe.photo_share(latents).numpy(),
            "copying": scoring.copying(
                drawn, everything[0], styled.flatten(1).cpu().numpy(), real.latents, everything[1], real.mean
            ),
        }
    )


def photo_frechet(latents: Tensor, real: RealPhotos, rows: np.ndarray) -> float:
    """Fréchet distance of pictures to as many real photos of the same people, in codec latents: squared latent units.

    Args:
        latents: of the pictures [n, g, c, h, w], of which no more per person count than there are photos.
        rows: bool [n], the people who count.
    """
    count = min(latents.shape[1], real.latents.shape[1])
    sets = (vectors(latents)[rows, :count], real.latents[rows, :count])
    return scoring.frechet_distance(*(each.reshape(-1, each.shape[-1]) for each in sets))


def frechet_floor(real: RealPhotos, rows: np.ndarray) -> float:
    """`photo_frechet` between one half of the real photos of people `rows` bool [n] and the other: photos' own."""
    half = real.latents.shape[1] // 2
    sets = (real.latents[rows, :half], real.latents[rows, half : 2 * half])
    return scoring.frechet_distance(*(each.reshape(-1, each.shape[-1]) for each in sets))


def summary(table: pd.DataFrame, latents: Tensor, real: RealPhotos, rows: np.ndarray, bootstrap: int) -> dict:
    """Means of `measure` over the people `rows` bool [n], the ID score's 95 % interval, and `photo_frechet`."""
    some = table[rows]
    mean, low, high = scoring.bootstrap_mean(some["id_score"].to_numpy(), n=bootstrap)
    return {
        "id_score": mean,
        "id_score_low": low,
        "id_score_high": high,
        **{name: float(some[name].mean()) for name in MEASURES[1:]},
        "photo_frechet": photo_frechet(latents, real, rows),
    }


@dataclass(frozen=True)
class Bench:
    """All that models of the gallery's people are measured with, the same for spaces and for DreamBooth."""

    pipe: StableDiffusionPipeline
    layout: WeightLayout
    gallery: Gallery
    real: RealPhotos
    probe: StyleProbe
    recognizer: Recognizer
    evaluate: EvaluateParams
    drawing: GenerateParams

    def score(self, weights: Tensor, styled: Tensor, seeds: int, what: str) -> tuple[Tensor, pd.DataFrame, dict]:
        """Draw models [n, d] that were made from pictures with scaled latents [n, c, h, w], and measure what they draw.

        Returns:
            Pictures uint8 [n, seeds, h, w, 3], the table of `measure` with the people's names, and the `summary`.
        """
        drawn = generate(self.pipe, self.layout, weights, [self.evaluate.prompt], seeds, self.drawing, what)[:, 0]
        latents = encode_images(self.pipe, drawn.flatten(0, 1)).unflatten(0, drawn.shape[:2]).cpu()
        seen = embed_all(self.recognizer, drawn)
        table = measure(seen, latents, styled, self.real, self.gallery, self.probe)
        found = summary(table, latents, self.real, self.gallery.scored, self.evaluate.bootstrap)
        return drawn, table.assign(person=self.gallery.people), found
