"""Faces are found, aligned and masked in their true places."""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image, ImageFilter

from w2wpp.faces.frames import CENTRE, SQUARE, align, face_masks, load_face_finder
from w2wpp.faces.recognizers import FaceFinder, load_recognizer


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


def beside(large: Image.Image, small: Image.Image) -> np.ndarray:
    """A picture of 512 x 768 pixels with one picture of 512 x 512 on the left, and one of 256 x 256 on the right."""
    picture = Image.new("RGB", (768, 512), (128, 128, 128))
    picture.paste(large.resize((512, 512)), (0, 0))
    picture.paste(small.resize((256, 256), Image.Resampling.LANCZOS), (512, 128))
    return np.asarray(picture)


def test_of_two_faces_the_largest_comes_first_though_the_other_is_sharper():
    head = astronaut().crop((110, 0, 340, 230))
    picture = beside(head.resize((512, 512)).filter(ImageFilter.GaussianBlur(5)), head)
    seen, landmarks = FaceFinder()(picture)  # the most certain one
    assert min(point.x for point in landmarks.parts()) * picture.shape[1] / seen.shape[1] > 512
    frames = load_face_finder("dlib")(picture)
    assert len(frames) == 2
    noses = [a * (56 + 71.7j) + b for a, b in frames]
    assert noses[0].real < 512 < noses[1].real
    assert 1.6 < abs(frames[0][0]) / abs(frames[1][0]) < 2.4
    # The mask of a square picture with both covers the larger one alone.
    square = torch.from_numpy(np.pad(picture, ((128, 128), (0, 0), (0, 0)), mode="edge"))
    mask = face_masks(square[None], load_face_finder("dlib"), 12)[0]
    large, small = (mask[int(nose.imag + 128) // 64, int(nose.real) // 64] for nose in noses)
    assert large == 1 and small == 0


def test_a_packs_largest_face_comes_first_though_it_is_less_certain(tmp_path, monkeypatch, write_networks):
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    write_networks(tmp_path / "models/two", second=True)
    write_networks(tmp_path / "models/one")
    picture = np.asarray(astronaut())
    frames, (alone,) = (load_face_finder(f"insightface:{pack}")(picture) for pack in ("two", "one"))
    assert len(frames) == 2 and frames[0] == alone
    assert abs(frames[1][0]) == pytest.approx(0.1 * abs(alone[0]), rel=0.01)


def test_a_packs_detector_aligns_pictures_of_any_size(tmp_path, monkeypatch, write_networks):
    """Detection and five-point alignment of insightface itself, on a pack in its own format."""
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    write_networks(tmp_path / "models/tiny")
    find, recognizer = load_face_finder("insightface:tiny"), load_recognizer("insightface:tiny")
    for size in (64, 300, 512):
        picture = np.asarray(astronaut().resize((size, size), Image.Resampling.LANCZOS))
        ((a, b),) = find(picture)
        assert abs(a - size / SQUARE) < 0.01 * size / SQUARE
        assert abs(b - (size / 2 * (1 + 1j) - CENTRE * size / SQUARE)) < 0.01 * size
        assert find(np.zeros_like(picture)) == []
        # The same picture at any size gives the same 112 x 112 face, and so nearly the same embedding.
        vectors, found = recognizer.embed(np.stack([picture, np.zeros_like(picture)]))
        assert found.tolist() == [True, False]
        chip = np.asarray(
            Image.fromarray(picture).transform(
                (112, 112), Image.Transform.AFFINE, (a.real, -a.imag, b.real, a.imag, a.real, b.imag), Image.BILINEAR
            )
        )
        expected = recognizer._network(chip[None])[0]
        cosine = vectors[0] @ expected / np.linalg.norm(vectors[0]) / np.linalg.norm(expected)
        assert cosine > 0.995
