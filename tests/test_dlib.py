"""Dlib finds faces, and its ResNet tells whose they are."""

from pathlib import Path

import dlib
import numpy as np
import pytest
import skimage
from PIL import Image

from w2wpp.faces import dlib as dlib_faces
from w2wpp.faces.dlib import ARCFACE_LANDMARKS, DlibRecognizer, DlibResNet, FaceFinder, arcface_chip
from w2wpp.files.errors import InputError


@pytest.fixture(scope="module")
def dlib_recognizer():
    return DlibRecognizer(workers=1)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_resnet_equals_dlibs_own():
    chips = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    chips = np.stack([np.asarray(Image.fromarray(c).resize((150, 150), Image.Resampling.BICUBIC)) for c in chips])
    weights = dlib_faces.weights_file("dlib_face_recognition_resnet_model_v1.dat")
    theirs = np.array(dlib.face_recognition_model_v1(str(weights)).compute_face_descriptor(list(chips)))
    np.testing.assert_allclose(DlibResNet()(chips), theirs, atol=1e-5)


def test_a_blank_picture_is_not_found(dlib_recognizer, face):
    result = dlib_recognizer.embed(np.stack([np.full_like(face, 128), face]))
    assert result.found.tolist() == [False, True]
    assert result.vectors.dtype == np.float32 and result.vectors.shape == (2, dlib_recognizer.dim)
    assert not result.vectors[0].any() and result.vectors[1].any()


def test_the_same_face_is_recognised_in_other_light(dlib_recognizer, face):
    darker, mirrored = (face * 0.8).astype(np.uint8), face[:, ::-1]
    vectors, found = dlib_recognizer.embed(np.stack([face, face, darker, mirrored]))
    assert found.all()
    assert cosine(vectors[0], vectors[1]) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(vectors[0] - vectors[2]) < 0.3 and np.linalg.norm(vectors[0] - vectors[3]) < 0.4


def test_large_and_oblong_pictures(dlib_recognizer):
    picture = np.asarray(Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB"))
    assert dlib_recognizer.embed(picture[None, :300]).found.all()


def test_workers_do_not_change_the_result(dlib_recognizer, face):
    pictures = np.stack([np.roll(face, shift, axis=1) for shift in range(-20, 20)])
    alone = dlib_recognizer.embed(pictures)
    dlib_recognizer.workers = 2
    together = dlib_recognizer.embed(pictures)
    dlib_recognizer.workers = 1
    assert alone.found.sum() > 0
    np.testing.assert_array_equal(alone.found, together.found)
    np.testing.assert_array_equal(alone.vectors, together.vectors)


def test_no_pictures_and_wrong_pictures(dlib_recognizer, face):
    empty = dlib_recognizer.embed(np.zeros((0, 64, 64, 3), np.uint8))
    assert empty.vectors.shape == (0, 128) and empty.found.shape == (0,)
    for wrong in (face, face[None].astype(np.float32), face[None, ..., :1]):
        with pytest.raises(ValueError, match="uint8 pictures"):
            dlib_recognizer.embed(wrong)


def test_arcface_chips_put_the_eyes_where_arcface_wants_them(face):
    chip = arcface_chip(FaceFinder(), face)
    assert chip.shape == (112, 112, 3)
    found = FaceFinder()(chip)
    assert found is not None
    picture, landmarks = found
    points = np.array([[p.x, p.y] for p in landmarks.parts()])
    border = (picture.shape[0] - picture.shape[0] / 1.5) / 2 if picture.shape[0] > 256 else 0
    points = (points - border) * 112 / (picture.shape[0] - 2 * border)
    assert abs(points - ARCFACE_LANDMARKS).max() < 8


def test_missing_weights_name_the_package(monkeypatch):
    monkeypatch.setattr(dlib_faces, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install no_such_package"):
        DlibRecognizer()
