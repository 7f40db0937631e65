"""The explorer in a browser: each tab's main act, downloads, bad photos, two visitors at once.

With W2WPP_SCREENSHOTS=FOLDER the tests run on the shipped world and leave pictures of the page in that folder.
"""

import base64
import io
import json
import os
import re
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures

import w2wpp
from w2wpp import GenerateParams, InvertParams
from w2wpp.api.settings import Settings, read_settings
from w2wpp.explore.studio import Studio, known_spaces, open_studio
from w2wpp.inversion.editing import Directions

pytest.importorskip("gradio", reason="the extra `explore` is not installed")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")

from w2wpp.explore.serve import launch  # noqa: E402
from w2wpp.explore.wiring import Wiring  # noqa: E402

SHOTS = os.environ.get("W2WPP_SCREENSHOTS")
LABELS = ["sex", "age", "weight", "skin", "glasses", "beard"]
LABELS += [f"hair_{color}" for color in ("black", "blond", "brown", "grey", "red", "white")]
LABELS += [f"style_{cut}" for cut in ("bald", "bob", "cropped", "curly", "long", "short", "side-parted", "tied")]
WIDE = {"width": 1280, "height": 800}
MINUTES = 3 * 60_000  # milliseconds; other tests run at the same time


@pytest.fixture(scope="module")
def studio(pipe, wide_layout, draw_weights, make_space, face) -> Studio:
    """Three spaces of 24 dimensions with 20 attributes; or the shipped world."""
    if SHOTS:
        return open_studio("data/base", known_spaces(), read_settings())
    spaces = {
        name: make_space(
            wide_layout, draw_weights(wide_layout, 24, seed=seed, size=1.0), draw_weights(wide_layout, 1)[0]
        )
        for seed, name in enumerate(("vae", "linear", "pca"), 4)
    }
    readouts = torch.randn(len(LABELS), 24, generator=torch.Generator().manual_seed(0))
    directions = Directions(tuple(LABELS), tuple(label.split("_")[0] for label in LABELS), readouts, torch.eye(24))
    examples = {f"validation-{number:05d}": face for number in range(6)}
    settings = Settings(InvertParams(steps=3), GenerateParams(inference_steps=5))
    return Studio(pipe, "data/base", spaces, dict.fromkeys(spaces, directions), settings, examples)


@pytest.fixture(scope="module")
def served(studio) -> Iterator[Wiring]:
    wiring = launch(studio)
    yield wiring
    wiring.page.blocks.close(verbose=False)


@pytest.fixture
def visit(browser, served) -> Iterator[Callable]:
    """visit() opens the page as somebody new, and waits for faces; no request may leave this machine."""
    contexts, strange = [], []

    def open_page(**options):
        context = browser.new_context(**{"viewport": WIDE, "accept_downloads": True} | options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(MINUTES)
        page.on("request", lambda sent: strange.append(sent.url) if elsewhere(sent.url) else None)
        page.goto(served.page.blocks.local_url)
        page.wait_for_selector("#grid button.face")
        page.wait_for_selector("#shown img")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert strange == []


def elsewhere(url: str) -> bool:
    return not re.match(r"(https?|ws)://(127\.0\.0\.1|localhost)[:/]|data:|blob:", url)


def tab(page, name: str) -> None:
    page.get_by_role("tab", name=name).click()


def bits(page, selector: str) -> list[np.ndarray]:
    """The pictures on the page below a selector."""
    sources = page.locator(f"{selector} img").evaluate_all("images => images.map(image => image.src)")
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))) for source in sources]


def until(check: Callable[[], bool], seconds: float = 120) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end, "did not happen"
        time.sleep(0.1)


def shows(page, selector: str, expected: list[np.ndarray]) -> None:
    """Wait until these pictures are below a selector, to the bit."""
    until(lambda: same(bits(page, selector), expected))


def slide(page, slider, steps: int) -> None:
    """Move a slider by its keys."""
    slider.focus()
    for _ in range(steps):
        page.keyboard.press("ArrowRight")


def drawn(studio: Studio, person: w2wpp.Lora, prompt: str = "a photo of sks person", seeds=(0,)) -> list[np.ndarray]:
    with studio.alone():  # the server draws in another thread
        return [np.asarray(each) for each in person.draw(prompt, seeds, studio.pipe, studio.settings.drawing)]


def same(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(some) == len(others) and all((one == other).all() for one, other in zip(some, others, strict=True))


def download(page, button: str) -> tuple[str, bytes]:
    with page.expect_download() as waiting:
        page.get_by_role("button", name=button, exact=True).click()
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_a_face_is_taken_by_a_click_or_a_key(visit, studio, keep):
    page = visit()
    assert page.locator("#grid button.face").count() == 12
    assert same(bits(page, "#shown"), drawn(studio, w2wpp.sample(studio.spaces["vae"], 0)))
    page.locator("#grid button.face").nth(3).click()
    shows(page, "#shown", drawn(studio, w2wpp.sample(studio.spaces["vae"], 3)))
    keep(page, "explore-sample")
    page.locator("#grid button.face").nth(4).focus()
    page.keyboard.press("Enter")
    shows(page, "#shown", drawn(studio, w2wpp.sample(studio.spaces["vae"], 4)))
    page.get_by_role("button", name="Other people").click()
    until(lambda: "sample 12" in page.locator("#grid").inner_text())


def test_a_blend_follows_its_slider(visit, studio, keep):
    page = visit()
    tab(page, "Blend")
    assert page.locator("#way button.face").count() == 7
    ends = [w2wpp.sample(studio.spaces["vae"], seed) for seed in (0, 1)]
    page.locator("#way button.face").nth(3).click()
    shows(page, "#shown", drawn(studio, w2wpp.blend(*ends, 0.5)))
    slide(page, page.locator("#share input[type=range]"), 5)
    shows(page, "#shown", drawn(studio, w2wpp.blend(*ends, 0.55)))
    assert "55%" in page.locator("#shown").inner_text()
    keep(page, "explore-blend")
    name, content = download(page, "Save the walk")
    assert name == "walk.webp" and Image.open(io.BytesIO(content)).n_frames > 12


def test_attributes_change_and_come_back(visit, studio, keep):
    page = visit()
    tab(page, "Edit")
    labels = page.locator("#sliders input[type=range]")
    assert labels.count() == len(studio.labels)
    start, label = w2wpp.sample(studio.spaces["vae"], 0), "glasses"
    slide(page, labels.nth(studio.labels.index(label)), 10)
    expected = start.edit({label: 5.0}, True, studio.directions["vae"])
    shows(page, "#shown", drawn(studio, expected))
    shows(page, "#change", [*drawn(studio, start), *drawn(studio, expected)])
    keep(page, "explore-edit")
    page.get_by_label("Hold other attributes").uncheck()
    shows(page, "#shown", drawn(studio, start.edit({label: 5.0}, False, studio.directions["vae"])))
    page.get_by_role("button", name="Reset", exact=True).click()
    shows(page, "#shown", drawn(studio, start))


def test_a_photo_becomes_a_person(visit, studio, tmp_path, keep):
    page = visit()
    tab(page, "Invert")
    Image.fromarray(pictures.astronaut()).save(tmp_path / "me.png")
    page.locator("#drop input").set_input_files(tmp_path / "me.png")
    shows(page, "#found", [pictures.astronaut()])
    page.get_by_role("button", name="Find this person").click()
    with studio.alone():
        found = w2wpp.invert(pictures.astronaut(), studio.spaces["vae"], studio.pipe, settings=studio.settings.search)
    shows(page, "#shown", drawn(studio, found))
    shows(page, "#found", [found.record.photos[0].pixels, *drawn(studio, found.guess), *drawn(studio, found)])
    assert page.locator("#examples button.face").count() == len(studio.examples)
    page.locator("#examples button.face").first.click()
    shows(page, "#found", [next(iter(studio.examples.values()))])
    if SHOTS:
        page.get_by_role("button", name="Find this person").click()
        until(lambda: page.locator("#found figure").count() == 3)
        keep(page, "explore-invert")


def test_wrong_files_are_answered_by_one_line(visit, tmp_path):
    page = visit()
    tab(page, "Invert")
    (tmp_path / "notes.png").write_text("hello")
    Image.fromarray(pictures.astronaut()).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:5000])
    Image.new("RGB", (200, 150), "green").save(tmp_path / "wall.png")
    alert = page.get_by_role("alert")
    for name, words in (("notes.png", "notes.png: "), ("cut.jpg", "cut.jpg: a damaged JPEG")):
        page.locator("#drop input").set_input_files(tmp_path / name)
        playwright.expect(alert).to_contain_text(words, timeout=MINUTES)
        assert "\n" not in alert.inner_text() and page.locator("#found img").count() == 0
    page.locator("#drop input").set_input_files(tmp_path / "wall.png")
    page.wait_for_selector("#found img")
    playwright.expect(alert).to_have_count(0)
    page.get_by_role("button", name="Find this person").click()
    playwright.expect(alert).to_contain_text("no face found", timeout=MINUTES)


def test_spaces_are_compared_side_by_side(visit, studio, keep):
    page = visit()
    tab(page, "Compare")
    page.get_by_role("button", name="Compare the person in hand").click()
    shows(page, "#spaces", [drawn(studio, w2wpp.sample(space, 0))[0] for space in studio.spaces.values()])
    keep(page, "explore-compare")


def test_what_is_taken_home_draws_what_was_shown(visit, studio, make_pipe, tmp_path):
    page = visit()
    page.locator("#prompt input").fill("a photo of sks person, smiling")
    page.keyboard.press("Enter")
    page.locator("#count").get_by_label("2").check()
    person = w2wpp.sample(studio.spaces["vae"], 0)
    shown = drawn(studio, person, "a photo of sks person, smiling", (0, 1))
    shows(page, "#shown", shown)
    name, content = download(page, "LoRA")
    (tmp_path / name).write_bytes(content)
    pipe = make_pipe() if not SHOTS else w2wpp.load_base()
    for part in (pipe.unet, pipe.vae):
        part.to(memory_format=torch.channels_last if SHOTS else torch.contiguous_format)
    pipe.load_lora_weights(tmp_path, weight_name=name)
    size = (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    settings = studio.settings.drawing
    again = pipe(
        "a photo of sks person, smiling",
        num_images_per_prompt=2,
        latents=torch.stack([torch.randn(size, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]),
        num_inference_steps=settings.inference_steps,
        guidance_scale=settings.prompted_guidance,
    ).images
    assert same(shown, [np.asarray(each) for each in again])

    name, content = download(page, "Latent")
    latent = json.loads(content)
    if latent["in_space"]:  # samples around donors are not, and a space without donors has no others
        person = w2wpp.Person.at(torch.tensor(latent["z"]), studio.spaces[latent["space"]["name"]])
        assert same(shown, drawn(studio, person, latent["prompt"], latent["seeds"]))
    name, content = download(page, "Sheet")
    assert Image.open(io.BytesIO(content)).format == "PNG"
    name, content = download(page, "Python")
    compile(content, name, "exec")
    page.locator("#format").get_by_label("peft").check()
    name, content = download(page, "LoRA")
    assert len(zipfile.ZipFile(io.BytesIO(content)).namelist()) == 2


def test_two_visitors_do_not_meet_and_leave_nothing(visit, served, studio, tmp_path):
    until(lambda: len(served.visits) == 0)  # those of earlier tests have gone
    one, other = visit(), visit()
    Image.fromarray(pictures.astronaut()).save(tmp_path / "me.png")
    tab(other, "Invert")
    other.locator("#drop input").set_input_files(tmp_path / "me.png")
    one.locator("#grid button.face").nth(5).click()
    other.get_by_role("button", name="Find this person").click()
    other.wait_for_selector("#found figure:nth-child(3)")
    until(lambda: "sample 5" in one.locator("#shown").inner_text())
    shows(one, "#shown", drawn(studio, w2wpp.sample(studio.spaces["vae"], 5)))
    assert "photo 1" in other.locator("#shown").inner_text()
    tab(one, "Edit")
    one.get_by_label("Person", exact=True).click()
    assert "photo 1" not in one.get_by_role("listbox").inner_text()
    assert len(served.visits) == 2
    other.context.close()
    until(lambda: len(served.visits) == 1)
    assert len(served.page.blocks.state_holder.session_data) <= 1


def test_a_page_loaded_again_offers_what_the_pipeline_left_meanwhile(
    browser, repro, layout, draw_weights, make_space, save_directions
):
    wiring = launch(open_studio("data/base", None, Settings(InvertParams(steps=2), GenerateParams(inference_steps=5))))
    page = browser.new_page(viewport=WIDE)
    page.set_default_timeout(MINUTES)

    def offered() -> tuple[list[str], int]:
        page.goto(wiring.page.blocks.local_url)
        page.wait_for_selector("#shown img")
        spaces = page.locator("#head label").all_inner_texts()
        tab(page, "Edit")
        return spaces, page.locator("#sliders input[type=range]:visible").count()

    assert offered() == (["pca"], 0)
    assert page.get_by_text("dvc repro edit").is_visible()
    make_space(layout, draw_weights(layout, 4, seed=5), draw_weights(layout, 1)[0]).save(
        repro / "data/spaces/vae/space.safetensors"
    )
    save_directions("vae")
    assert offered() == (["vae", "pca"], 2)
    assert not page.get_by_text("dvc repro edit").is_visible()
    before = bits(page, "#shown")
    page.locator("#sliders input[type=range]").nth(1).focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    until(
        lambda: "glasses" in page.locator("#shown").inner_text() and "draft" not in page.locator("#shown").inner_text()
    )
    assert (bits(page, "#shown")[0] != before[0]).any()
    page.close()
    wiring.page.blocks.close(verbose=False)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_tab_fits_one_screen(visit, scheme, keep):
    page = visit(color_scheme=scheme)
    for name in ("Sample", "Blend", "Edit", "Invert", "Compare"):
        tab(page, name)
        page.wait_for_timeout(300)
        tall, wide = page.evaluate("[document.documentElement.scrollHeight, document.documentElement.scrollWidth]")
        assert tall <= WIDE["height"] and wide <= WIDE["width"], name
        edges = page.locator("#tabs :is(img, button, input):visible").evaluate_all(
            "all => all.map(each => each.getBoundingClientRect().right)"
        )
        assert max(edges) <= page.locator("#hand").bounding_box()["x"], name
    assert page.evaluate("document.body.classList.contains('dark')") == (scheme == "dark")
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    if scheme == "dark":
        tab(page, "Sample")
        keep(page, "explore-dark")
