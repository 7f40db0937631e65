"""ArcFace-style networks and packs of insightface embed faces; others are refused."""

import numpy as np
import pytest

from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.errors import InputError


def cosine(a, b):
    return a @ b / np.linalg.norm(a) / np.linalg.norm(b)


@pytest.mark.parametrize("batch", [1, "n"])
def test_an_onnx_network_embeds_aligned_faces(tmp_path, face, arcface_onnx, batch):
    recognizer = load_recognizer(arcface_onnx(tmp_path / "net.onnx", batch=batch), workers=1)
    assert recognizer.dim == 6 and recognizer.name == f"insightface:{tmp_path / 'net.onnx'}"
    shifted = np.roll(face, 3, axis=0)
    vectors, found = recognizer.embed(np.stack([face, np.zeros_like(face), shifted]))
    assert found.tolist() == [True, False, True] and not vectors[1].any()
    assert cosine(vectors[0], vectors[2]) > 0.95


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
