"""Face finders find all faces of a picture, the largest first."""

from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from insightface.model_zoo import get_model
from PIL import Image, ImageFilter

from w2wpp.faces.dlib import FaceFinder
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.frames import CENTRE, SQUARE, face_masks
from w2wpp.faces.recognizers import load_recognizer


def astronaut() -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data/astronaut.png").convert("RGB")


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
    network = get_model(str(tmp_path / "models/tiny/recognition.onnx"))
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
        expected = network.get_feat(np.ascontiguousarray(chip[..., ::-1]))[0]
        cosine = vectors[0] @ expected / np.linalg.norm(vectors[0]) / np.linalg.norm(expected)
        assert cosine > 0.995
