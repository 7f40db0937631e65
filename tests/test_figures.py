"""The report's figures on small synthetic inputs, its verdict, and its choices of people."""

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from PIL import Image

from w2wpp.report import curves, latent_planes, picture_sheets, scores, style

ROOT = Path(__file__).resolve().parents[1]


def pictures(*lead: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*lead, 8, 8, 3), dtype=np.uint8)


def sheet() -> Figure:
    return picture_sheets.picture_sheet(
        [
            picture_sheets.Column("photo", pictures(3, 1)),
            picture_sheets.Column("VAE inversion", pictures(3, 2), ["0.41", "no face", "\N{EN DASH}"]),
        ],
        ["a", "b", "c"],
    )


def latent_figure() -> Figure:
    rng = np.random.default_rng(0)
    factors = {"age": rng.uniform(size=12), "hair colour": np.array(["red", "grey", "black"] * 4)}
    return latent_planes.latent_space(
        {"pca": rng.normal(size=(12, 2)), "vae": rng.normal(size=(12, 2))}, np.arange(12) > 8, factors
    )


def training_curves() -> Figure:
    epochs = np.arange(6)
    return curves.kl_curves(
        pd.DataFrame(
            {
                "epoch": epochs,
                "train_error": 1 / (epochs + 1),
                "validation_error": 1 / (epochs + 1.0) + 0.1,
                "train_kl": epochs + 3.0,
                "validation_kl": epochs + 4.0,
                "kl_weight": epochs / 6,
                "collapsed_units": epochs // 2,
                "kept": epochs == 4,
            }
        )
    )


def ladder() -> Figure:
    return scores.ladder(
        pd.DataFrame(
            {
                "rung": ["vae inversion", "mean", "pca inversion"],
                "mean": [0.3, 0.0, 0.2],
                "low": [0.25, -0.01, 0.1],
                "high": [0.35, 0.01, 0.3],
            }
        ),
        -0.05,
        0.65,
    )


def losses() -> Figure:
    rng = np.random.default_rng(0)
    return curves.inversion_loss({"pca": rng.uniform(size=(4, 40)), "vae": rng.uniform(size=(4, 40))})


ALL = [
    sheet,
    latent_figure,
    training_curves,
    ladder,
    losses,
    lambda: picture_sheets.contact_sheet(pictures(5), 2),
    lambda: curves.explained_variance(np.array([0.5, 0.3, 0.2]), 2, 0.7),
]


@pytest.mark.parametrize("draw", ALL)
def test_figures_draw_the_same_png_twice(draw):
    first, second = draw(), draw()
    assert isinstance(first, Figure)
    png = style.png_bytes(first, palette=256)
    assert png == style.png_bytes(second, palette=256)
    image = Image.open(io.BytesIO(png))
    assert not image.info
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_picture_sheets_show_every_picture_and_note():
    axes = sheet().axes[0]
    assert len(axes.images) == 9
    texts = {text.get_text() for text in axes.texts}
    assert texts >= {"photo", "VAE inversion", "no face", "\N{EN DASH}", "a", "b", "c"}


def test_picture_sheets_refuse_wrong_pictures():
    with pytest.raises(ValueError, match="uint8"):
        picture_sheets.picture_sheet([picture_sheets.Column("", pictures(2, 1).astype(float))])
    with pytest.raises(ValueError, match=r"\[2, m"):
        picture_sheets.picture_sheet(
            [picture_sheets.Column("", pictures(2, 1)), picture_sheets.Column("", pictures(3, 1))]
        )


def test_latent_space_has_a_panel_per_space_and_factor():
    figure = latent_figure()
    panels, bars = figure.axes[:4], figure.axes[4:]
    assert [axes.get_title() for axes in panels] == ["age", "hair colour", "", ""]
    assert [axes.get_ylabel().split("\n")[0] for axes in panels[::2]] == [style.LABELS["pca"], style.LABELS["vae"]]
    assert [label.get_text() for label in bars[1].get_xticklabels()] == ["black", "red", "grey"]


def test_axes_name_quantities_and_units():
    assert [axes.get_ylabel().split("\n")[0] for axes in training_curves().axes] == [
        "reconstruction error",
        "KL to the prior (nats)",
        "weight of the KL term",
        "collapsed latent units",
    ]
    assert "%" in curves.explained_variance(np.array([0.6, 0.4]), 1, 0.6).axes[0].get_ylabel()
    assert "step" in losses().axes[0].get_xlabel()


def test_ladder_puts_the_best_on_top():
    axes = ladder().axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        scores.RUNGS[rung] for rung in ("mean", "pca inversion", "vae inversion")
    ]
    assert "ID score" in axes.get_xlabel()


def test_trade_shows_rungs_that_have_both_measures():
    rows = [
        {"rung": rung, "measure": measure, "mean": mean, "low": mean - 0.1, "high": mean + 0.1}
        for rung, measure, mean in (
            ("true", "id_obeyed", 0.5),
            ("true", "copying", 0.1),
            ("vae inversion", "copying", 0.4),
            ("vae inversion", "id_obeyed", 0.3),
            ("mean", "copying", 0.2),
        )
    ]
    axes = scores.trade(pd.DataFrame(rows)).axes[0]
    assert [text.get_text() for text in axes.texts] == [scores.RUNGS["true"], scores.RUNGS["vae inversion"]]
    points = [line.get_xydata()[0].tolist() for line in axes.lines if len(line.get_xdata()) == 1]
    assert points == [[0.5, 0.1], [0.3, 0.4]]


def test_latent_plane_finds_the_strongest_directions():
    latents = np.random.default_rng(0).normal(size=(5, 3))
    plane = latent_planes.latent_plane(latents, np.diag([1.0, 5.0, 3.0]))
    assert np.allclose(plane, latents[:, [1, 2]])
    assert latent_planes.latent_plane(latents[:, :1], np.ones((1, 3))).shape == (5, 2)


@pytest.mark.parametrize("by", ["latent_dim", "people", "variant"])
def test_gains_are_drawn_where_they_are(by):
    lines = pd.DataFrame(
        [
            {
                "recognizer": recognizer,
                "variant": variant,
                "latent_dim": size,
                "people": 4 * size,
                "seed": 0,
                "gain": gain,
                "gain_low": gain - 0.01,
                "gain_high": gain + 0.02,
            }
            for recognizer in ("arcface", "dlib")
            for variant, gain in (("PCA", 0.0), ("VAE", 0.05))
            for size in (16, 64)
        ]
    )
    figure = scores.gains(lines, by)
    assert [axes.get_title() for axes in figure.axes] == ["scored by dlib", "scored by arcface"]
    for axes in figure.axes:
        [(points, _, (bars,))] = axes.containers  # of the VAE alone
        gain = points.get_xdata() if by == "variant" else points.get_ydata()
        place = points.get_ydata() if by == "variant" else points.get_xdata()
        assert np.allclose(gain, 0.05)
        assert np.allclose(np.sort(place), {"latent_dim": [16, 64], "people": [64, 256], "variant": [0, 0]}[by])
        ends = np.array(bars.get_segments())[..., 0 if by == "variant" else 1]
        assert np.allclose(np.sort(ends), [0.04, 0.07])
