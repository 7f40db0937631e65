"""Pictures side by side, in rows with titles and notes: arrays in, a matplotlib figure out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from w2wpp.files.words import drawn_words
from w2wpp.report.style import DPI, INK
from w2wpp.report.words import as_label, as_text

TILE = 0.7  # inches
HEADING_LINES, ROW_WIDTH, ROW_LINES = 12, 24, 3  # of words beside pictures, in characters; what is longer is cut
LARGEST = 128  # pixels of a picture on a sheet, of which a tile shows fewer


@dataclass(frozen=True)
class Column:
    """Some pictures per row of a picture sheet, under one heading.

    Attributes:
        title: the heading, wrapped to fit, and cut if it is very long.
        pictures: uint8 [rows, m, h, w, 3].
        notes: one short text per row, below its pictures; none by default.
        color: of heading and notes.
    """

    title: str
    pictures: np.ndarray
    notes: Sequence[str] = ()
    color: str = INK


@as_text
def picture_sheet(columns: Sequence[Column], row_titles: Sequence[str] = (), row_colors: Sequence[str] = ()) -> Figure:
    """Pictures in rows, the columns side by side with gaps between them.

    Args:
        columns: at least one, all with the same number of rows.
        row_titles: one per row, left of it, wrapped and cut likewise; none by default.
        row_colors: one per row title; ink by default.

    Raises:
        ValueError: pictures are not uint8 [rows, m, h, w, 3], or the numbers of rows differ.
    """
    rows = len(columns[0].pictures)
    for pictures in (column.pictures for column in columns):
        if pictures.dtype != np.uint8 or pictures.ndim != 5 or len(pictures) != rows:
            raise ValueError(f"expected uint8 [{rows}, m, h, w, 3], got {pictures.dtype} {pictures.shape}")
    pitch = 1.06 + (0.22 if any(len(column.notes) for column in columns) else 0.0)
    row_titles = [
        "\n".join(drawn_words(line, ROW_WIDTH, ROW_LINES) for line in title.split("\n")[:2]) for title in row_titles
    ]
    left = 0.1 + 0.105 * max((len(line) for title in row_titles for line in title.split("\n")), default=0)
    widths = [column.pictures.shape[1] * 1.03 for column in columns]
    titles = [
        drawn_words(each.title, max(10, int(9.5 * span)), HEADING_LINES)
        for each, span in zip(columns, widths, strict=True)
    ]
    heading = 0.15 + 0.24 * max(len(title.splitlines()) for title in titles)
    width, height = left + sum(widths) + 0.18 * (len(columns) - 1) + 0.1, heading + rows * pitch
    figure, axes = _canvas(width * TILE, height * TILE)
    axes.set_position((0, 0, 1, 1))
    axes.axis("off")
    start = left
    for column, title, span in zip(columns, titles, widths, strict=True):
        middle = start + span / 2
        text: dict[str, Any] = {"ha": "center", "va": "top", "color": column.color}
        axes.text(middle, -heading + 0.1, title, size=8, weight="bold", **text)
        for row, pictures in enumerate(column.pictures):
            for place, picture in enumerate(pictures):
                x, y = start + place * 1.03, row * pitch
                axes.imshow(_small(picture), extent=(x, x + 1, y + 1, y), interpolation="bicubic")
            if len(column.notes):
                axes.text(middle, row * pitch + 1.03, as_label(column.notes[row]), size=7, **text)
        start += span + 0.18
    colors = row_colors or [INK] * len(row_titles)
    for row, (title, color) in enumerate(zip(row_titles, colors, strict=True)):
        axes.text(left - 0.08, row * pitch + 0.5, title, ha="right", va="center", size=7, color=color)
    axes.set(xlim=(0, width), ylim=(height - heading, -heading), aspect="auto")
    return figure


@as_text
def contact_sheet(pictures: np.ndarray, across: int) -> Figure:
    """Pictures uint8 [n, h, w, 3] in rows of `across`; the last row is filled up with white."""
    across = min(across, len(pictures))
    missing = -len(pictures) % across
    filled = np.concatenate([pictures, np.full_like(pictures[:1], 255).repeat(missing, 0)])
    return picture_sheet([Column("", filled.reshape(-1, across, *pictures.shape[1:]))])


def _small(picture: np.ndarray) -> np.ndarray:
    """A picture [h, w, 3] with at most `LARGEST` pixels each way."""
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


def _canvas(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))
