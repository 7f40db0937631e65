from pathlib import Path

import dlib
import numpy as np
import pytest
import skimage
from PIL import Image

from w2wpp.faces import recognizers
from w2wpp.faces.recognizers import DlibRecognizer, DlibResNet, FaceFinder, InsightFaceRecognizer, load_recognizer
from w2wpp.files.errors import InputError


@pytest.fixture(scope="module")
def dlib_recognizer():
    return DlibRecognizer(workers=1)


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


def test_resnet_equals_dlibs_own():
    chips = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3)).astype(np.uint8)
    chips = np.stack([np.asarray(Image.fromarray(c).resize((150, 150), Image.Resampling.BICUBIC)) for c in chips])
    weights = recognizers._weights_file("dlib_face_recognition_resnet_model_v1.dat")
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


@pytest.mark.parametrize("batch", [1, "n"])
def test_an_onnx_network_embeds_aligned_faces(tmp_path, face, arcface_onnx, batch):
    recognizer = load_recognizer(arcface_onnx(tmp_path / "net.onnx", batch=batch), workers=1)
    assert recognizer.dim == 6 and recognizer.name == f"insightface:{tmp_path / 'net.onnx'}"
    shifted = np.roll(face, 3, axis=0)
    vectors, found = recognizer.embed(np.stack([face, np.zeros_like(face), shifted]))
    assert found.tolist() == [True, False, True] and not vectors[1].any()
    assert cosine(vectors[0], vectors[2]) > 0.95


def test_arcface_chips_put_the_eyes_where_arcface_wants_them(face):
    chip = recognizers._dlib_arcface_chip(FaceFinder(), face)
    assert chip.shape == (112, 112, 3)
    found = FaceFinder()(chip)
    assert found is not None
    picture, landmarks = found
    points = np.array([[p.x, p.y] for p in landmarks.parts()])
    border = (picture.shape[0] - picture.shape[0] / 1.5) / 2 if picture.shape[0] > 256 else 0
    points = (points - border) * 112 / (picture.shape[0] - 2 * border)
    assert abs(points - recognizers.ARCFACE_LANDMARKS).max() < 8


@pytest.mark.parametrize("size", [64, 128])
def test_other_networks_are_refused(tmp_path, arcface_onnx, size):
    with pytest.raises(InputError, match="not an ArcFace-style network"):
        load_recognizer(arcface_onnx(tmp_path / "net.onnx", size=size))


def test_missing_and_broken_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        load_recognizer(f"insightface:{tmp_path / 'none.onnx'}")
    (tmp_path / "broken.onnx").write_bytes(b"not a network")
    with pytest.raises(InputError, match="not a readable ONNX network"):
        load_recognizer(f"insightface:{tmp_path / 'broken.onnx'}")


def test_a_missing_pack_names_its_folder_and_the_offline_choice(tmp_path, monkeypatch):
    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        load_recognizer("insightface:buffalo_l")
    assert str(tmp_path / "models" / "buffalo_l") in str(caught.value)
    assert "`recognizer: dlib`" in str(caught.value) and "\n" not in str(caught.value)


def test_a_pack_uses_its_own_detector(tmp_path, monkeypatch, face, arcface_onnx):
    import insightface.app
    from insightface.model_zoo import get_model

    folder = tmp_path / "models" / "tiny"
    folder.mkdir(parents=True)
    arcface_onnx(folder / "net.onnx")

    class Detector:
        def detect(self, picture, max_num):
            assert picture.dtype == np.uint8 and picture.shape == (384, 384, 3)
            points = np.array([[[150, 170], [234, 170], [192, 220], [160, 260], [224, 260]]], np.float32)
            return (np.zeros((1, 5)), points) if picture.any() else (np.zeros((0, 5)), None)

    class FaceAnalysis:
        def __init__(self, name, allowed_modules):
            self.models = {"detection": Detector(), "recognition": get_model(f"{name}/net.onnx")}

        def prepare(self, ctx_id):
            pass

    monkeypatch.setenv("INSIGHTFACE_HOME", str(tmp_path))
    monkeypatch.setattr(insightface.app, "FaceAnalysis", FaceAnalysis)
    result = InsightFaceRecognizer("insightface:tiny").embed(np.stack([face, np.zeros_like(face)]))
    assert result.found.tolist() == [True, False] and result.vectors.shape == (2, 6)


@pytest.mark.parametrize("spec", ["facenet", "insightface:", "", None])
def test_unknown_recognisers_are_refused(spec):
    with pytest.raises(InputError, match=r"^argument: recognizer: unknown recogniser .*Use dlib, insightface:<pack"):
        load_recognizer(spec)


def test_missing_weights_name_the_package(monkeypatch):
    monkeypatch.setattr(recognizers, "WEIGHTS_PACKAGE", "no_such_package")
    with pytest.raises(InputError, match="pip install no_such_package"):
        DlibRecognizer()
