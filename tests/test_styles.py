"""Styles make of a photo what their names say, always the same, and leave the photo alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from w2wpp.faces.alterations import ALTERATIONS, PLAIN, altered, altered_batch
from w2wpp.faces.styles import STYLES, half_covered, low_resolution, printed, styled


@pytest.mark.parametrize("style", STYLES)
def test_a_style_is_a_function_of_the_photo(style, face):
    before = face.copy()
    once = STYLES[style](face)
    assert once.shape == face.shape and once.dtype == np.uint8
    assert np.array_equal(once, STYLES[style](face))
    assert np.array_equal(face, before)
    assert np.abs(once.astype(int) - face).mean() > 2
    large = np.asarray(Image.fromarray(face).resize((300, 260)))
    assert STYLES[style](large).shape == large.shape


def test_a_drawing_is_grey_lines_on_white(face):
    assert np.ptp(STYLES["drawing"](face).astype(int), axis=2).max() <= 1
    y, x = np.mgrid[-1:1:64j, -1:1:64j]
    radius = np.hypot(x, y)
    drawn = STYLES["drawing"](np.where(radius[..., None] < 0.5, np.uint8([90, 60, 40]), np.uint8([200, 210, 220])))
    edge = np.abs(radius - 0.5) < 0.05
    assert drawn[np.abs(radius - 0.5) > 0.3].min() > 230
    assert drawn[edge].mean() < 200


def test_a_painting_has_flat_colours_and_dark_outlines():
    rng = np.random.default_rng(0)
    grains = rng.normal(0, 5, (64, 64, 3)).round()
    halves = np.where(np.arange(64)[None, :, None] < 32, [100, 60, 50], [180, 170, 160]) + grains
    painted = STYLES["painting"](halves.astype(np.uint8)).astype(float)
    assert painted[:, 8:24].std((0, 1)).max() < 0.5 * grains.std()
    assert np.abs(painted[:, 8:24].mean((0, 1)) - [100, 60, 50]).max() < 12
    assert painted[:, 28:36].mean(2).min(1).mean() < 50


def test_a_print_has_four_levels_of_each_colour(face):
    assert np.array_equal(np.unique(printed(face)), [0, 85, 170, 255])
    assert np.abs(printed(face).astype(int) - face).max() <= 43


def test_low_resolution_shows_the_means_of_squares_alone(face):
    means = np.asarray(Image.fromarray(face).resize((16, 16), Image.Resampling.BOX))
    coarse = np.kron(means, np.ones((4, 4, 1), np.uint8))
    assert np.abs(low_resolution(coarse).astype(int) - low_resolution(face)).max() <= 3


def test_the_lower_half_is_covered(face):
    covered = half_covered(face)
    assert np.array_equal(covered[:32], face[:32])
    assert np.unique(covered[32:]).size == 1


def test_styles_of_many_photos_are_those_of_each(face):
    photos = torch.from_numpy(np.stack([face, face[:, ::-1].copy()]))[:, None].expand(-1, 2, -1, -1, -1)
    prints = styled(photos, "print")
    assert prints.shape == photos.shape
    assert np.array_equal(prints[1, 1].numpy(), STYLES["print"](photos[1, 1].numpy()))


@pytest.mark.parametrize("alteration", ALTERATIONS, ids=lambda each: each.__name__)
def test_an_alteration_changes_a_picture_and_leaves_its_size(alteration, face):
    picture = face.astype(np.float32) / 255
    made = [alteration(picture.copy(), np.random.default_rng(seed)) for seed in range(8)]
    assert all(each.shape == picture.shape and np.isfinite(each).all() for each in made)
    assert np.mean([np.abs(each - picture).mean() for each in made]) > 0.005
    again = alteration(picture.copy(), np.random.default_rng(3))
    assert np.array_equal(again, made[3])


def test_a_share_of_photos_stays_as_it_is(face):
    same = [np.array_equal(altered(face, np.random.default_rng(seed)), face) for seed in range(300)]
    assert abs(np.mean(same) - PLAIN) < 0.07


def test_no_alteration_is_a_style(face):
    """None of 400 altered faces is as close to a style as that style is to itself a pixel further on."""
    made = np.stack([altered(face, np.random.default_rng(seed)) for seed in range(400)]).astype(int)
    for style, make in STYLES.items():
        target = make(face).astype(int)
        changed = np.abs(target - face).mean()
        assert np.abs(made - target).mean((1, 2, 3)).min() > 0.15 * changed, style


def test_a_batch_is_altered_by_its_generator(face):
    photos = torch.tensor(face).expand(6, -1, -1, -1)
    once, again = (altered_batch(photos, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(once, again)
    assert once.shape == photos.shape and once.dtype == torch.uint8
    assert not all(torch.equal(once[0], each) for each in once[1:])
