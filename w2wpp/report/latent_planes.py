"""Latents of people in a plane, coloured by what tells the people apart: arrays in, a matplotlib figure out."""

from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure

from w2wpp.report.style import COLORS, INK, LABELS, new_figure, tidy
from w2wpp.report.thumbnails import tiles
from w2wpp.report.words import as_label, as_text
from w2wpp.world.people import HAIR_COLORS

CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442", "#999999")
SIDE, ACROSS, GRID = 36, 50, 1000  # pixels of a face, faces in a row, steps of coordinates


@dataclass(frozen=True)
class LatentMap:
    """People in the latent planes of all spaces.

    Attributes:
        people: their names.
        held_out: bool [n], of those whom the spaces never saw.
        planes: [n, 2] by space.
        factors: values [n] by factor name, either numbers in [0, 1] or strings.
        photos: uint8 [n, h, w, 3], one of each.
    """

    people: list[str]
    held_out: np.ndarray
    planes: dict[str, np.ndarray]
    factors: dict[str, np.ndarray]
    photos: np.ndarray


def walkable(found: LatentMap) -> dict:
    """A map as data for the page's script: coordinates up to `GRID`, colours by factor, and all faces in one JPEG."""

    def scaled(plane: np.ndarray) -> list[list[int]]:
        low, span = plane.min(0), np.maximum(np.ptp(plane, axis=0), 1e-12)
        return (GRID * (plane - low) / span).round().astype(int).tolist()

    return {
        "grid": GRID,
        "people": found.people,
        "held_out": np.flatnonzero(found.held_out).tolist(),
        "spaces": [
            {"name": name, "label": LABELS[name], "points": scaled(plane)} for name, plane in found.planes.items()
        ],
        "factors": {name: _coded(name, values) for name, values in found.factors.items()},
        "faces": {"side": SIDE, "across": ACROSS, "picture": tiles(found.photos, SIDE, ACROSS)},
    }


def _coded(factor: str, values: np.ndarray) -> dict:
    """Names with colours and a number per person; of a numeric factor, nine colours of its scale and its ends."""
    if values.dtype.kind in "OUS":
        names = _ordered(values)
        colors = [to_hex(color) for color in _category_colors(names)]
        return {"names": names, "colors": colors, "values": [names.index(value) for value in values]}
    scale = [to_hex(colormaps["cividis"](share)) for share in np.linspace(0, 1, 9)]
    return {"ends": factor_ends(factor), "colors": scale, "values": np.round(values, 2).tolist()}


def latent_plane(latents: np.ndarray, effects: np.ndarray) -> np.ndarray:
    """Latents in the plane of the two latent directions that change the weights most.

    The latents of a space with prior N(0, I) vary about as much in every direction, so that the directions of greatest
    variance among them would be arbitrary; their effect on the weights tells them apart.

    Args:
        latents: [n, k].
        effects: [k, d], the change of the (z-scored) weights per unit of each latent.

    Returns:
        float64 [n, 2]; the second column is 0 if k is 1. Signs are fixed so that equal inputs give equal planes.
    """
    gram = effects.astype(np.float64) @ effects.T.astype(np.float64)
    directions = np.linalg.eigh(gram)[1][:, ::-1][:, :2]
    directions = directions * np.where(directions[np.abs(directions).argmax(0), range(directions.shape[1])] < 0, -1, 1)
    plane = latents.astype(np.float64) @ directions
    return np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))


@as_text
def latent_space(planes: dict[str, np.ndarray], held_out: np.ndarray, factors: dict[str, np.ndarray]) -> Figure:
    """Small multiples: a row per space, a column per factor, a point per person, held-out people as triangles.

    Args:
        planes: [n, 2] by space.
        held_out: bool [n], of people the spaces never saw.
        factors: values [n] by factor name, either numbers in [0, 1] or strings.
    """
    figure = new_figure(2.35 * len(factors) + 0.6, 2.3 * len(planes) + 1.5)
    grid = figure.subplots(len(planes), len(factors), squeeze=False)
    for row, (space, plane) in enumerate(planes.items()):
        for column, (factor, values) in enumerate(factors.items()):
            axes, last = grid[row, column], row == len(planes) - 1
            names = _ordered(values) if values.dtype.kind in "OUS" else None
            numbers = np.array(values if names is None else [names.index(value) for value in values], float)
            tint = (
                {"cmap": "cividis", "vmin": 0, "vmax": 1}
                if names is None
                else {"cmap": ListedColormap(_category_colors(names)), "vmin": -0.5, "vmax": len(names) - 0.5}
            )
            for chosen, marker, size, edge in ((~held_out, "o", 9, "none"), (held_out, "^", 22, INK)):
                points = axes.scatter(
                    *plane[chosen].T,
                    c=numbers[chosen],
                    s=size,
                    marker=marker,
                    edgecolors=edge,
                    linewidths=0.5,
                    alpha=0.9,
                    **tint,
                )
            tidy(axes)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel("latent direction 1" if last else "", size=8)
            if column == 0:
                axes.set_ylabel(f"{LABELS[space]}\nlatent direction 2", color=COLORS[space], size=8)
            if row == 0:
                axes.set_title(as_label(factor), size=9, color=INK)
            if last:
                bar = figure.colorbar(points, ax=list(grid[:, column]), location="bottom", aspect=22)
                bar.ax.tick_params(labelsize=7, rotation=0 if names is None else 60)
                bar.set_ticks(
                    [0, 1] if names is None else range(len(names)),
                    labels=factor_ends(factor) if names is None else [as_label(name) for name in names],
                )
    return figure


def factor_ends(factor: str) -> list[str]:
    """What 0 and 1 of a numeric factor mean."""
    return {"sex": ["man", "woman"], "age": ["young", "old"], "skin": ["dark", "light"]}.get(factor, ["0", "1"])


def _ordered(values: np.ndarray) -> list[str]:
    present = set(values.tolist())
    return [name for name in HAIR_COLORS if name in present] + sorted(present - set(HAIR_COLORS))


def _category_colors(names: list[str]) -> list:
    if set(names) <= set(HAIR_COLORS):
        return [HAIR_COLORS[name] for name in names]
    return [CATEGORIES[index % len(CATEGORIES)] for index in range(len(names))]
