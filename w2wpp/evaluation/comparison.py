"""Spaces and rungs compared person by person: gains with intervals, and the ladder."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from w2wpp.evaluation import scoring
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv

COMPARED = ("id_obeyed", "id_score", "copying", "variety", "prompt_accuracy")
"""Measures of which the ladder has a row per rung and the comparison a gain."""
LOWER_IS_BETTER = {"copying"}


def read_measures(files: Iterable[Path]) -> pd.DataFrame:
    """Measures by person and rung, as `protocol.measured` left them in files.

    Raises:
        InputError: a file is missing or malformed.
    """
    tables = [read_csv(file, ["person", "rung", "id_score"]) for file in files]
    return pd.concat(tables, ignore_index=True)


def of_measure(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    """One measure, a row per person and a column per rung, of the people and rungs that have it.

    Rungs that nobody has it of are left out, then people whom a rung lacks.
    """
    if measure not in table:
        return pd.DataFrame()
    values = table.assign(value=pd.to_numeric(table[measure], errors="coerce"))
    return values.pivot(index="person", columns="rung", values="value").dropna(axis=1, how="all").dropna()


def ladder(table: pd.DataFrame, bootstrap: int) -> list[dict]:
    """Mean and 95 % interval over people of each of `COMPARED`, a row per rung and measure."""
    rows = []
    for measure in COMPARED:
        people = of_measure(table, measure)
        for rung in people.columns:
            mean, low, high = scoring.bootstrap_mean(people[rung].to_numpy(), n=bootstrap)
            rows.append(
                {"rung": rung, "measure": measure, "mean": mean, "low": low, "high": high, "people": len(people)}
            )
    return rows


def paired_gain(people: pd.DataFrame, one: str, other: str, bootstrap: int) -> dict[str, float]:
    """How much more of a measure one rung has than another, person by person: mean, and 95 % interval low to high."""
    mean, low, high = scoring.paired_gain(people[one].to_numpy(), people[other].to_numpy(), n=bootstrap)
    return {"mean": mean, "low": low, "high": high}


def gains(table: pd.DataFrame, baseline: str, bootstrap: int) -> dict:
    """Gains of the VAE's inversions over those of the baseline and of the linear space, its own without nonlinearity.

    Returns:
        Of the ID score "people", "gain", "gain_over_linear", "people_better_with_vae"; of every other measure that the
        table has, the same without "people" under its name.
    """
    found: dict = {}
    for measure in COMPARED:
        people = of_measure(table, measure)
        if people.empty:
            continue
        vae, other = people["vae inversion"].to_numpy(), people[f"{baseline} inversion"].to_numpy()
        each = {
            "gain": paired_gain(people, "vae inversion", f"{baseline} inversion", bootstrap),
            "gain_over_linear": paired_gain(people, "vae inversion", "linear inversion", bootstrap),
            "people_better_with_vae": float(np.mean(vae < other if measure in LOWER_IS_BETTER else vae > other)),
        }
        found |= {"people": len(people)} | each if measure == "id_score" else {measure: each}
    return found


def outside_gains(table: pd.DataFrame, baseline: str, bootstrap: int, unequal: bool) -> dict:
    """Gains in ID score of the VAE's inversions of pictures from outside, by "style", the column of the table.

    Returns:
        Of every style "gain" over the baseline, unless spaces are `unequal`, and "gain_over_dreambooth".
    """
    others = {} if unequal else {"gain": f"{baseline} inversion"}
    found: dict = {}
    for style, rows in table.groupby("style"):
        people = of_measure(rows, "id_score")
        found[style] = {
            key: paired_gain(people, "vae inversion", other, bootstrap)
            for key, other in (others | {"gain_over_dreambooth": "dreambooth"}).items()
        }
    return found


def inequality(settings: Mapping[str, Mapping[str, object]], spaces: Sequence[str]) -> str:
    """Why spaces cannot be compared, such as "512 dimensions of vae against 64 of pca"; empty where they can.

    Args:
        settings: of each space, by name; those that the baseline has, too, must be the same.
        spaces: to be compared, the baseline first.

    Raises:
        InputError: a space's dimensions are unknown.
    """
    for space in spaces:
        if settings.get(space, {}).get("dimensions") is None:
            raise InputError(f"metrics/{space}.json", "latent_dim", "missing", "Run `dvc repro -f evaluate`")
    baseline, *others = spaces
    reasons = [
        f"{settings[space][name]} {name} of {space} against {value} of {baseline}"
        for name, value in settings[baseline].items()
        for space in others
        if settings[space].get(name, value) != value
    ]
    return reasons[-1] if reasons else ""
