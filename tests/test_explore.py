"""The explorer without its page: each act of a visitor is what the API does, and files give back what is seen."""

import io
import json
import os
import runpy
import subprocess
import sys
import tempfile
import zipfile
from base64 import b64encode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data as pictures

import w2wpp
from w2wpp import GenerateParams, InvertParams
from w2wpp.api.settings import Settings
from w2wpp.evaluation.gallery import Gallery
from w2wpp.explore import take_home, visit
from w2wpp.explore.photos import open_photos
from w2wpp.explore.recipes import Blended, Edited, Inverted, Sampled, told
from w2wpp.explore.studio import REFINED, Request, Studio, known_spaces, open_studio
from w2wpp.explore.visit import Visit
from w2wpp.faces.embeddings import Embeddings
from w2wpp.files.errors import InputError
from w2wpp.lora.layout import WeightLayout

FEW = Settings(InvertParams(steps=2), GenerateParams(inference_steps=5))
SMILING = Request("a photo of sks person, smiling", (3, 0))


@pytest.fixture
def studio(repro, save_directions, make_space, layout, draw_weights) -> Studio:
    """Two spaces of four dimensions, the first with directions of attributes."""
    save_directions("pca")
    make_space(layout, draw_weights(layout, 4, seed=5, size=1.0), draw_weights(layout, 1)[0]).save(
        repro / "data/spaces/linear/space.safetensors"
    )
    return open_studio("data/base", ["pca", "linear"], FEW)


@pytest.fixture
def visitor() -> Visit:
    return Visit("pca", SMILING)


def shown(person: w2wpp.Lora, request: Request = SMILING) -> list[np.ndarray]:
    return [np.asarray(each) for each in person.draw(request.prompt, request.seeds, settings=FEW.drawing)]


def same(some: list[Image.Image], others: list[np.ndarray]) -> bool:
    return len(some) == len(others) and all(
        (np.asarray(one) == other).all() for one, other in zip(some, others, strict=True)
    )


@pytest.fixture
def two(studio, visitor) -> Visit:
    """A visitor who took the samples 5 and 6."""
    visit.sample(studio, visitor, 5)
    visit.take(studio, visitor, 0)
    visit.take(studio, visitor, 1)
    return visitor


def test_samples_fill_a_grid_and_one_is_taken_in_hand(studio, visitor):
    faces = visit.sample(studio, visitor, 5)
    assert [face.title for face in faces] == [f"sample {seed}" for seed in range(5, 17)]
    for face, seed in ((faces[0], 5), (faces[11], 16)):
        expected = shown(w2wpp.sample("pca", seed), SMILING.draft)
        assert np.abs(np.asarray(face.pictures[0]).astype(int) - expected[0]).max() <= 1  # another batch rounds
    taken = visit.take(studio, visitor, 2)
    assert same(taken.pictures, shown(w2wpp.sample("pca", 7)))
    assert visitor.shown is taken and list(visitor.shelf) == ["sample 7"]
    with pytest.raises(InputError, match="person: no number 12"):
        visit.take(studio, visitor, 12)
    with pytest.raises(InputError, match="seed"):
        visit.sample(studio, visitor, -1)
    assert visitor.grid[0] == Sampled(5)  # what went wrong changed nothing


def test_a_draft_is_one_picture_in_few_steps_until_it_is_finished(studio, two, monkeypatch):
    monkeypatch.setattr(visit, "PAUSE", 3600)
    draft = visit.show(studio, two, Sampled(5), draft=True)
    quick = FEW.drawing.model_copy(update={"inference_steps": 4})
    person = w2wpp.sample("pca", 5)
    assert same(draft.pictures, [np.asarray(person.draw(SMILING.prompt, [3], settings=quick)[0])])
    assert not two.resting
    assert same(visit.finished(studio, two).pictures, shown(person))
    two.moved -= visit.PAUSE
    assert two.resting
    two.request = Request()
    assert same(visit.finished(studio, two).pictures, shown(person, Request()))
    two.space = "linear"
    assert same(visit.finished(studio, two).pictures, shown(w2wpp.sample("linear", 5), Request()))
    with pytest.raises(InputError, match="nobody in hand"):
        visit.finished(studio, Visit("pca"))


def test_blends_of_two_and_of_three_and_the_way_between(studio, two):
    ends = [w2wpp.sample("pca", seed) for seed in (5, 6)]
    recipe = visit.blended(two, ("sample 5", "sample 6"), (0.25,))
    assert same(visit.show(studio, two, recipe).pictures, shown(w2wpp.blend(*ends, 0.25)))
    three = visit.blended(two, ("sample 5", "sample 6", "sample 5"), (0.25, 0.5))
    expected = w2wpp.blend(w2wpp.blend(*ends, 0.25), ends[0], 0.5)
    assert torch.equal(visit.show(studio, two, three).person.z, expected.z)
    faces = visit.way(studio, two, recipe)
    assert [face.title for face in faces] == ["0.00", "0.17", "0.33", "0.50", "0.67", "0.83", "1.00"]
    assert faces[2].recipe == Blended(Sampled(5), Sampled(6), 2 / 6)
    with pytest.raises(InputError, match="nobody called 'sample 9'"):
        visit.blended(two, ("sample 5", "sample 9"), (0.5,))


def test_a_walk_goes_there_and_back(studio, two):
    frames = visit.walk(studio, two, Blended(Sampled(5), Sampled(6), 0.5))
    assert len(frames) == visit.WALK
    assert same([frames[1], frames[5]], [np.asarray(frames[-1]), np.asarray(frames[-5])])
    for format in ("GIF", "WebP"):
        saved = Image.open(io.BytesIO(take_home.walk(frames, format).content))
        assert saved.format == format.upper() and saved.info["loop"] == 0
        assert saved.n_frames > visit.WALK // 2  # equal frames in a row become one
    saved.seek(0)
    assert same([saved.convert("RGB")], [np.asarray(frames[0])])  # WebP without loss
    with pytest.raises(InputError, match="format"):
        take_home.walk(frames, "MP4")


def test_edits_are_those_of_the_api(studio, two):
    changes = {"age": 2.0, "glasses": 0.0}
    for hold in (True, False):
        recipe = visit.edited(two, "sample 5", changes, hold)
        assert recipe == Edited(Sampled(5), (("age", 2.0),), hold)
        expected = w2wpp.sample("pca", 5).edit({"age": 2.0}, hold)
        assert torch.equal(visit.show(studio, two, recipe).person.weights, expected.weights)
    assert visit.edited(two, "sample 5", {"age": 0.0}, True) == Sampled(5)
    first = visit.before(studio, two, "sample 5")
    assert same(first.pictures, shown(w2wpp.sample("pca", 5), SMILING.draft))
    assert visit.before(studio, two, "sample 5") is first
    assert studio.labels == ["age", "glasses"]


def test_photos_become_a_person(studio, visitor, repro):
    photo = pictures.astronaut()
    visit.bring(visitor, [Image.fromarray(photo)])
    aligned, guess, result = visit.invert(studio, visitor, refined=False, label=None)
    found = w2wpp.invert(photo, "pca", settings=FEW.search)
    assert same(aligned.pictures, [found.record.photos[0].pixels])
    assert same(guess.pictures, shown(found.guess)) and same(result.pictures, shown(found))
    assert torch.equal(visitor.shown.person.z, found.z) and list(visitor.shelf) == ["photo 1"]
    other = visit.compare(studio, visitor, label=None)[1]
    assert same(other.pictures, shown(w2wpp.invert(photo, w2wpp.load_space("linear"), settings=FEW.search)))
    visit.invert(studio, visitor, refined=True, label=None)
    refined = w2wpp.invert(photo, "pca", settings=FEW.search, refine=REFINED)
    assert torch.equal(visitor.shown.person.weights, refined.weights)
    assert list(visitor.shelf) == ["photo 1", "photo 2, refined"]
    assert not json.loads(take_home.latent(visitor.shown, studio).content)["in_space"]
    with pytest.raises(InputError, match="photo: none given"):
        visit.invert(studio, Visit("pca"), refined=False)
    with pytest.raises(InputError, match="9 photos"):
        visit.bring(visitor, [Image.fromarray(photo)] * 9)
    visit.bring(visitor, [Image.new("RGB", (200, 150), "green")])
    with pytest.raises(InputError, match="no face found"):
        visit.invert(studio, visitor, refined=False)
    assert len(visitor.shelf) == 2


def test_spaces_are_compared_at_one_z(studio, two):
    faces = visit.compare(studio, two)
    assert [face.title for face in faces] == ["pca", "linear"]
    for face in faces:
        assert same(face.pictures, shown(w2wpp.sample(face.title, 6)))
    visit.show(studio, two, visit.edited(two, "sample 5", {"age": 2.0}, True))
    edited, impossible = visit.compare(studio, two)
    assert edited.pictures and not impossible.pictures and "no" in impossible.note


def test_id_scores_have_a_scale_and_need_a_gallery_and_a_face(studio, face):
    assert studio.likeness([face], [Image.fromarray(face)]) is None
    vectors = np.random.default_rng(0).normal(size=(3, 2, 128)).astype(np.float32)
    gallery = Gallery(["a", "b", "c"], Embeddings(vectors, np.ones((3, 2), bool)), 2, np.zeros(128), None, 0.1, 0.9)
    scored = Studio(studio.pipe, studio.base, studio.spaces, gallery=gallery)
    photo = pictures.astronaut()[:256, 100:356]
    itself = scored.likeness([photo], [Image.fromarray(photo)])
    assert (itself.floor, itself.ceiling) == (0.1, 0.9) and itself.score == pytest.approx(1)
    green = Image.new("RGB", (256, 256), "green")
    assert scored.likeness([photo], [green]).score == 0.1
    assert scored.likeness([np.asarray(green)], [green]) is None
    assert visit.likeness(itself) == "ID 1.00 (a stranger 0.10, own photos 0.90)" and visit.likeness(None) == ""


@pytest.mark.parametrize("rank", [1, 2])
@pytest.mark.parametrize("request_", [Request(), SMILING], ids=["plain", "prompted"])
def test_lora_and_snippet_draw_what_was_shown_to_the_bit(
    studio, wide_layout, draw_weights, make_space, monkeypatch, request_, rank, tmp_path
):
    if rank == 2:
        studio.spaces["pca"] = make_space(
            wide_layout, draw_weights(wide_layout, 4, seed=5, size=1.0), draw_weights(wide_layout, 1)[0]
        )
    visitor = Visit("pca", request_)
    visit.sample(studio, visitor, 6, 1)
    person = visit.take(studio, visitor, 0)
    lora, code = take_home.lora(person), take_home.snippet(person, studio)
    monkeypatch.chdir(tmp_path)  # where data/base is
    for file in (lora, code):
        Path(file.name).write_bytes(file.content)
    runpy.run_path(code.name)
    drawn = [np.asarray(Image.open(f"sample-6-{seed}.png")) for seed in request_.seeds]
    assert same(person.pictures, drawn)
    assert torch.equal(w2wpp.load_lora(lora.name).weights, person.person.weights)


def test_latent_and_sheet_hold_what_was_shown(studio, two):
    person = visit.finished(studio, two)
    latent = json.loads(take_home.latent(person, studio).content)
    assert latent["recipe"] == {"sampled": {"seed": 6}} and latent["in_space"] and latent["space"]["name"] == "pca"
    settings = GenerateParams(inference_steps=latent["inference_steps"], prompted_guidance=latent["guidance"])
    again = w2wpp.Person.at(torch.tensor(latent["z"]), "pca").draw(latent["prompt"], latent["seeds"], settings=settings)
    assert same(again, [np.asarray(each) for each in person.pictures])
    sheet = np.asarray(Image.open(io.BytesIO(take_home.sheet(person).content)))
    large = np.asarray(person.pictures[0].resize((160, 160), Image.Resampling.BICUBIC))
    assert any((sheet[top : top + 160, 20:180] == large).all() for top in range(len(sheet) - 159))


def test_loras_of_other_tools(studio, two):
    person = visit.finished(studio, two)
    kohya, peft = take_home.lora(person, "kohya"), take_home.lora(person, "peft")
    person.person.save("expected.safetensors", "kohya")
    assert kohya.content == Path("expected.safetensors").read_bytes()
    with zipfile.ZipFile(io.BytesIO(peft.content)) as archive:
        assert archive.namelist() == ["sample-6/adapter_config.json", "sample-6/adapter_model.safetensors"]


def test_recipes_are_told_without_photos():
    recipe = Edited(Blended(Sampled(1), Inverted((Image.new("RGB", (64, 64)),), 1), 0.5), (("age", 2.0),), False)
    assert json.loads(json.dumps(told(recipe))) == {
        "edited": {
            "of": {
                "blended": {
                    "first": {"sampled": {"seed": 1}},
                    "second": {"inverted": {"photos": 1, "refined": False}},
                    "share": 0.5,
                }
            },
            "changes": {"age": 2.0},
            "hold_others": False,
        }
    }


def test_photos_of_a_page_are_read_and_leave_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    content = io.BytesIO()
    Image.fromarray(pictures.astronaut()).save(content, "PNG")
    sent = {"name": "me.png", "content": b64encode(content.getvalue()).decode()}
    assert same(open_photos([sent]), [pictures.astronaut()])
    broken = {"name": "../../cut.png", "content": b64encode(content.getvalue()[:5000]).decode()}
    for file, words in (
        (broken, r"^cut\.png: a damaged PNG"),
        ({"name": "notes.txt", "content": b64encode(b"hello").decode()}, r"^notes\.txt: .*JPEG, PNG and WebP are read"),
        ({"name": "x.png", "content": "***"}, r"^x\.png: did not arrive whole"),
        ({}, r"^photo: "),
    ):
        with pytest.raises(InputError, match=words) as caught:
            open_photos([sent, file])
        assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_studio_of_a_base_model_and_a_space_of_ones_own(repro, sd15_base, draw_weights, make_space):
    """As with Stable Diffusion 1.5: no people, no directions, no artifacts of the shipped world."""
    layout = WeightLayout.of_unet(w2wpp.load_base(sd15_base).unet, 1, 27.0, ["to_q", "to_v"])
    make_space(layout, draw_weights(layout, 3, seed=4), draw_weights(layout, 1)[0]).save(repro / "mine.safetensors")
    studio = open_studio(str(sd15_base), ["mine.safetensors"], FEW)
    visitor = Visit("mine")
    visit.sample(studio, visitor, 0, 2)
    person = visit.take(studio, visitor, 1)
    assert person.pictures[0].size == (64, 64) and studio.labels == [] and studio.examples == {}
    assert "w2wpp" not in take_home.snippet(person, studio).content.decode()
    assert known_spaces() == ["pca"]
    with pytest.raises(InputError, match="base"):
        open_studio("data/base", ["mine.safetensors"], FEW)


def test_a_studio_takes_in_what_the_pipeline_leaves_later(repro, layout, draw_weights, make_space, save_directions):
    studio, fixed = open_studio("data/base", None, FEW), open_studio("data/base", ["pca"], FEW)
    first = studio.spaces["pca"]
    assert list(studio.spaces) == ["pca"] and studio.labels == []
    make_space(layout, draw_weights(layout, 3, seed=5), draw_weights(layout, 1)[0]).save(
        repro / "data/spaces/vae/space.safetensors"
    )
    save_directions("pca")
    for each in (studio, fixed):
        each.look_again()
    assert list(studio.spaces) == ["vae", "pca"] and studio.spaces["pca"] is first
    assert studio.labels == ["age", "glasses"] and list(studio.directions) == ["pca"]
    assert list(fixed.spaces) == ["pca"] and fixed.labels == []
    visitor = Visit("vae", SMILING)
    visit.sample(studio, visitor, 5, 1)
    assert same(visit.take(studio, visitor, 0).pictures, shown(w2wpp.sample("vae", 5)))


def test_without_gradio_the_command_says_what_to_install(repro, capsys):
    code = "import sys; sys.modules['gradio'] = None; from w2wpp.cli import main; main(['explore', '--space', 'pca'])"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    assert done.returncode == 1
    assert done.stderr == (
        "error: explore: gradio is not installed, and serves the page. Run `pip install 'w2wpp[explore]'`\n"
    )
