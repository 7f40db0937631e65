"""Photos are cut to faces, and faces masked, where they are."""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.frames import CENTRE, SQUARE, align, face_masks


def astronaut() -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data/astronaut.png").convert("RGB")


@pytest.mark.parametrize("angle", [0, 20])
@pytest.mark.parametrize("size", [64, 256])
def test_aligned_faces_have_their_eyes_in_one_place(angle, size):
    find = load_face_finder("dlib")
    photo = astronaut().rotate(angle, Image.Resampling.BICUBIC)
    aligned = align(photo, find(np.asarray(photo))[0], size)
    assert aligned.shape == (size, size, 3)
    (a, b), *_ = find(aligned)
    for eye in (38.3 + 51.6j, 73.5 + 51.6j):
        expected = ((eye - CENTRE) / SQUARE + 0.5 + 0.5j) * size
        assert abs(a * eye + b - expected) < 0.04 * size


def test_aligned_photos_of_a_large_photo_and_of_one_that_is_cut_off():
    find, photo = load_face_finder("dlib"), astronaut()
    (a, b), *_ = find(np.asarray(photo))
    small = align(photo, (a, b), 64)
    large = photo.resize((2048, 2048), Image.Resampling.BICUBIC)
    assert np.abs(align(large, (4 * a, 4 * b), 64).astype(int) - small).mean() < 4
    cut = photo.crop((160, 60, 290, 210))
    edge = align(cut, (a, b - 160 - 60j), 64)
    inside = np.s_[16:40, 20:44]
    assert np.abs(edge[inside].astype(int) - small[inside]).mean() < 4
    assert np.asarray(align(photo, None, 64)).shape == (64, 64, 3)


def test_masks_cover_the_face_and_nothing_where_there_is_none(face):
    find = load_face_finder("dlib")
    masks = face_masks(torch.from_numpy(np.stack([face, np.zeros_like(face)])), find, 8)
    assert masks.shape == (2, 8, 8) and (masks[1] == 1).all()
    assert masks[0].min() == 0 and masks[0].max() == 1 and 0.1 < masks[0].mean() < 0.6
    (a, b), *_ = find(face)
    nose = (a * (56 + 71.7j) + b) / 8
    assert masks[0][int(nose.imag), int(nose.real)] == 1
    assert masks[0][0, 0] == 0
