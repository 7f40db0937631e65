"""Prompts, people's names and settings are drawn as text in every figure and on the page, whatever they contain."""

import inspect
import io
import warnings
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from w2wpp.api.strip import strip, write_png
from w2wpp.faces.portraits import Portraits
from w2wpp.files.storage import read_json, write_pack
from w2wpp.files.words import drawn_words
from w2wpp.report import curves, latent_planes, picture_sheets, scores, sheets, style
from w2wpp.report.page import render_html
from w2wpp.run.params import Params
from w2wpp.spaces.registry import BASELINE, METHODS

ROOT = Path(__file__).resolve().parents[1]
WORDS = [
    "$$",
    "$x^2$",
    r"$\frac{1}{0}$",
    "5 $ or 6 $",
    r"a_b^c\n",
    "_",
    "{} %s {0}",
    "<b>&amp;",
    "\N{GRINNING FACE}",
    "\N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}",
    "שלום עולם",
    "مرحبا",
    "漢字 かな",
    "Jose\N{COMBINING ACUTE ACCENT}",
    "two\nlines\r\n\tand more",
    "\x00\x1b[31m",
    "\N{RIGHT-TO-LEFT OVERRIDE}right to left",
    "\ud800",
    "x" * 70_000,
    "word " * 20_000,
    " ",
]


def pictures(*lead: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*lead, 8, 8, 3), dtype=np.uint8)


def drawn(figure: Figure, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The texts of a figure, after checking that it draws without a warning, at a sane size, and without formulas."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = style.png_bytes(figure)
    assert not caplog.records
    assert max(Image.open(io.BytesIO(png)).size) < 8000
    texts = [text for text in figure.findobj(Text) if text.get_text()]
    assert not any(text.get_parse_math() for text in texts)
    return [text.get_text() for text in texts]


def sheet(rows: list[str], columns: list[str]) -> Figure:
    return picture_sheets.picture_sheet(
        [picture_sheets.Column(words, pictures(len(rows), 1), rows) for words in columns],
        [f"{words}\ngain +0.12" for words in rows],
    )


def scatter() -> Figure:
    rng, many = np.random.default_rng(0), len(WORDS)
    factors = {words: rng.uniform(size=many) for words in WORDS[::4]} | {"hair": np.array(WORDS, object)}
    return latent_planes.latent_space(
        {"pca": rng.normal(size=(many, 2)), "vae": rng.normal(size=(many, 2))}, np.arange(many) > 3, factors
    )


def ladder() -> Figure:
    return scores.ladder(pd.DataFrame({"rung": WORDS, "mean": 0.2, "low": 0.1, "high": 0.3}), -0.05, 0.65)


def trade() -> Figure:
    rungs = pd.DataFrame({"rung": WORDS, "mean": 0.2, "low": 0.1, "high": 0.3})
    return scores.trade(pd.concat([rungs.assign(measure=name) for name in ("id_obeyed", "copying")]))


def gains(by: str, variants: list[str], recognizer: str = "dlib") -> Figure:
    rows = [
        {
            "recognizer": recognizer,
            "variant": variant,
            "latent_dim": size,
            "people": size,
            "seed": 0,
            "gain": 0.02,
            "gain_low": 0.01,
            "gain_high": 0.04,
        }
        for variant in variants
        for size in (16, 64)
    ]
    return scores.gains(pd.DataFrame(rows), by)


def training_curves() -> Figure:
    two = [0.5, 0.6]
    return curves.kl_curves(
        pd.DataFrame(
            {
                "epoch": [0, 1],
                "kept": [0, 1],
                "train_error": two,
                "validation_error": two,
                "train_kl": two,
                "validation_kl": two,
                "kl_weight": two,
                "collapsed_units": two,
            }
        )
    )


EXAMPLES = {
    "picture_sheet": [lambda: sheet(WORDS, ["x"]), lambda: sheet(["x"], WORDS)],
    "latent_space": [scatter],
    "ladder": [ladder],
    "trade": [trade],
    "kl_curves": [training_curves],
    "gains": [lambda: gains("variant", WORDS)],
    "contact_sheet": [lambda: picture_sheets.contact_sheet(pictures(3), 2)],
    "explained_variance": [lambda: curves.explained_variance(np.array([0.5, 0.3, 0.2]), 2, 0.7)],
    "inversion_loss": [lambda: curves.inversion_loss({"pca": np.ones((2, 8))})],
}


def test_every_figure_has_an_example():
    figures = {
        name
        for module in (curves, latent_planes, picture_sheets, scores)
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and name != "new_figure" and inspect.signature(function).return_annotation is Figure
    }
    assert figures == EXAMPLES.keys()


@pytest.mark.parametrize("name", EXAMPLES)
def test_words_are_text_in_every_figure(name, caplog):
    texts = [text for draw in EXAMPLES[name] for text in drawn(draw(), caplog)]
    if name in ("latent_space", "ladder", "trade", "gains"):
        assert {drawn_words(words, 60) for words in WORDS} - {""} <= set(texts)


@pytest.mark.parametrize("words", ["$$", "_", "\ud800", "x" * 70_000])
def test_words_are_text_above_panels(words, caplog):
    assert drawn_words(f"scored by {words}", 60) in drawn(gains("latent_dim", ["VAE"], words), caplog)


def test_words_are_text_on_the_sheets_of_the_report(tmp_path, caplog):
    names = [f"{number} {words}" for number, words in enumerate(WORDS)][-6:]
    many, manifest = len(names), pd.DataFrame({"person": names, "split": "test", "photo": 0})
    held_out = Portraits(torch.from_numpy(pictures(many, 4)), names, ["test"] * many, manifest)
    rungs = [
        "true",
        "one-photo",
        *(f"{space} {kind}" for space in sheets.SPACES for kind in ("inversion", "reconstruction")),
    ]
    scores = pd.DataFrame({rung: np.arange(many) / many for rung in rungs} | {"split": "test"}, index=names)
    by_rung = {rung: pictures(many, 4) for rung in rungs} | {"class": pictures(4)}
    shown = sheets.Sheets(held_out, 2, by_rung, scores, 0.0)
    for space in sheets.SPACES:
        tensor = torch.from_numpy(pictures(2, len(WORDS), 1))
        write_pack(tmp_path / "samples" / space / "pictures.safetensors", {"pictures": tensor}, {"prompts": WORDS})
        write_pack(
            tmp_path / "blends" / space / "pictures.safetensors",
            {"pictures": tensor[:, :3, 0]},
            {"people": [names[:2], names[-2:]]},
        )
    with_names = sheets.inversion_figures(shown)
    with_names["reconstruction"] = sheets.true_lora_figures(shown)["reconstruction"]
    for figure in with_names.values():
        assert any("word word" in text for text in drawn(figure, caplog))
    drawn(sheets.interpolation_figure(tmp_path / "blends", held_out), caplog)
    texts = drawn(sheets.sampling_figure(tmp_path / "samples", "vae"), caplog)
    assert {drawn_words(words, 10, 12) for words in WORDS} - {""} <= set(texts)


@pytest.mark.parametrize("words", WORDS)
def test_words_are_text_on_the_sheets_of_commands(words, tmp_path):
    picture = Image.fromarray(pictures()[:, :8])
    sheet = strip([("photo", [picture]), (words, [picture] * 2)])
    write_png(tmp_path / "sheet.png", sheet)
    assert Image.open(tmp_path / "sheet.png").size == sheet.size and max(sheet.size) < 2000
    title = np.asarray(sheet)[20:46, 200:]
    assert (title < 128).any() == bool(words.strip(" \x00\ud800"))
    np.testing.assert_array_equal(
        title, np.asarray(strip([("photo", [picture]), (drawn_words(words, 120), [picture] * 2)]))[20:46, 200:]
    )


@pytest.mark.parametrize("words", ["plain", "José", "two\nlines and more", "x" * 70_000, "שלום"])
def test_long_words_are_cut(words):
    lines = drawn_words(words, 10, 3).split("\n")
    assert len(lines) <= 3 and max(map(len, lines)) <= 10
    shown = " ".join(lines) if " " in words else "".join(lines)
    assert shown == " ".join(words.split()) or shown == words[:29] + "\N{HORIZONTAL ELLIPSIS}"


class Page(HTMLParser):
    """Text and elements of an HTML page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.elements = "", set()
        self.feed(html)

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.add(tag)


def test_settings_are_text_on_the_page(params: Params):
    words = '</bdi></code><script>alert("1")</script> {{ 7 * 7 }} &amp; $x$ שלום \u202e 😀 \'"'
    content = params.model_dump()
    content["base"] |= {"source": "pretrained", "model": words, "revision": f"revision {words}"}
    content["portraits"]["source"], content["recognizer"] = "folder", f"insightface:{words}"
    content["generate"]["negative_prompt"] = f"not {words}"
    settings = Params.model_construct(
        **{
            key: type(getattr(params, key)).model_construct(**value) if isinstance(value, dict) else value
            for key, value in content.items()
        }
    )
    metrics = {
        name: read_json(ROOT / f"metrics/{name}.json")
        for name in ("world", "base", "zoo", "second_opinion", "probe", BASELINE)
    }
    metrics |= dict.fromkeys(METHODS, metrics[BASELINE]) | {"comparison": {"people": 12}}
    metrics["outside"] = {"photo_frechet_floor": 1.0}
    training = {
        "settings": {"kl": {"schedule": words, "weight": 0.1}, "metric": "weights", "latent_dim": 4},
        "kept": {"epoch": 1, "collapsed_units": 0, "validation_kl": 1.0},
    }
    pngs = dict.fromkeys(
        [
            "people",
            "base",
            "interpolation",
            "inversion",
            "kl_curves",
            "explained_variance",
            "inversion_loss",
            "ladder",
            "outside_low_resolution",
            *(f"{kind}_{space}" for kind in ("sampling", "inversion") for space in METHODS),
        ],
        b"",
    )
    html = render_html(
        pngs,
        rendered=False,
        verdict=words,
        sentence=words,
        measures=[],
        metrics=metrics,
        params=settings,
        facts=[{"name": words, "value": words}],
        samples=[{"name": words, "better": words, "world": words, "zoo": words, **dict.fromkeys(METHODS, words)}],
        training=training,
        methods=METHODS,
        baseline=BASELINE,
        outside=[{"style": "low_resolution", "name": words, "values": [words], "first": True}],
        sweep={"left_out": words, "tables": {}},
        same_dimensions=True,
        kept_variance=0.5,
        shown={"inversion": 1, "people": 1},
    )
    page = Page(html)
    assert page.text.count(words) >= 10
    assert "script" not in page.elements
