"""Invented people: the same seed gives the same person, rows survive a CSV file, pictures show somebody."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from w2wpp.diffusion.prompts import CLASS_PROMPT
from w2wpp.world.captions import CAPTION_WORDS, caption
from w2wpp.world.people import EXPRESSIONS, GLASSES, HAIR_STYLES, sample_identity, sample_nuisance
from w2wpp.world.rendering import Renderer, render_people
from w2wpp.world.rows import identity_from_row, identity_row, nuisance_row


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


def test_same_seed_same_person_and_photo():
    assert sample_identity(7) == sample_identity(7)
    assert sample_identity(7) != sample_identity(8)
    assert sample_nuisance(7) == sample_nuisance(7)
    assert sample_nuisance(7) != sample_nuisance(8)


def test_facts_fit_together():
    people = [sample_identity(seed) for seed in range(1500)]
    assert not [p for p in people if p.beard != "none" and p.gender > 0.5]
    assert not [p for p in people if p.hair_color in ("grey", "white") and p.age < 0.5]
    women = [p for p in people if p.gender > 0.5]
    assert 0.4 < len(women) / len(people) < 0.6
    assert sum(p.hair_style == "bald" for p in women) / len(women) < 0.03
    assert {p.hair_style for p in people} == set(HAIR_STYLES)
    assert {p.glasses for p in people} == set(GLASSES)
    young, old = ([p.glasses != "none" for p in people if (p.age > 0.5) == aged] for aged in (False, True))
    assert 0.05 < np.mean(young) < np.mean(old) < 0.35


def test_rows_survive_a_csv_file():
    people = [sample_identity(seed) for seed in range(20)]
    rows = [identity_row(p) | nuisance_row(sample_nuisance(k)) for k, p in enumerate(people)]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    assert [identity_from_row(row) for row in csv.DictReader(file)] == people


def test_a_bad_row_is_refused_by_name():
    row = identity_row(sample_identity(0))
    with pytest.raises(ValueError, match="person_age"):
        identity_from_row({k: v for k, v in row.items() if k != "person_age"})
    with pytest.raises(ValueError, match="must hold a number"):
        identity_from_row(row | {"person_age": "old"})
    with pytest.raises(ValueError, match="age must lie in"):
        identity_from_row(row | {"person_age": 1.5})
    with pytest.raises(ValueError, match="unknown hair_style"):
        replace(sample_identity(0), hair_style="mohawk")
    with pytest.raises(ValueError, match="unknown glasses"):
        identity_from_row(row | {"person_glasses": "monocle"})
    with pytest.raises(ValueError, match="glasses_rgb must be"):
        replace(sample_identity(0), glasses_rgb=(0.0, 0.0, 1.5))
    with pytest.raises(ValueError, match="yaw must lie in"):
        replace(sample_nuisance(0), yaw=120.0)


def test_captions_use_known_words():
    rng = np.random.default_rng(0)
    texts = [caption(sample_identity(seed), sample_nuisance(seed), rng) for seed in range(600)]
    assert len(set(texts)) > 300
    for text in [*texts, CLASS_PROMPT]:
        assert text.startswith("a photo of")
        assert text == text.lower()
    used = {word for text in texts for word in text.replace(",", " , ").split()}
    assert used <= set(CAPTION_WORDS)


def test_a_picture_shows_somebody_and_is_repeatable(renderer):
    who, photo = sample_identity(3), sample_nuisance(5)
    picture = renderer.render(who, photo, size=32, supersample=1)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    assert np.array_equal(picture, renderer.render(who, photo, size=32, supersample=1))
    skin = np.asarray(who.skin_rgb) / np.sum(who.skin_rgb)
    middle = picture[12:20, 12:20].reshape(-1, 3).astype(float)
    share = middle / np.maximum(middle.sum(1, keepdims=True), 1)
    assert np.median(np.abs(share - skin).max(1)) < 0.08


def test_person_and_photo_both_matter(renderer):
    first, second = sample_identity(3), sample_identity(4)
    photo = replace(sample_nuisance(5), expression="neutral")

    def draw(who, when):
        return renderer.render(who, when, size=32, supersample=1).astype(float)

    assert np.abs(draw(first, photo) - draw(second, photo)).mean() > 2
    for expression in EXPRESSIONS[1:]:
        assert np.abs(draw(first, photo) - draw(first, replace(photo, expression=expression))).max() > 5


def test_eyes_lie_on_the_same_pixels_for_everyone(renderer):
    photo = replace(sample_nuisance(5), yaw=0.0, pitch=0.0, expression="neutral")
    rows = []
    for seed in range(6):
        dark, bright = (
            renderer.render(replace(sample_identity(seed), eye_rgb=color), photo, size=64, supersample=1).astype(int)
            for color in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
        )
        found = np.argwhere(np.abs(bright - dark).sum(2) > 20)
        rows.append(found.mean(0))
    assert (np.ptp(rows, axis=0) < (2.0, 4.0)).all()


@pytest.mark.parametrize("glasses", GLASSES[1:])
def test_glasses_change_the_picture_around_the_eyes_only(renderer, glasses):
    photo = replace(sample_nuisance(5), yaw=0.0, pitch=0.0, expression="neutral", light_elevation=20.0)
    for seed in range(3):
        who = replace(sample_identity(seed), glasses_rgb=(1.0, 0.0, 0.0))
        bare, worn = (
            renderer.render(replace(who, glasses=kind), photo, size=64, supersample=1).astype(int)
            for kind in ("none", glasses)
        )
        rows, columns = np.nonzero(np.abs(worn - bare).sum(2))
        assert len(rows) > 60
        assert np.ptp(rows) < 24
        assert abs(np.mean(columns) - 31.5) < 3
        red = np.argwhere(worn[..., 0] - worn[..., 1] > bare[..., 0] - bare[..., 1] + 60)
        assert np.ptp(red[:, 0]) < 16
        assert np.ptp(red[:, 1]) > 22


def test_sizes_out_of_range_are_refused(renderer):
    with pytest.raises(ValueError, match="size must lie in"):
        renderer.render(sample_identity(0), sample_nuisance(0), size=0)
    with pytest.raises(ValueError, match="same number of photos"):
        render_people([])


def test_a_pool_gives_the_bytes_of_one_renderer(renderer):
    people = [(sample_identity(k), [sample_nuisance(k), sample_nuisance(k + 50)]) for k in range(2)]
    pictures = render_people(people, size=16, workers=2)
    assert pictures.shape == (2, 2, 16, 16, 3)
    for index, (who, photos) in enumerate(people):
        for photo, picture in zip(photos, pictures[index], strict=True):
            assert np.array_equal(picture, renderer.render(who, photo, size=16))
