"""Pictures show the people they are of, the same each time."""

from dataclasses import replace

import numpy as np
import pytest

from w2wpp.world.people import EXPRESSIONS, GLASSES, sample_identity, sample_nuisance
from w2wpp.world.rendering import Renderer, render_people


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer()


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
