"""What edits change: whether pictures show the target, and what else becomes different.

A table of edits has a row for each model, person, edit and strength: columns model, person (row of the gallery), edit,
strength (0 of the unedited person), prompted (whether a prompt asks for the edit, at strength 1, with the guidance that
takes; then the unedited person is drawn with that guidance, too) and picture (row of the pictures, of which the
unedited one serves all edits of a person).
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.evaluation.protocol import codec_vectors
from w2wpp.faces.recognizers import Recognizer
from w2wpp.files.storage import read_csv

COLUMNS = ("model", "person", "edit", "strength", "prompted", "picture")
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
        table: see the module; it has a row of strength 0 for every model, person and edit that is prompted or not.
        pictures: uint8 [m, seeds, h, w, 3].
        targets: of each edit, the factor that it changes and the numbers of the choices that show it.

    Returns:
        The same rows, means over seeds.
    """
    table = table.reset_index(drop=True)
    after, people, seeds = table["picture"].to_numpy(), table["person"].to_numpy(), pictures.shape[1]
    keys = ["model", "person", "edit", "prompted"]
    start = table[table["strength"] == 0].set_index(keys)["picture"].rename("before")
    before = table.join(start, on=keys)["before"].to_numpy()
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


def rates_of(tables: Sequence[pd.DataFrame], flip_rate: float) -> dict[str, float]:
    """The flip rate at which each edit is looked at: `flip_rate` of those that reach it in all tables of one model.

    Where none does, all edits, each at the largest rate that it reaches everywhere.
    """
    most = pd.DataFrame([reached(table) for table in tables]).min()
    enough = most[most >= flip_rate]
    return dict.fromkeys(enough.index, flip_rate) if len(enough) else most.to_dict()


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
        place = _first_reaching(curve.to_numpy(), curve.index.to_numpy(float), rate)
        at = {
            measure: some.pivot(index="person", columns="strength", values=measure).apply(
                lambda row, place=place: np.interp(place, row.index.to_numpy(float), row.to_numpy()), axis=1
            )
            for measure in MEASURES
        }
        parts.append(pd.DataFrame(at).reset_index().assign(edit=edit, strength=place))
    return pd.concat(parts, ignore_index=True)


def _first_reaching(curve: np.ndarray, strengths: np.ndarray, rate: float) -> float:
    """Where a piecewise linear curve that never falls first reaches a rate, or its largest value if that is less."""
    rate = min(rate, curve[-1])
    place = int((curve >= rate).argmax())
    if place == 0:
        return strengths[0]
    share = (rate - curve[place - 1]) / (curve[place] - curve[place - 1])
    return strengths[place - 1] + share * (strengths[place] - strengths[place - 1])


def by_person(scores: pd.DataFrame) -> pd.DataFrame:
    """Means of `MEASURES` over the edits of each person, by person."""
    return scores.groupby("person")[list(MEASURES)].mean()


def read_edits(path: Path) -> pd.DataFrame | None:
    """Measured edits of inversions, as `evaluate` leaves them in a file; None if there is no file.

    Raises:
        InputError: the file is malformed.
    """
    if not path.is_file():
        return None
    table = read_csv(path, (*COLUMNS, *MEASURES))
    return table[table["model"] == "inversion"]


def prompted(scores: pd.DataFrame) -> pd.DataFrame:
    """The rows in which a prompt asked for the edit."""
    return scores[scores["prompted"] & (scores["strength"] > 0)]


def editing_summary(scores: pd.DataFrame, flip_rate: float, bootstrap: int) -> dict:
    """Metrics of edits in one space: `MEASURES` at a flip rate, and of prompts for the same.

    Args:
        scores: measured, with the models "inversion" and "true".
        flip_rate: see `rates_of`.
        bootstrap: resamples of the people.

    Returns:
        For inversions: how many edits flip so many, their mean strength, means over people, and intervals of what is
        compared. In "true" the same of true LoRAs, in "prompted" means of prompts to inversions for all edits.
    """

    def of(model: str) -> dict:
        rows = scores[scores["model"] == model]
        rates = rates_of([rows], flip_rate)
        edited = at_flip_rate(rows, rates)
        people = by_person(edited)
        summary: dict = {
            "edits": len(rates),
            "strength": float(edited.groupby("edit")["strength"].first().mean()),
            "flipped": float(people["flipped"].mean()),
        }
        for measure in MEASURES[1:]:
            mean, low, high = scoring.bootstrap_mean(people[measure].to_numpy(), n=bootstrap)
            summary[measure] = {"mean": mean, "low": low, "high": high}
        return summary

    asked = by_person(prompted(scores[scores["model"] == "inversion"])).mean()
    return of("inversion") | {"true": of("true"), "prompted": {key: float(value) for key, value in asked.items()}}


def editing_gains(spaces: Mapping[str, pd.DataFrame], baseline: str, flip_rate: float, bootstrap: int) -> dict:
    """What edits in the VAE keep more than in the baseline and in the linear space, person by person.

    Args:
        spaces: measured inversions by space.
        flip_rate: see `rates_of`.

    Returns:
        Of all `MEASURES` but the first, "gain" over the baseline and "gain_over_linear": mean, low and high.
    """
    gain, over_linear = (_gains(spaces, other, flip_rate, bootstrap) for other in (baseline, "linear"))
    return {measure: {"gain": gain[measure], "gain_over_linear": over_linear[measure]} for measure in gain}


def _gains(
    spaces: Mapping[str, pd.DataFrame], baseline: str, flip_rate: float, bootstrap: int
) -> dict[str, dict[str, float]]:
    both = ("vae", baseline)
    rates = rates_of([spaces[name] for name in both], flip_rate)
    people = {name: by_person(at_flip_rate(spaces[name], rates)) for name in both}
    gains = {}
    for measure in MEASURES[1:]:
        vae, other = (people[name][measure].to_numpy() for name in both)
        mean, low, high = scoring.paired_gain(vae, other, n=bootstrap)
        gains[measure] = {"mean": mean, "low": low, "high": high}
    return gains
