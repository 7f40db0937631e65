"""What edits change: whether pictures show the target, and what else becomes different.

A table of edits has a row for each model, person, edit and strength: columns model, person (row of the gallery), edit,
strength (0 of the unedited person), prompted (whether a prompt asked for the edit instead) and picture (row of the
pictures, of which the unedited one serves all edits of a person).
"""

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.evaluation.protocol import codec_vectors
from w2wpp.faces.recognizers import Recognizer

MEASURES = ("flipped", "id_kept", "id_score", "others_changed", "latent_distance")
"""Columns that `measure_edits` adds; all but the first are compared where the first is equal."""
Shares = Callable[[Tensor], dict[str, Tensor]]
"""Reads probabilities [n, choices] of every factor off pictures uint8 [n, h, w, 3]."""


def measure_edits(
    pipe: StableDiffusionPipeline,
    table: pd.DataFrame,
    pictures: Tensor,
    targets: Mapping[str, tuple[str, list[int]]],
    gallery: Gallery,
    shares: Shares,
    recognizer: Recognizer,
) -> pd.DataFrame:
    """A table of edits with `MEASURES`, each picture compared with the unedited one of the same model and seed.

    flipped: share of pictures that the probe reads as the target. id_kept: centred cosine of the faces before and
    after; the floor where one is missing. id_score: of the pictures, against the person's photos. others_changed: total
    variation between the probe's probabilities before and after, mean over all factors but the target's.
    latent_distance: 1 - centred cosine of codec latents before and after.

    Args:
        table: see the module; it has a row of strength 0 for every model, person and edit.
        pictures: uint8 [m, seeds, h, w, 3].
        targets: of each edit, the factor that it changes and the numbers of the choices that show it.

    Returns:
        The same rows, means over seeds.
    """
    table = table.reset_index(drop=True)
    after, people, seeds = table["picture"].to_numpy(), table["person"].to_numpy(), pictures.shape[1]
    start = table[(table["strength"] == 0) & ~table["prompted"]].set_index(["model", "person", "edit"])["picture"]
    before = start.loc[list(zip(table["model"], table["person"], table["edit"], strict=True))].to_numpy()
    read = {name: each.unflatten(0, (-1, seeds)).numpy() for name, each in shares(pictures.flatten(0, 1)).items()}
    faces, latents = embed_all(recognizer, pictures), codec_vectors(pipe, pictures)
    units = scoring.center(np.where(faces.found[..., None], faces.vectors, gallery.mean), gallery.mean)
    cosine = np.einsum("rse,rse->rs", units[after], units[before])
    shown = scoring.center(latents, latents[np.unique(before)].mean((0, 1)))
    moved = {name: np.abs(each[after] - each[before]).sum(2).mean(1) / 2 for name, each in read.items()}
    factors = table["edit"].map(lambda edit: targets[edit][0])
    return table.assign(
        flipped=[
            np.isin(read[targets[edit][0]][row].argmax(1), targets[edit][1]).mean()
            for edit, row in zip(table["edit"], after, strict=True)
        ],
        id_kept=np.where(faces.found[after] & faces.found[before], cosine, gallery.floor).mean(1),
        id_score=scoring.id_scores(
            faces.vectors[after],
            faces.found[after],
            gallery.real.vectors[people],
            gallery.real.found[people],
            gallery.mean,
            gallery.floor,
        ),
        others_changed=np.nanmean([np.where(factors == name, np.nan, each) for name, each in moved.items()], 0),
        latent_distance=1 - np.einsum("rse,rse->rs", shown[after], shown[before]).mean(1),
    )


def reached(scores: pd.DataFrame) -> dict[str, float]:
    """The largest flip rate of each edit (mean over people) at any strength of a table of one model."""
    edits = scores[~scores["prompted"]]
    return edits.groupby(["edit", "strength"])["flipped"].mean().groupby("edit").max().to_dict()


def at_flip_rate(scores: pd.DataFrame, rates: Mapping[str, float]) -> pd.DataFrame:
    """Everybody's measures at the strength of each edit that flips a given share of pictures.

    The flip rate rises linearly between the strengths of the table, and the measures with it; a rate that no strength
    reaches is met by the one that comes nearest.

    Args:
        scores: of one model, measured.
        rates: of each edit that is wanted.

    Returns:
        A row per edit and person: person, edit, strength and `MEASURES`.
    """
    parts = []
    for edit, rate in rates.items():
        some = scores[(scores["edit"] == edit) & ~scores["prompted"]]
        curve = some.groupby("strength")["flipped"].mean().cummax()
        curve = curve[~curve.duplicated()]  # each height at the strength that first has it
        place = float(np.interp(rate, curve.to_numpy(), curve.index.to_numpy(float)))
        at = {
            measure: some.pivot(index="person", columns="strength", values=measure).apply(
                lambda row, place=place: np.interp(place, row.index.to_numpy(float), row.to_numpy()), axis=1
            )
            for measure in MEASURES
        }
        parts.append(pd.DataFrame(at).reset_index().assign(edit=edit, strength=place))
    return pd.concat(parts, ignore_index=True)


def by_person(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of `MEASURES` over the edits of each person, by person."""
    return scores.groupby("person")[list(MEASURES)].mean()
