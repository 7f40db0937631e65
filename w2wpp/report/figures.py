"""Figures of the report: arrays and frames in, matplotlib figures out; nothing here reads or writes a file."""

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter
from PIL import Image, ImageColor

from w2wpp.report.words import as_label, as_text, drawn_words
from w2wpp.spaces.registry import METHODS
from w2wpp.world.people import HAIR_COLORS

# Okabe and Ito's colours, told apart with every common colour blindness.
COLORS = {name: method.color for name, method in METHODS.items()}
GREY, INK = "#6f6f6f", "#222222"
CATEGORIES = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#000000", "#F0E442", "#999999")
LABELS = {name: method.label for name, method in METHODS.items()}
SWEEPS = {"dimensions": "latent_dim", "people": "people", "rungs": "variant"}  # what each of them varies
RUNGS = {
    "mean": "mean LoRA of the zoo",
    "nearest": "LoRA of the most similar zoo person",
    "one-photo": "DreamBooth from one photo",
    "true": "true LoRA (several photos)",
    **{f"{name} inversion": f"{method.title}, inverted from one photo" for name, method in METHODS.items()},
    **{f"{name} reconstruction": f"true LoRA through {method.title}" for name, method in METHODS.items()},
}
DPI = 110
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
    axes.set_position([0, 0, 1, 1])
    axes.axis("off")
    start = left
    for column, title, span in zip(columns, titles, widths, strict=True):
        middle = start + span / 2
        text = {"ha": "center", "va": "top", "color": column.color}
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


def _small(picture: np.ndarray) -> np.ndarray:
    """A picture [h, w, 3] with at most `LARGEST` pixels each way."""
    image = Image.fromarray(picture)
    image.thumbnail((LARGEST, LARGEST), Image.Resampling.LANCZOS)
    return np.asarray(image)


@as_text
def contact_sheet(pictures: np.ndarray, across: int) -> Figure:
    """Pictures uint8 [n, h, w, 3] in rows of `across`; the last row is filled up with white."""
    across = min(across, len(pictures))
    missing = -len(pictures) % across
    filled = np.concatenate([pictures, np.full_like(pictures[:1], 255).repeat(missing, 0)])
    return picture_sheet([Column("", filled.reshape(-1, across, *pictures.shape[1:]))])


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
    figure = _figure(2.35 * len(factors) + 0.6, 2.3 * len(planes) + 1.5)
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
            _tidy(axes)
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


@as_text
def kl_curves(history: pd.DataFrame) -> Figure:
    """How the VAE trained: reconstruction error, KL, its weight and collapsed units by epoch, the kept epoch dashed.

    Args:
        history: a row per epoch: epoch, train_error, validation_error, train_kl, validation_kl, kl_weight,
            collapsed_units, kept (1 in one row).
    """
    figure = _figure(8.6, 5.0)
    grid = figure.subplots(2, 2, sharex=True).flat
    kept = history.loc[history["kept"] == 1, "epoch"]
    panels = {
        "reconstruction error\n(share of the zoo's variance)": ("train_error", "validation_error"),
        "KL to the prior (nats)": ("train_kl", "validation_kl"),
        "weight of the KL term": ("kl_weight",),
        "collapsed latent units\n(validation people)": ("collapsed_units",),
    }
    for axes, (label, columns) in zip(grid, panels.items(), strict=True):
        for column in columns:
            dashed = column.startswith("train")
            axes.plot(
                history["epoch"],
                history[column],
                color=GREY if dashed else COLORS["vae"],
                linestyle="--" if dashed else "-",
                linewidth=1.5,
                marker="o" if len(history) == 1 else "",
                label="zoo (trained on)" if dashed else "validation people",
            )
        for epoch in kept:
            axes.axvline(epoch, color=INK, linewidth=1, linestyle=":", label="epoch kept")
        if len(columns) > 1:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.legend(frameon=False, fontsize=7)
        else:
            axes.set_ylim(bottom=0)
        axes.set_ylabel(label, size=8)
        _tidy(axes)
    for axes in figure.axes[2:]:
        axes.set_xlabel("epoch", size=8)
    return figure


@as_text
def explained_variance(shares: np.ndarray, latent_dim: int, kept: float) -> Figure:
    """Cumulative share of the zoo's variance by number of principal components, and what a space has of it.

    Args:
        shares: [components] of the variance, falling, summing to about 1.
        latent_dim: of the space.
        kept: the share of the variance that it has.
    """
    figure = _figure(6.4, 3.4)
    axes = figure.subplots()
    total = 100 * np.cumsum(shares)
    axes.plot(np.arange(len(total) + 1), np.concatenate([[0.0], total]), color=COLORS["pca"], linewidth=1.8)
    kept *= 100
    axes.plot([latent_dim, latent_dim, 0], [0, kept, kept], color=GREY, linewidth=1, linestyle=":")
    axes.annotate(
        f"the space, {latent_dim} dimensions: {kept:.0f} %",
        (latent_dim, kept),
        (6, -12),
        textcoords="offset points",
        size=8,
        color=INK,
    )
    axes.set(xlim=(0, len(total)), ylim=(0, 103))
    axes.set_xlabel("principal components", size=8)
    axes.set_ylabel("variance of the zoo's LoRAs (%)", size=8)
    _tidy(axes)
    return figure


@as_text
def inversion_loss(losses: dict[str, np.ndarray]) -> Figure:
    """Denoising loss of the photo during inversion: mean over people, and the band of the middle 80 % of them.

    Args:
        losses: [people, steps] by space; smoothed here over a twentieth of the steps.
    """
    figure = _figure(6.4, 3.4)
    axes = figure.subplots()
    for space, curves in losses.items():
        window = max(1, curves.shape[1] // 20)
        smooth = np.lib.stride_tricks.sliding_window_view(curves, window, axis=1).mean(-1)
        steps = np.arange(smooth.shape[1]) + window
        low, high = np.quantile(smooth, [0.1, 0.9], axis=0)
        axes.fill_between(steps, low, high, color=COLORS[space], alpha=0.15, linewidth=0)
        axes.plot(
            steps,
            smooth.mean(0),
            color=COLORS[space],
            linewidth=1.6,
            label=LABELS[space],
            linestyle="-" if space == "vae" else "--",
        )
    axes.set_xlabel(f"step of the search (running mean of {window})", size=8)
    axes.set_ylabel("denoising loss of the photo", size=8)
    axes.legend(frameon=False, fontsize=8)
    _tidy(axes)
    return figure


@as_text
def ladder(rungs: pd.DataFrame, floor: float, ceiling: float) -> Figure:
    """Identity scores of all kinds of models as dots with intervals, between floor and ceiling, the best on top.

    Args:
        rungs: columns rung, id_score, low, high.
        floor: score of a stranger. ceiling: of the person's own photos.
    """
    rungs = rungs.sort_values("id_score", kind="stable").reset_index(drop=True)
    figure = _figure(7.6, 0.9 + 0.36 * len(rungs))
    axes = figure.subplots()
    for y, (_, row) in enumerate(rungs.iterrows()):
        color = COLORS.get(row["rung"].partition(" ")[0], GREY)
        axes.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([row["id_score"]], [y], "o", color=color, markersize=7)
        axes.annotate(
            f"{row['id_score']:.2f}",
            (row["id_score"], y),
            (0, 6),
            textcoords="offset points",
            ha="center",
            size=7,
            color=color,
        )
    for x, text, side in ((floor, "a stranger", "left"), (ceiling, "the person's own photos", "right")):
        axes.axvline(x, color=INK, linewidth=1, linestyle=":")
        axes.text(x, len(rungs) - 0.35, text, ha=side, va="bottom", size=8, color=INK)
    axes.set_yticks(range(len(rungs)), [RUNGS.get(rung, as_label(rung)) for rung in rungs["rung"]], fontsize=8)
    axes.set_ylim(-0.6, len(rungs) - 0.4)
    axes.set_xlabel("ID score: centred cosine with the person's other photos (95 % interval)", size=8)
    axes.margins(x=0.08)
    _tidy(axes)
    return figure


@as_text
def gains(lines: pd.DataFrame, by: str) -> Figure:
    """Gains in ID score over PCA, with intervals, one panel per recogniser.

    Args:
        lines: columns recognizer, variant, seed, gain, gain_low, gain_high and `by`; without gains of PCA over itself.
        by: "latent_dim" or "people", along a logarithmic axis, or "variant", one below the other.
    """
    first = {"by": "gain", "ascending": False} if by == "variant" else {"by": "variant"}
    lines = lines[lines["variant"] != "PCA"].sort_values(**first, kind="stable")
    recognizers, variants = sorted(lines["recognizer"].unique(), reverse=True), list(dict.fromkeys(lines["variant"]))
    figure = _figure(8.4, 0.9 + 0.3 * len(variants) if by == "variant" else 3.2)
    axes = figure.subplots(1, len(recognizers), sharex=True, sharey=True, squeeze=False)[0]
    for panel, recognizer in zip(axes, recognizers, strict=True):
        seen = lines[lines["recognizer"] == recognizer]
        for number, variant in enumerate(variants):
            shown = seen[seen["variant"] == variant]
            error = np.stack([shown["gain"] - shown["gain_low"], shown["gain_high"] - shown["gain"]])
            color = COLORS["vae"] if variant == "VAE" else GREY
            marker = "o" if by == "variant" else "os^Dv"[number % 5]
            style = {"fmt": marker, "color": color, "markersize": 5, "label": as_label(variant)}
            if by == "variant":
                panel.errorbar(shown["gain"], np.full(len(shown), -number), xerr=error, **style)
            else:
                places = shown[by] * (1 + 0.05 * (shown["seed"] + 3 * number))  # side by side
                panel.errorbar(places, shown["gain"], yerr=error, **style)
        panel.set_title(as_label(f"scored by {recognizer}"), size=9)
        if by == "variant":
            panel.axvline(0, color=INK, linewidth=0.8)
            panel.set_yticks(-np.arange(len(variants)), map(as_label, variants), fontsize=8)
            panel.set_xlabel("gain in ID score over PCA (95 % interval)", size=8)
            panel.locator_params(axis="x", nbins=5)
        else:
            panel.axhline(0, color=INK, linewidth=0.8)
            panel.set_xscale("log", base=2)
            panel.set_xticks(sorted(lines[by].unique()), sorted(lines[by].unique()))
            panel.minorticks_off()
            panel.set_xlabel("latent dimension" if by == "latent_dim" else "people in the zoo", size=8)
        _tidy(panel)
    if by != "variant":
        axes[0].set_ylabel("gain in ID score over PCA\n(95 % interval)", size=8)
        if len(variants) > 1:
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(low, high + 0.15 * (high - low))  # room for the legend, which else hides intervals
            axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=len(variants))
    return figure


@as_text
def png_bytes(figure: Figure, palette: int | None = None) -> bytes:
    """The figure as PNG; equal figures give equal bytes.

    Args:
        figure: any matplotlib figure.
        palette: number of colours to reduce it to, which makes sheets of pictures three times smaller.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font has not are drawn as the sign of their script.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    if palette is None:
        return file.getvalue()
    image = Image.open(file).convert("RGB")
    # A quarter of the pixels finds the colours in a quarter of the time. Those of words are kept apart, as few pixels
    # have them and averaging would give two spaces one colour.
    kept = [INK, *COLORS.values()]
    sample = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    found = sample.quantize(palette - len(kept), kmeans=3)
    words = [channel for name in kept for channel in ImageColor.getrgb(name)]
    found.putpalette((found.getpalette() or [])[: 3 * (palette - len(kept))] + words)
    image = image.quantize(palette=found, dither=Image.Dither.NONE)
    colors, paper = image.getpalette() or [], int(np.asarray(image)[0, 0])
    colors[3 * paper : 3 * paper + 3] = [255, 255, 255]  # averaging may have left it a little grey
    image.putpalette(colors)
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    return small.getvalue()


def _figure(width: float, height: float) -> Figure:
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def _canvas(width: float, height: float):
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    return figure, figure.add_axes((0, 0, 1, 1))


def _tidy(axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8, colors=INK)
