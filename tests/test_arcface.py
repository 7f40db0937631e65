"""The second recogniser: it learns who is who, and insightface runs what is exported."""

import numpy as np
import pytest
import torch

from w2wpp.faces.dlib import aligned_faces
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.world.arcface import export_onnx, train_arcface


@pytest.fixture
def chips(normal):
    """Four noisy chips of each of six people, and whose they are."""
    people = torch.arange(6).repeat_interleave(4)
    faces = 128 + 50 * normal(6, 1, 1, 3)[people] + 4 * normal(24, 112, 112, 3)
    return faces.clamp(0, 255).byte(), people


@pytest.fixture
def settings(params):
    return params.arcface.model_copy(update={"dim": 8, "width": 8, "steps": 40, "batch": 12})


def test_it_learns_who_is_who(chips, settings):
    network = train_arcface(*chips, settings, seed=0)
    vectors = torch.nn.functional.normalize(network(chips[0].permute(0, 3, 1, 2) / 127.5 - 1))
    same = chips[1][:, None] == chips[1]
    cosines = vectors @ vectors.T
    assert cosines[same].mean() > cosines[~same].mean() + 0.5
    assert torch.equal(network.head[2].weight, train_arcface(*chips, settings, seed=0).head[2].weight)


def test_insightface_runs_what_is_exported(chips, settings, face, tmp_path):
    network = train_arcface(*chips, settings.model_copy(update={"steps": 2}), seed=0)
    export_onnx(tmp_path / "made" / "arcface.onnx", network)
    recognizer = load_recognizer(f"insightface:{tmp_path / 'made' / 'arcface.onnx'}", workers=1)
    blank = np.zeros_like(face)
    seen = recognizer.embed(np.stack([face, blank]))
    aligned, rows = aligned_faces(np.stack([blank, face]))
    assert rows.tolist() == [1]
    assert aligned.shape == (1, 112, 112, 3)
    expected = network(torch.from_numpy(aligned).permute(0, 3, 1, 2) / 127.5 - 1)
    assert seen.found.tolist() == [True, False]
    np.testing.assert_allclose(seen.vectors[0], expected[0].numpy(), atol=1e-4)
