"""The report's figures of people: the arrangement of pictures and the text below them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w2wpp.faces.portraits import Portraits
from w2wpp.faces.styles import STYLES
from w2wpp.files.storage import read_pack
from w2wpp.lora.weights import Weights
from w2wpp.report.latent_planes import latent_plane, latent_space
from w2wpp.report.page import latent_effects, people_factors, score_text, side_by_side, spread
from w2wpp.report.picture_sheets import Column, contact_sheet, picture_sheet
from w2wpp.report.style import COLORS, INK, LABELS
from w2wpp.spaces.registry import BASELINE, METHODS, load_space

SPACES = tuple(METHODS)
BESIDE = {"true": "true LoRA, several photos", "one-photo": "DreamBooth, one photo"}  # inversions, on sheets
PEOPLE, SHOWN, PAIRS, SAMPLES, CLASS_SAMPLES, TRUE_LORAS, OUTSIDE = 56, 10, 6, 12, 32, 16, 6


@dataclass(frozen=True)
class Sheets:
    """Data of sheets of held-out people.

    Attributes:
        held_out: the people and their photos.
        score_photos: how many of the last photos of each are those that scores are against.
        pictures_of: uint8 pictures [n, seeds, h, w, 3] of the people by rung of the ladder, and what has no person.
        scores: plain ID scores by person (rows) and rung.
        floor: ID score of a stranger.
    """

    held_out: Portraits
    score_photos: int
    pictures_of: dict[str, np.ndarray]
    scores: pd.DataFrame
    floor: float

    def drawn(self, title: str, people: list[str], rung: str, count: int) -> Column:
        """The first `count` pictures of people by a rung, their scores below."""
        notes = [score_text(self.scores[rung].get(person, np.nan), self.floor) for person in people]
        return Column(
            title, self.pictures_of[rung][self._rows(people), :count], notes, COLORS.get(rung.split()[0], INK)
        )

    def photo(self, people: list[str]) -> Column:
        """The photo that is inverted."""
        return Column("the one photo", self.held_out.images.numpy()[self._rows(people), :1])

    def others(self, people: list[str], title: str = "other real photos") -> Column:
        """Two of the photos that serve for scoring."""
        return Column(title, self.held_out.images.numpy()[self._rows(people), -self.score_photos :][:, :2])

    def _rows(self, people: list[str]) -> list[int]:
        return [self.held_out.names.index(person) for person in people]


def world_figures(sheets: Sheets) -> dict[str, Figure]:
    """Photos of held-out people, and what the base model draws of anybody."""
    return {
        "people": contact_sheet(sheets.held_out.images.numpy()[:PEOPLE, 0], across=8),
        "base": contact_sheet(sheets.pictures_of["class"][:CLASS_SAMPLES], across=8),
    }


def true_lora_figures(sheets: Sheets) -> dict[str, Figure]:
    """Held-out people's LoRAs of several photos beside other photos, as they are and through the spaces."""
    halves = side_by_side(spread(sheets.scores["true"], TRUE_LORAS), single=6)
    people = spread(sheets.scores["true"], 8)
    return {
        "true_loras": picture_sheet(
            [
                each
                for half in halves
                for each in (sheets.others(half, "real photos"), sheets.drawn("true LoRA", half, "true", 4))
            ]
        ),
        "reconstruction": picture_sheet(
            [
                sheets.others(people, "real photos"),
                sheets.drawn("true LoRA", people, "true", 2),
                *(sheets.drawn(f"through {LABELS[space]}", people, f"{space} reconstruction", 2) for space in SPACES),
            ],
            people,
        ),
    }


def sampling_figure(folder: Path, space: str) -> Figure:
    """People sampled from a space, a column per prompt."""
    tensors, meta = read_pack(folder / space / "pictures.safetensors")
    drawn = tensors["pictures"][:SAMPLES, :, :1].numpy()  # [people, prompts, 1, h, w, 3]
    prompts = [prompt.replace("a photo of ", "") for prompt in meta["prompts"]]
    columns = [
        [Column(prompt, half[:, number], color=COLORS[space]) for number, prompt in enumerate(prompts)]
        for half in side_by_side(drawn, single=6)
    ]
    gap = Column("", columns[0][0].pictures[:, :0])
    return picture_sheet([*columns[0], *([gap, *columns[1]] if columns[1:] else [])])


def inversion_figures(sheets: Sheets) -> dict[str, Figure]:
    """Held-out people recovered from one photo: by all models, sorted by the VAE's gain, and by each space."""
    gain = sheets.scores["vae inversion"] - sheets.scores["pca inversion"]
    people = spread(gain, SHOWN)
    figures = {
        "inversion": picture_sheet(
            [
                sheets.photo(people),
                *(sheets.drawn(f"{LABELS[space]} inversion", people, f"{space} inversion", 2) for space in SPACES),
                *(sheets.drawn(title, people, rung, 2) for rung, title in BESIDE.items() if rung in sheets.pictures_of),
                sheets.others(people),
            ],
            [f"{person}\ngain {gain[person]:+.2f}" for person in people],
        )
    }
    for space in SPACES:
        people = spread(sheets.scores[f"{space} inversion"], 8)
        figures[f"inversion_{space}"] = picture_sheet(
            [
                sheets.photo(people),
                sheets.drawn(f"{LABELS[space]} inversion", people, f"{space} inversion", 4),
                sheets.others(people),
            ],
            people,
        )
    return figures


def outside_figures(folder: Path, sheets: Sheets) -> dict[str, Figure]:
    """Of every style, what is inverted, what each rung draws then, and a real photo; a figure per style."""
    people = spread(sheets.scores["vae inversion"], OUTSIDE)
    rows = [sheets.held_out.names.index(person) for person in people]
    packs = {name: read_pack(folder / name / "pictures.safetensors")[0] for name in ("references", *SPACES)}

    def column(title: str, pack: str, key: str, color: str = INK) -> Column:
        return Column(title, packs[pack][key][rows].numpy(), color=color)

    def figure(style: str) -> Figure:
        given = Column("what is inverted", packs["references"][style][rows][:, None].numpy())
        rungs = [
            column("guess of the photo encoder (VAE)", "vae", f"{style} encoder", COLORS["vae"]),
            *(column(f"{LABELS[each]} inversion", each, f"{style} inversion", COLORS[each]) for each in SPACES),
            column("DreamBooth, stopped in time", "references", f"{style} dreambooth"),
        ]
        return picture_sheet([given, *rungs, sheets.others(people)], people)

    return {f"outside_{style}": figure(style) for style in STYLES}


def interpolation_figure(folder: Path, zoo: Portraits | None) -> Figure:
    """Strips of all spaces under one another, between real photos of the two zoo people, if there are any."""
    strips, row_titles, row_colors, ends = [], [], [], []
    packs = {space: read_pack(folder / space / "pictures.safetensors") for space in SPACES}
    for pair, names in enumerate(packs[BASELINE][1]["people"][:PAIRS]):
        for space, (tensors, _) in packs.items():
            strips.append(tensors["pictures"][pair].numpy())
            ends += [[zoo.images[zoo.names.index(name), 0].numpy() for name in names]] if zoo else []
            row_titles.append(space.upper())
            row_colors.append(COLORS[space])
    columns = [Column("blend of the two LoRAs", np.array(strips))]
    if zoo:
        first, last = np.split(np.array(ends), 2, axis=1)
        columns = [Column("real photo", first), *columns, Column("real photo", last)]
    return picture_sheet(columns, row_titles, row_colors)


def latent_figure(folder: Path, data: Weights, zoo: Portraits, held_out: Portraits) -> Figure:
    """Zoo people, and the true LoRAs of the held-out people who are scored, in all spaces."""
    spaces = {space: load_space(folder / space / "space.safetensors") for space in SPACES}
    facts = pd.concat([zoo.manifest, held_out.manifest]).drop_duplicates("person").set_index("person")
    split = held_out.splits[0]
    names = data.names("zoo") + data.names("true", split)
    loras = data.of("zoo"), data.of("true", split)
    planes = {
        name: latent_plane(
            np.concatenate([space.encode(each).numpy() for each in loras]), latent_effects(space, data.std)
        )
        for name, space in spaces.items()
    }
    return latent_space(
        planes, np.array([name not in set(data.names("zoo")) for name in names]), people_factors(facts.loc[names])
    )
