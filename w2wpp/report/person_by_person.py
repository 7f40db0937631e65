"""Every held-out person beside what each model makes of their photo, to be sorted and filtered in the page."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from w2wpp.evaluation.comparison import of_measure
from w2wpp.report.sheets import BESIDE, SPACES, Sheets
from w2wpp.report.style import LABELS
from w2wpp.report.thumbnails import tiles
from w2wpp.spaces.registry import BASELINE
from w2wpp.world.factors import PERSON_FACTORS, UNNAMED_FACTORS
from w2wpp.world.people import sample_nuisance
from w2wpp.world.rows import identity_from_row

SIDE, ACROSS = 64, 3  # pixels of a tile, tiles of a kind
# Measures below pictures, and what people are sorted by: name in data/comparison/scores.csv, words.
SHOWN = {"id_score": "ID", "id_obeyed": "obeyed"}


@dataclass(frozen=True)
class Cell:
    """What one model draws of one person.

    Attributes:
        picture: data URI of tiles: the plain prompt in the first row, prompts that contradict the photo in the second.
        scores: measures by name, as text.
    """

    picture: str
    scores: dict[str, str]


@dataclass(frozen=True)
class Row:
    """A person: pictures by column, numbers to sort by, attributes to filter by."""

    person: str
    photo: str
    cells: dict[str, Cell]
    numbers: dict[str, float | None]
    attributes: dict[str, str]


@dataclass(frozen=True)
class People:
    """The table of people.

    Attributes:
        columns: titles of models by rung.
        orders: what people can be sorted by: words by key of `Row.numbers`. The rows are in the order of the first.
        choices: values of attributes that somebody has.
        across, down: tiles in each picture.
    """

    rows: list[Row]
    columns: dict[str, str]
    orders: dict[str, str]
    choices: dict[str, list[str]]
    across: int
    down: int


def people_table(sheets: Sheets, measures: pd.DataFrame, rendered: bool) -> People:
    """All people who are scored.

    Args:
        measures: rows of data/comparison/scores.csv.
        rendered: whether the people are invented ones, whose attributes are known.
    """
    columns = {f"{space} inversion": f"{LABELS[space]} inversion" for space in SPACES}
    columns |= {rung: title for rung, title in BESIDE.items() if rung in sheets.pictures_of}
    prompted = all(f"{rung} requested" in sheets.pictures_of for rung in columns)
    across = min(ACROSS, *(sheets.pictures_of[rung].shape[1] for rung in columns))
    down = 2 if prompted else 1
    tables = {name: table for name in SHOWN if not (table := of_measure(measures, name)).empty}
    orders = _orders(tables, columns)
    rows = []
    for person in sheets.scores.index:
        place = sheets.held_out.names.index(person)
        scores = {name: table.loc[person] for name, table in tables.items() if person in table.index}
        photos = sheets.held_out.images[place].numpy()
        others = photos[-sheets.score_photos :][: across * down - 1]
        rows.append(
            Row(
                person,
                tiles(np.concatenate([photos[:1], others]), SIDE, across),
                {
                    rung: Cell(
                        tiles(_drawn(sheets.pictures_of, rung, place, across, prompted), SIDE, across),
                        {SHOWN[name]: f"{values[rung]:.2f}" for name, values in scores.items() if rung in values},
                    )
                    for rung in columns
                },
                {key: _number(scores, key) for key in orders},
                person_attributes(sheets.held_out.manifest, person) if rendered else {},
            )
        )
    first = next(iter(orders))
    rows.sort(key=lambda row: (-np.inf if (number := row.numbers[first]) is None else number, row.person), reverse=True)
    choices: dict[str, list[str]] = {}
    for row in rows:
        for name, value in row.attributes.items():
            choices.setdefault(name, []).append(value)
    return People(rows, columns, orders, {name: sorted(set(values)) for name, values in choices.items()}, across, down)


def person_attributes(manifest: pd.DataFrame, person: str) -> dict[str, str]:
    """What a rendered person looks like, in the words of prompts: "sex", "age", "hair" and so on.

    Args:
        manifest: of portraits; a row per photo.
    """
    row = manifest[manifest["person"] == person].iloc[0].to_dict()
    identity, nuisance = identity_from_row(row), sample_nuisance(0)
    return {name: factor.label(identity, nuisance) for name, factor in (PERSON_FACTORS | UNNAMED_FACTORS).items()}


def _orders(tables: Mapping[str, pd.DataFrame], columns: Mapping[str, str]) -> dict[str, str]:
    words = {"id_obeyed": "ID where prompts are obeyed", "id_score": "ID score"}
    measured = [name for name in words if name in tables]
    gains = {f"{name} gain": f"gain of the VAE over {LABELS[BASELINE]}: {words[name]}" for name in measured}
    return gains | {
        f"{name} {rung}": f"{words[name]}: {title}"
        for name in measured
        for rung, title in columns.items()
        if rung in tables[name]
    }


def _number(scores: Mapping[str, pd.Series], key: str) -> float | None:
    name, _, rung = key.partition(" ")
    if name not in scores:
        return None
    values = scores[name]
    number = values["vae inversion"] - values[f"{BASELINE} inversion"] if rung == "gain" else values[rung]
    return round(float(number), 4)


def _drawn(pictures_of: Mapping[str, np.ndarray], rung: str, place: int, across: int, prompted: bool) -> np.ndarray:
    """Pictures of the plain prompt, then one each of as many others: uint8 [across or twice that, h, w, 3]."""
    plain = pictures_of[rung][place, :across]
    return np.concatenate([plain, pictures_of[f"{rung} requested"][place, :across, 0]]) if prompted else plain
