"""The report's figures on small made-up inputs, its verdict, and its choices."""

import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from jinja2 import UndefinedError
from matplotlib.figure import Figure
from PIL import Image

from w2wpp.faces.portraits import Portraits
from w2wpp.faces.styles import STYLES
from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_pack
from w2wpp.report import curves, latent_planes, picture_sheets, scores, sheets, style
from w2wpp.report import page as report

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


ABOVE, BELOW, ACROSS, NONE = (0.01, 0.05), (-0.05, -0.01), (-0.02, 0.04), (0.0, 0.0)


@pytest.mark.parametrize(
    ("first", "second", "verdict"),
    [
        (ABOVE, ABOVE, "VAE ahead"),
        (BELOW, BELOW, "PCA ahead"),
        (ABOVE, ACROSS, "VAE ahead according to one recogniser of two"),
        (ACROSS, ABOVE, "VAE ahead according to one recogniser of two"),
        (NONE, BELOW, "PCA ahead according to one recogniser of two"),
        (ACROSS, ACROSS, "No difference is sure"),
        (BELOW, ABOVE, "No difference is sure"),
        (NONE, NONE, "No difference is sure"),
    ],
)
def test_headline_follows_both_intervals(first, second, verdict):
    gain, other = ({"low": low, "mean": (low + high) / 2, "high": high} for low, high in (first, second))
    plain = {"gain": gain, "people": 64, "people_better_with_vae": 0.55, "second_opinion": {"gain": other}}
    obeyed = {"id_obeyed": {"gain": gain, "people_better_with_vae": 0.55}, "people": 64, "gain": {}}
    obeyed |= {"second_opinion": {"id_obeyed": {"gain": other}, "gain": {}}}
    for comparison, measure in ((plain, "(ID score; "), (obeyed, "(ID score where prompts")):
        said, sentence = report.headline(comparison, "test")
        assert said == verdict
        assert "{:+.3f} to {:+.3f}".format(*first) in sentence and "64 unseen test people" in sentence
        assert "({:+.3f} to {:+.3f})".format(*second) in sentence and "55 %" in sentence and measure in sentence


def test_headline_of_unequal_spaces_has_no_gain():
    said, sentence = report.headline({}, "test", "512 dimensions of vae against 64 of pca")
    assert said == "Not compared"
    assert "512 dimensions of vae against 64 of pca" in sentence and "+" not in sentence


def test_spread_reaches_from_the_worst_to_the_best():
    values = pd.Series({"a": 0.3, "b": -1.0, "c": np.nan, "d": 0.9, "e": 0.1})
    assert report.spread(values, 2) == ["b", "d"]
    assert report.spread(values, 9) == ["b", "e", "a", "d"]
    assert report.spread(values[["c"]], 3) == []


def test_scores_without_faces_are_said_in_words():
    assert [report.score_text(score, -0.05) for score in (0.414, -0.05, np.nan)] == ["0.41", "no face", "\N{EN DASH}"]


def test_what_is_missing_is_named():
    with pytest.raises(InputError, match=r"metrics/pca\.json: inversion\.copying: metric missing"):
        report.measure_rows({"pca": {"inversion": {}}})
    with pytest.raises(InputError, match="person_gender"):
        report.people_factors(pd.DataFrame({"person": ["a"]}))
    with pytest.raises(UndefinedError):
        report.render_html({})


def test_world_rows_show_what_was_measured():
    rows = report.world_rows({"world": {"face_found": 0.98765}, "zoo": {"people": 2000, "variance": {"within": 0.5}}})
    assert [row["value"] for row in rows] == ["0.988", "2,000", "0.500"]
    assert report.world_rows({}) == []


def test_world_rows_tell_how_fast_loras_train():
    throughput = json.loads((ROOT / "benchmarks/batched_training.json").read_text())
    rows = report.world_rows({"throughput": throughput})
    speeds = throughput["people_per_minute"]
    shown = [f"{speeds[how]:,.0f}" for how in ("one at a time", "8 together", "32 together", "64 together")]
    assert [row["value"] for row in rows] == [str(throughput["steps"]), str(throughput["threads"]), *shown]


def test_pictures_from_outside_stand_beside_what_every_rung_makes_of_them(tmp_path):
    names, drawn = ["a", "b", "c"], torch.from_numpy(pictures(3, 2))
    write_pack(
        tmp_path / "references/pictures.safetensors",
        {style: drawn[:, 0].clone() for style in STYLES} | {f"{style} dreambooth": drawn.clone() for style in STYLES},
    )
    for space in sheets.SPACES:
        rungs = ("encoder", "inversion")
        pack = {f"{style} {rung}": drawn.clone() for style in STYLES for rung in rungs}
        write_pack(tmp_path / space / "pictures.safetensors", pack)
    held_out = Portraits(torch.from_numpy(pictures(3, 6)), names, ["test"] * 3, pd.DataFrame())
    scores = pd.DataFrame({"vae inversion": [0.1, 0.3, 0.2]}, index=names)
    made = sheets.outside_figures(tmp_path, sheets.Sheets(held_out, 4, {}, scores, 0.0))
    assert made.keys() == {f"outside_{style}" for style in STYLES}
    axes = made["outside_print"].axes[0]
    assert len(axes.images) == 3 * (1 + 2 * 6)  # what is inverted; four inversions or guesses, DreamBooth, real photos
    assert {"a", "b", "c"} <= {text.get_text() for text in axes.texts}


def test_rows_of_pictures_from_outside_have_every_rung_of_every_style():
    measures = {"face_found": 1.0, "photo_share": 0.5, "copying": 0.25, "photo_frechet": 12.3}
    scored = [measures | {"id_score": x, "id_score_low": x - 0.1, "id_score_high": x + 0.1} for x in (0.1, 0.2, 0.3)]
    metrics = {name: {"outside": {"print": scored[0] | {"encoder": scored[1]}}} for name in sheets.SPACES}
    rows = report.outside_rows(metrics | {"outside": {"dreambooth": {"print": scored[2]}}})
    assert [row["values"][0] for row in rows] == [
        "0.200 (0.100 to 0.300)",
        *["0.100 (0.000 to 0.200)"] * len(sheets.SPACES),
        "0.300 (0.200 to 0.400)",
    ]
    assert rows[0]["values"][1:] == ["1.00", "0.50", "0.25", "12"]
    assert [row["first"] for row in rows] == [True] + [False] * (len(sheets.SPACES) + 1)
