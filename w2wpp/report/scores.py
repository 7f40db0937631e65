"""ID scores of all kinds of models, and gains over PCA, with their intervals: frames in, matplotlib figures out."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w2wpp.report.style import COLORS, GREY, INK, new_figure, tidy
from w2wpp.report.words import as_label, as_text
from w2wpp.spaces.registry import METHODS

SWEEPS = {
    "dimensions": "latent_dim",
    "people": "people",
    "rungs": "variant",
}  # what each of them varies
RUNGS = {
    "mean": "mean LoRA of the zoo",
    "nearest": "LoRA of the most similar zoo person",
    "one-photo": "DreamBooth from one photo",
    "true": "true LoRA (several photos)",
    "photo": "the photo itself, whatever the prompt",
    **{f"{name} inversion": f"{method.title}, inverted from one photo" for name, method in METHODS.items()},
    **{f"{name} refined": f"{method.title}, inverted and refined" for name, method in METHODS.items()},
    **{f"{name} reconstruction": f"true LoRA through {method.title}" for name, method in METHODS.items()},
}


@as_text
def ladder(rungs: pd.DataFrame, floor: float, ceiling: float) -> Figure:
    """Identity scores of all kinds of models as dots with intervals, between floor and ceiling, the best on top.

    Args:
        rungs: columns rung, mean, low, high, of the ID score.
        floor: score of a stranger. ceiling: of the person's own photos.
    """
    rungs = rungs.sort_values("mean", kind="stable").reset_index(drop=True)
    figure = new_figure(7.6, 0.9 + 0.36 * len(rungs))
    axes = figure.subplots()
    for y, (_, row) in enumerate(rungs.iterrows()):
        color = COLORS.get(row["rung"].partition(" ")[0], GREY)
        axes.plot([row["low"], row["high"]], [y, y], color=color, linewidth=2, solid_capstyle="round")
        axes.plot([row["mean"]], [y], "o", color=color, markersize=7)
        axes.annotate(
            f"{row['mean']:.2f}",
            (row["mean"], y),
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
    tidy(axes)
    return figure


@as_text
def trade(rungs: pd.DataFrame, across: str = "id_obeyed", up: str = "copying") -> Figure:
    """Kinds of models by two measures, each a dot with its intervals and its name.

    Args:
        rungs: columns rung, measure, mean, low, high; rungs that have both measures are shown.
    """
    tables = [rungs[rungs["measure"] == name].set_index("rung") for name in (across, up)]
    names = [name for name in tables[0].index if name in tables[1].index]
    figure = new_figure(7.6, 4.6)
    axes = figure.subplots()
    colors = {name: COLORS.get(name.partition(" ")[0], GREY) for name in names}
    for name, color in colors.items():
        x, y = (table.loc[name] for table in tables)
        axes.plot([x["low"], x["high"]], [y["mean"]] * 2, color=color, linewidth=1.5)
        axes.plot([x["mean"]] * 2, [y["low"], y["high"]], color=color, linewidth=1.5)
        axes.plot([x["mean"]], [y["mean"]], "o", color=color, markersize=6)
    axes.set_xlabel("ID score where prompts that contradict the photo are obeyed", size=8)
    axes.set_ylabel("copying of the photo (another photo: 0, the photo: 1)", size=8)
    axes.margins(x=0.2, y=0.12)
    tidy(axes)
    lowest = -np.inf
    for name in sorted(names, key=lambda name: tables[1].loc[name, "mean"]):
        dot = np.array([table.loc[name, "mean"] for table in tables])
        # Dots of one height are often neighbours: their names stand one above the other.
        height = axes.transData.transform(dot)[1] * 72 / figure.dpi
        lowest = max(height + 5, lowest + 11)
        label, shift = RUNGS.get(name, as_label(name)), (6, lowest - height)
        axes.annotate(label, (dot[0], dot[1]), shift, textcoords="offset points", size=8, color=colors[name])
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
    figure = new_figure(8.4, 0.9 + 0.3 * len(variants) if by == "variant" else 3.2)
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
        tidy(panel)
    if by != "variant":
        axes[0].set_ylabel("gain in ID score over PCA\n(95 % interval)", size=8)
        if len(variants) > 1:
            low, high = axes[0].get_ylim()
            axes[0].set_ylim(low, high + 0.15 * (high - low))  # room for the legend, which else hides intervals
            axes[0].legend(frameon=False, fontsize=8, loc="upper left", ncols=len(variants))
    return figure
