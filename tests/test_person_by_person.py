"""The report's table of people and its map of latents: what they hold, and how they answer in a browser."""

import io
import json
from base64 import b64decode
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from w2wpp.evaluation.comparison import of_measure
from w2wpp.faces.portraits import Portraits
from w2wpp.report import page as report
from w2wpp.report.latent_planes import GRID, LatentMap, walkable
from w2wpp.report.person_by_person import People, people_table
from w2wpp.report.sheets import SPACES, Sheets
from w2wpp.spaces.registry import BASELINE, METHODS
from w2wpp.world.people import sample_identity
from w2wpp.world.rows import identity_row

ROOT = Path(__file__).resolve().parents[1]
SHIPPED = ROOT / "reports/index.html"
NAMES = ["a", "b", "c", "d"]
RUNGS = [f"{space} inversion" for space in SPACES] + ["true"]
OBEYED = "id_obeyed gain"
# By person: ID scores of pca, linear, vae and true, then the same where prompts are obeyed; nobody knows d's.
SCORES = {
    "a": ([0.30, 0.35, 0.40, 0.70], [0.20, 0.25, 0.22, 0.60]),
    "b": ([0.50, 0.45, 0.45, 0.80], [0.40, 0.42, 0.50, 0.50]),
    "c": ([0.20, 0.20, 0.60, 0.50], [0.30, 0.30, 0.25, 0.40]),
    "d": ([0.10, 0.20, 0.15, 0.60], [np.nan] * 4),
}


def color(person: int, kind: int, number: int) -> list[int]:
    return [60 * person + 20, 40 * kind + 20, 30 * number + 20]


def painted(kind: int, *lead: int) -> np.ndarray:
    """Pictures of one colour each: uint8 [4, *lead, 16, 16, 3]."""
    pictures = np.zeros((4, *lead, 16, 16, 3), np.uint8)
    for place in np.ndindex(4, *lead):
        pictures[place] = color(place[0], kind, place[1])
    return pictures


def measures() -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"person": person, "rung": rung, "id_score": scores[number], "id_obeyed": obeyed[number]}
            for person, (scores, obeyed) in SCORES.items()
            for number, rung in enumerate(RUNGS)
        ]
    )


def sheets(prompted: bool = True) -> Sheets:
    drawn = {rung: painted(number + 1, 4) for number, rung in enumerate(RUNGS)}
    if prompted:
        drawn |= {f"{rung} requested": painted(number + 1, 8, 4) for number, rung in enumerate(RUNGS)}
    rows = [{"person": name, "split": "test"} | identity_row(sample_identity(seed)) for seed, name in enumerate(NAMES)]
    held_out = Portraits(torch.from_numpy(painted(0, 6)), NAMES, ["test"] * 4, pd.DataFrame(rows))
    return Sheets(held_out, 4, drawn, of_measure(measures(), "id_score"), -0.05)


@pytest.fixture(scope="module")
def people() -> People:
    return people_table(sheets(), measures(), rendered=True)


def shows(uri: str, across: int, down: int) -> list[list[int]]:
    """The colour in the middle of each tile."""
    picture = Image.open(io.BytesIO(b64decode(uri.removeprefix("data:image/jpeg;base64,"))))
    assert picture.size == (64 * across, 64 * down)
    return [list(picture.getpixel((64 * x + 32, 64 * y + 32))) for y in range(down) for x in range(across)]


def test_everybody_is_in_the_table_with_photos_pictures_and_scores(people):
    assert [row.person for row in people.rows] == ["b", "a", "c", "d"]  # by the gain where prompts are obeyed
    assert list(people.columns) == RUNGS and (people.across, people.down) == (3, 2)
    first = people.rows[0]
    assert first.numbers[OBEYED] == 0.1 and people.rows[3].numbers[OBEYED] is None
    assert first.numbers["id_score gain"] == -0.05 and first.numbers["id_obeyed true"] == 0.5
    assert first.cells["vae inversion"].scores == {"ID": "0.45", "obeyed": "0.50"}
    assert people.rows[3].cells["true"].scores == {"ID": "0.60"}
    plain = [color(1, 3, number) for number in range(3)]
    expected = plain + plain  # of the requested ones, the first seed of three prompts
    assert np.abs(np.array(shows(first.cells["vae inversion"].picture, 3, 2)) - expected).max() <= 3
    photos = [color(1, 0, number) for number in (0, 2, 3, 4, 5)]
    assert np.abs(np.array(shows(first.photo, 3, 2)[:5]) - photos).max() <= 3


def test_attributes_are_the_words_of_prompts(people):
    identity = sample_identity(1)
    found = people.rows[0].attributes
    assert found["style"] == identity.hair_style and found["glasses"] == identity.glasses
    assert set(people.choices["style"]) == {sample_identity(seed).hair_style for seed in range(4)}
    assert people_table(sheets(), measures(), rendered=False).choices == {}


def test_without_prompts_there_is_a_row_of_pictures_and_no_score_of_obedience():
    table = people_table(sheets(prompted=False), measures().drop(columns="id_obeyed"), rendered=False)
    assert table.down == 1 and next(iter(table.orders)) == "id_score gain"
    assert [row.person for row in table.rows] == ["c", "a", "d", "b"]
    assert len(shows(table.rows[0].photo, 3, 1)) == 3


@pytest.fixture(scope="module")
def latents() -> LatentMap:
    """Three zoo people on a line from left to right, and a held-out one above the middle."""
    plane = np.array([[-1.0, 0.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    factors = {"age": np.array([0.0, 0.5, 1.0, 0.25]), "hair colour": np.array(["red", "grey", "red", "black"])}
    held_out = np.array([False, False, False, True])
    names = ["left", "middle", "right", "above"]
    return LatentMap(names, held_out, dict.fromkeys(SPACES, plane), factors, painted(2, 1)[:, 0])


def test_a_map_is_data_for_a_script(latents):
    data = json.loads(json.dumps(walkable(latents)))
    assert data["people"] == ["left", "middle", "right", "above"] and data["held_out"] == [3]
    assert [space["name"] for space in data["spaces"]] == list(SPACES)
    assert data["spaces"][0]["points"] == [[0, 0], [GRID // 2, 0], [GRID, 0], [GRID // 2, GRID]]
    assert data["factors"]["age"]["values"] == [0, 0.5, 1, 0.25] and data["factors"]["age"]["ends"] == ["young", "old"]
    hair = data["factors"]["hair colour"]
    assert [hair["names"][value] for value in hair["values"]] == ["red", "grey", "red", "black"]
    assert len(hair["colors"]) == len(hair["names"]) and len(data["factors"]["age"]["colors"]) == 9


@pytest.fixture(scope="module")
def page(people, latents, params, tmp_path_factory) -> Path:
    """The whole page, with the shipped metrics and figures, and these people."""
    metrics = {path.stem: json.loads(path.read_text()) for path in (ROOT / "metrics").glob("*.json")}
    figures = {path.stem: path.read_bytes() for path in (ROOT / "reports/figures").glob("*.png")}
    training = {"settings": params.vae.model_dump(), "kept": {"epoch": 1, "collapsed_units": 0, "validation_kl": 1.0}}
    path = tmp_path_factory.mktemp("report") / "index.html"
    path.write_text(
        report.render_html(
            figures,
            rendered=True,
            verdict="No difference is sure",
            sentence="None.",
            measures=report.measure_rows({space: metrics[space] for space in SPACES}),
            facts=report.world_rows(metrics),
            samples=report.sampling_rows(metrics, SPACES),
            outside=report.outside_rows(metrics),
            metrics=metrics,
            params=params,
            training=training,
            methods=METHODS,
            baseline=BASELINE,
            sweep={"left_out": "", "tables": []},
            same_dimensions=True,
            kept_variance=0.5,
            people=people,
            walk=walkable(latents),
            shown={"inversion": 4, "people": 4},
        ),
        "utf-8",
    )
    return path


@pytest.fixture
def visit(browser, page):
    """visit(**options) opens the page, or the shipped one; nothing but the page itself may be asked for, and no script
    may fail.
    """
    contexts, wrong = [], []

    def opened(path: Path = page, **options):
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **options)
        contexts.append(context)
        tab = context.new_page()
        tab.on("pageerror", lambda error: wrong.append(str(error)))
        tab.on("request", lambda sent: None if sent.url.startswith(("file:", "data:")) else wrong.append(sent.url))
        tab.goto(path.as_uri())
        return tab

    yield opened
    for context in contexts:
        context.close()
    assert wrong == []


def listed(tab) -> list[str]:
    rows = tab.locator("#people-table tbody tr")
    return [
        rows.nth(number).get_attribute("data-person") for number in range(rows.count()) if rows.nth(number).is_visible()
    ]


def test_people_are_sorted_filtered_and_compared(visit, people):
    tab = visit()
    assert listed(tab) == ["b", "a", "c", "d"]
    tab.locator("#people-order").select_option("id_score gain")
    assert listed(tab) == ["c", "a", "d", "b"]
    assert tab.locator("#people-table tbody td.number").first.inner_text() == "0.400"
    tab.locator("#people-order").select_option("id_obeyed true")
    assert listed(tab) == ["a", "b", "c", "d"]  # whose number nobody knows is last, either way
    tab.locator("#people-worst").check()
    assert listed(tab) == ["c", "b", "a", "d"]
    style = people.rows[0].attributes["style"]
    tab.locator("[data-attribute=style]").select_option(style)
    having = {row.person for row in people.rows if row.attributes["style"] == style}
    assert set(listed(tab)) == having and tab.locator("#people-count").inner_text() == f"{len(having)} of 4 people"
    tab.locator("[data-attribute=style]").select_option("")
    for act in ("hover", "click", "focus"):
        person = {"hover": "a", "click": "c", "focus": "b"}[act]
        getattr(tab.locator(f"tr[data-person={person}]"), act)()
        row = next(each for each in people.rows if each.person == person)
        shown = tab.locator("#people-focus img").evaluate_all("images => images.map(image => image.src)")
        assert shown == [row.photo, *(cell.picture for cell in row.cells.values())]
        assert tab.locator("#people-name").inner_text().startswith(person)


def test_a_walk_goes_from_face_to_face(visit):
    tab = visit()
    canvas, name = tab.locator("#walk [data-space]").nth(1), tab.locator("#walk-words li").first
    assert name.inner_text() == "above"  # starts at a held-out person
    box = canvas.bounding_box()
    canvas.hover(position={"x": box["width"] * 10 / 480, "y": box["height"] * 390 / 400})
    assert name.inner_text() == "left" and "hair colour red" in tab.locator("#walk-words").inner_text()
    pixel = "canvas => [...canvas.getContext('2d').getImageData(144, 144, 1, 1).data].slice(0, 3)"
    assert np.abs(np.array(tab.locator("#walk-face").evaluate(pixel)) - color(0, 2, 0)).max() <= 3
    canvas.focus()
    for key, person in (("ArrowRight", "middle"), ("ArrowUp", "above"), ("ArrowUp", "above"), ("ArrowDown", "middle")):
        tab.keyboard.press(key)
        assert name.inner_text() == person
    tab.locator("#walk-factor").select_option("hair colour")
    assert tab.locator("#walk-legend span").all_inner_texts() == ["black", "red", "grey"]


def test_without_scripts_the_table_and_the_figures_are_there(visit):
    tab = visit(java_script_enabled=False)
    assert listed(tab) == ["b", "a", "c", "d"]
    assert tab.locator("tr[data-person=b] img").count() == 5
    assert not tab.locator("#people-tools").is_visible() and not tab.locator("#walk").is_visible()
    assert tab.locator("figure img[alt^='Scatter plots of people in the latent planes']").is_visible()
    assert tab.locator("img:not([alt]), img[alt='']").count() == 0


def test_a_small_screen_needs_no_scrolling_sideways(visit):
    tab = visit()
    tab.set_viewport_size({"width": 400, "height": 800})
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400


def test_the_shipped_page_is_small_and_answers(visit, keep):
    assert SHIPPED.stat().st_size < 12 * 2**20
    tab = visit(SHIPPED)
    tab.locator("#people-worst").check()
    values = tab.locator("#people-table td.number").all_inner_texts()
    numbers = [float(value) for value in values if value != "\N{EN DASH}"]
    assert len(numbers) > 4 and numbers == sorted(numbers) and len(set(numbers)) > 4
    tab.locator("#people-worst").uncheck()
    tab.locator("#person-by-person").evaluate("section => section.scrollIntoView()")
    tab.locator("#people-table tbody tr").nth(1).hover()
    keep(tab, "report-people")
    tab.locator("#walk h3").evaluate("title => title.scrollIntoView()")
    canvas = tab.locator("#walk [data-space]").last
    canvas.focus()
    before = tab.locator("#walk-words").inner_text()
    tab.keyboard.press("ArrowLeft")
    assert tab.locator("#walk-words").inner_text() != before
    tab.locator("#walk-factor").select_option("age")
    keep(tab, "report-walk")
