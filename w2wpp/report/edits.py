"""Figures of edits: sheets of edited people, and what edits keep by how many pictures they flip."""

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w2wpp.evaluation.editing import at_flip_rate, by_person, prompted, reached
from w2wpp.files.storage import read_pack
from w2wpp.report.picture_sheets import Column, picture_sheet
from w2wpp.report.style import COLORS, GREY, INK, LABELS, new_figure, tidy
from w2wpp.report.words import as_label, as_text

RATES = np.linspace(0.1, 0.9, 9)
KEPT = {"id_kept": "identity kept\n(cosine to the unedited)", "others_changed": "change of other attributes"}


def edit_sheet(folder: Path, space: str) -> Figure | None:
    """A row per label, a column per person, edited to several strengths; None where a zoo has no labels."""
    file = folder / space / "sheets.safetensors"
    if not file.is_file():
        return None
    tensors, meta = read_pack(file)
    steps = ", ".join(map(_signed, meta["strengths"]))
    columns = [
        Column(f"{name}: {steps}", pictures, color=COLORS[space])
        for name, pictures in zip(meta["people"], tensors["strengths"].numpy(), strict=True)
    ]
    return picture_sheet(columns, meta["labels"])


def together_sheet(folder: Path, spaces: tuple[str, ...]) -> Figure | None:
    """Two edits together, a block of three rows per space: the first label downwards, the second to the right."""
    packs = {space: folder / space / "sheets.safetensors" for space in spaces}
    if not all(file.is_file() for file in packs.values()):
        return None
    read = {space: read_pack(file) for space, file in packs.items()}
    meta = next(iter(read.values()))[1]
    if not meta["pairs"]:
        return None
    blocks = [tensors["together"].numpy() for tensors, _ in read.values()]  # [pairs, 3, 3, h, w, 3] of each space
    columns = [
        Column(f"{first} down, {second} across", np.concatenate([block[pair] for block in blocks]))
        for pair, (first, second) in enumerate(meta["pairs"])
    ]
    titles = [f"{LABELS[space]}\n{_signed(step)}" for space in read for step in meta["three"]]
    return picture_sheet(columns, titles, [COLORS[space] for space in read for _ in meta["three"]])


def _signed(strength: float) -> str:
    return f"{strength:+g}" if strength else "0"


@as_text
def editing_curves(spaces: dict[str, pd.DataFrame]) -> Figure:
    """What edits of inversions keep, mean over people and edits, by the share of pictures that show the target.

    A line per space over flip rates that all spaces reach, of the edits that reach most of them; a cross is what
    prompts for the same edits do, drawn with guidance.

    Args:
        spaces: measured edits by space.
    """
    figure = new_figure(8.6, 3.4)
    panels = figure.subplots(1, len(KEPT))
    most = pd.DataFrame([reached(table) for table in spaces.values()]).min()
    edits = most.index[most >= most.median()]
    rates = RATES[most[edits].min() >= RATES - 1e-9]
    for space, table in spaces.items():
        curve = pd.DataFrame([by_person(at_flip_rate(table, dict.fromkeys(edits, rate))).mean() for rate in rates])
        asked = by_person(prompted(table[table["edit"].isin(edits)])).mean()
        for axes, (measure, label) in zip(panels, KEPT.items(), strict=True):
            style = "-" if space == "vae" else "--"
            if len(curve):
                axes.plot(rates, curve[measure], style, color=COLORS[space], linewidth=1.8, label=LABELS[space])
            axes.plot([asked["flipped"]], [asked[measure]], "x", color=COLORS[space], markersize=7)
            axes.set_ylabel(label, size=8)
    for axes in panels:
        axes.plot([], [], "x", color=GREY, label="prompted")
        axes.set_xlabel(as_label("share of pictures that show the target"), size=8, color=INK)
        tidy(axes)
    panels[0].legend(frameon=False, fontsize=8)
    return figure
