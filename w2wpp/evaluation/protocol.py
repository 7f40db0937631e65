"""The measures of docs/protocol.md: what models of held-out people are worth, and what of it is a copy of the photo."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.diffusion.prompts import Request
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import EvaluateParams, Gallery, embed_all
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.recognizers import Recognizer
from w2wpp.lora.layout import WeightLayout

POSE_SPREADS = {"yaw": "pose_spread_yaw", "light": "pose_spread_light"}  # measures by the quantity that they spread
IDENTITY_MEASURES = ("id_obeyed", "id_score", "copying_identity")
PICTURE_MEASURES = ("prompt_accuracy", "copying", "variety", *POSE_SPREADS.values())
# Measures whose mean has its interval in metrics, low and high.
INTERVALS = {"id_obeyed": ("id_obeyed_low", "id_obeyed_high"), "id_score": ("id_score_low", "id_score_high")}


@dataclass(frozen=True)
class Judge:
    """What reads pictures, where a probe knows them.

    Attributes:
        requests: prompts that contradict each person's input photo, p of each.
        obeyed: says of pictures uint8 [n, p, seeds, h, w, 3] which show what was requested, bool [n, p, seeds].
        quantities: reads the quantities of `POSE_SPREADS` off pictures uint8 [m, h, w, 3]: values [m] by name.
    """

    requests: list[list[Request]]
    obeyed: Callable[[list[list[Request]], Tensor], Tensor]
    quantities: Callable[[Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class ModelPictures:
    """Pictures of models of n people.

    Attributes:
        plain: of the prompt that asks for the person and no more, uint8 [n, seeds, h, w, 3].
        requested: of prompts that contradict the input photo, uint8 [n, p, seeds, h, w, 3]; None without a judge.
        obeyed: which of these show what was requested, bool [n, p, seeds]; None without a judge.
    """

    plain: Tensor
    requested: Tensor | None = None
    obeyed: Tensor | None = None

    def tensors(self, rung: str) -> dict[str, Tensor]:
        """The pictures by name, as a pack holds those of a rung."""
        named = {rung: self.plain, f"{rung} requested": self.requested, f"{rung} obeyed": self.obeyed}
        return {name: tensor.contiguous() for name, tensor in named.items() if tensor is not None}

    @classmethod
    def of(cls, pack: dict[str, Tensor], rung: str) -> "ModelPictures":
        """The pictures of a rung in a pack that has `tensors`."""
        return cls(pack[rung], pack.get(f"{rung} requested"), pack.get(f"{rung} obeyed"))


def draw_models(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    people: int,
    judge: Judge | None,
    params: EvaluateParams,
    drawing: GenerateParams,
    label: str,
) -> ModelPictures:
    """Pictures of the models of `people` people.

    Args:
        weights: [people, d], or [1, d] of one model for everybody.
        judge: None draws the plain prompt alone.
    """
    plain = generate(pipe, layout, weights, [params.prompt], params.seeds, drawing, label)[:, 0]
    plain = plain.expand(people, -1, -1, -1, -1)
    if judge is None:
        return ModelPictures(plain)
    prompts = [[request.prompt for request in some] for some in judge.requests]
    label = f"{label}, prompted"
    if len(weights) == 1:
        different = sorted({prompt for some in prompts for prompt in some})
        drawn = generate(pipe, layout, weights, different, params.seeds, drawing.prompted, label)[0]
        requested = drawn[torch.tensor([[different.index(prompt) for prompt in some] for some in prompts])]
    else:
        requested = generate(pipe, layout, weights, prompts, params.seeds, drawing.prompted, label)
    return ModelPictures(plain, requested, judge.obeyed(judge.requests, requested))


def copies(photos: Tensor, judge: Judge | None, seeds: int) -> ModelPictures:
    """The input photos uint8 [n, h, w, 3] as if models had drawn them, whatever the prompt."""
    plain = photos[:, None].expand(-1, seeds, -1, -1, -1)
    if judge is None:
        return ModelPictures(plain)
    requested = plain[:, None].expand(-1, len(judge.requests[0]), -1, -1, -1, -1)
    return ModelPictures(plain, requested, judge.obeyed(judge.requests, requested))


def codec_vectors(pipe: StableDiffusionPipeline, images: Tensor) -> np.ndarray:
    """Codec latents of pictures uint8 [n, g, h, w, 3] as vectors, float32 [n, g, e]."""
    return encode_images(pipe, images.flatten(0, 1)).flatten(1).unflatten(0, images.shape[:2]).cpu().numpy()


def identity_measures(
    pictures: ModelPictures, gallery: Gallery, recognizer: Recognizer
) -> tuple[pd.DataFrame, Embeddings]:
    """The `IDENTITY_MEASURES` of every person of the gallery; NaN for those who cannot be scored.

    Returns:
        A row per person, without "id_obeyed" where no prompts were drawn; and the plain pictures' embeddings.
    """
    can, photos, plain = gallery.scored, gallery.photos, embed_all(recognizer, pictures.plain)
    table = {name: np.full(len(can), np.nan) for name in IDENTITY_MEASURES}
    table["id_score"] = gallery.id_scores(plain)
    if pictures.requested is not None and pictures.obeyed is not None:
        cosines = gallery.id_cosines(embed_all(recognizer, pictures.requested.flatten(1, 2)))
        table["id_obeyed"][can] = scoring.id_obeyed(
            cosines[can], pictures.obeyed.flatten(1).numpy()[can], gallery.floor
        )
    else:
        del table["id_obeyed"]
    both = can & photos.found[:, 0] & photos.found[:, 1:].any(1)  # a photo without a face cannot be copied
    table["copying_identity"][both] = scoring.copying(
        plain.vectors[both],
        plain.found[both],
        photos.vectors[both, 0],
        photos.vectors[both, 1:],
        photos.found[both, 1:],
        gallery.mean,
    )
    return pd.DataFrame(table), plain


def picture_measures(
    pipe: StableDiffusionPipeline, pictures: ModelPictures, photos: Tensor, judge: Judge | None
) -> pd.DataFrame:
    """The `PICTURE_MEASURES` of every person, which take no recogniser; without a judge "copying" and "variety" alone.

    Args:
        photos: of each person uint8 [n, photos, h, w, 3], the input photo first.
    """
    real, drawn = codec_vectors(pipe, photos), codec_vectors(pipe, pictures.plain)
    mean = real.mean((0, 1))
    everything = [np.ones(each.shape[:2], dtype=bool) for each in (drawn, real[:, 1:])]
    table = {
        "copying": scoring.copying(drawn, everything[0], real[:, 0], real[:, 1:], everything[1], mean),
        "variety": scoring.spread(drawn, mean) / scoring.spread(real[:, 1:], mean),
    }
    if judge is not None and pictures.obeyed is not None:
        table["prompt_accuracy"] = pictures.obeyed.double().mean((1, 2)).numpy()
        spreads = [_quantity_spreads(judge, each) for each in (pictures.plain, photos[:, 1:])]
        for name, measure in POSE_SPREADS.items():
            table[measure] = spreads[0][name] / spreads[1][name].mean()
    return pd.DataFrame({name: table[name] for name in PICTURE_MEASURES if name in table})


def _quantity_spreads(judge: Judge, images: Tensor) -> dict[str, np.ndarray]:
    """Standard deviation [n] of each quantity over a person's pictures uint8 [n, g, h, w, 3]."""
    read = judge.quantities(images.flatten(0, 1))
    return {name: read[name].unflatten(0, images.shape[:2]).std(1).numpy() for name in POSE_SPREADS}


def score_rung(
    pipe: StableDiffusionPipeline,
    pictures: ModelPictures,
    gallery: Gallery,
    photos: Tensor,
    judge: Judge | None,
    recognizer: Recognizer,
    bootstrap: int,
) -> tuple[dict[str, float], pd.DataFrame]:
    """All measures of a rung.

    Args:
        photos: of each person uint8 [n, photos, h, w, 3], the input photo first.

    Returns:
        Means over people, with the gallery's summary of plain pictures and the intervals of `INTERVALS`; and a row per
        person.
    """
    identity, plain = identity_measures(pictures, gallery, recognizer)
    table = pd.concat([identity, picture_measures(pipe, pictures, photos, judge)], axis=1)
    return gallery.summary(plain, bootstrap) | summary(table, bootstrap), table.assign(person=gallery.people)


def summary(table: pd.DataFrame, bootstrap: int) -> dict[str, float]:
    """Mean of every measure over the people who have it, and its interval where it has one of `INTERVALS`."""
    means = {}
    for name in table.columns:
        values = table[name].dropna().to_numpy()
        means[name] = float(values.mean()) if len(values) else 0.0
        if name in INTERVALS and len(values):
            low, high = INTERVALS[name]
            means[name], means[low], means[high] = scoring.bootstrap_mean(values, n=bootstrap)
    return means


def measured(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Tables of rungs as one, with a column "rung"."""
    return pd.concat([table.assign(rung=rung) for rung, table in tables.items()], ignore_index=True)
