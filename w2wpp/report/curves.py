"""Curves of training, of variance and of the search: frames and arrays in, matplotlib figures out."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from w2wpp.report.style import COLORS, GREY, INK, LABELS, new_figure, tidy
from w2wpp.report.words import as_text


@as_text
def kl_curves(history: pd.DataFrame) -> Figure:
    """How the VAE trained: reconstruction error, KL, its weight and collapsed units by epoch, the kept epoch dashed.

    Args:
        history: a row per epoch: epoch, train_error, validation_error, train_kl, validation_kl, kl_weight,
            collapsed_units, kept (1 in one row).
    """
    figure = new_figure(8.6, 5.0)
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
        tidy(axes)
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
    figure = new_figure(6.4, 3.4)
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
    tidy(axes)
    return figure


@as_text
def inversion_loss(losses: dict[str, np.ndarray]) -> Figure:
    """Denoising loss of the photo during inversion: mean over people, and the band of the middle 80 % of them.

    Args:
        losses: [people, steps] by space; smoothed here over a twentieth of the steps.
    """
    figure = new_figure(6.4, 3.4)
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
    tidy(axes)
    return figure
