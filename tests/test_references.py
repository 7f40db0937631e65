"""Measures that depend on no space, on synthetic embeddings and small weight vectors."""

import numpy as np
import pandas as pd
import pytest
import torch

from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery
from w2wpp.evaluation.references import (
    class_metrics,
    nearest_zoo_person,
    reference_rungs,
    world_metrics,
    zoo_metrics,
)
from w2wpp.faces.embeddings import Embeddings
from w2wpp.files.errors import InputError
from w2wpp.lora.shards import open_shards, write_shard
from w2wpp.lora.weights import Weights
from w2wpp.run.held_out import check_people


def everyone_found(vectors: np.ndarray) -> Embeddings:
    return Embeddings(vectors.astype(np.float32), np.ones(vectors.shape[:-1], bool))


@pytest.fixture
def gallery() -> Gallery:
    """Six held-out people, each near a different direction, and a zoo of six who resemble them in reverse order."""
    rng = np.random.default_rng(0)
    faces = 5 * np.eye(6, 8)
    real = everyone_found(faces[:, None] + 0.1 * rng.standard_normal((6, 3, 8)))
    return Gallery.build(
        [f"p{i}" for i in range(6)],
        real,
        3,
        everyone_found(faces[::-1] + 0.1 * rng.standard_normal((6, 8))),
    )


@pytest.fixture
def loras(tmp_path, toy_layout, normal) -> tuple[Weights, dict[str, torch.Tensor]]:
    """LoRAs of the six, and of zoo people z5, z3 and z1; and the vectors by role."""
    vectors = {"zoo": normal(3, 30), "one-photo": normal(6, 30), "true": normal(6, 30)}
    names = {"zoo": ["z5", "z3", "z1"]}
    shards, people = {}, []
    for role, rows in vectors.items():
        split = "zoo" if role == "zoo" else "test"
        write_shard(tmp_path / role, 0, rows, toy_layout)
        shards[role, split] = open_shards(tmp_path / role)
        people += [
            {"person": name, "split": split, "role": role} for name in names.get(role, [f"p{i}" for i in range(6)])
        ]
    return Weights(shards, normal(30), torch.ones(30), toy_layout, pd.DataFrame(people)), vectors


def test_zoo_people_are_not_to_be_held_out(loras):
    data, six = loras[0], [f"p{i}" for i in range(6)]
    check_people(data, six, "test", True, "people.csv")
    check_people(data, ["a"], "test", False, "people.csv")
    with pytest.raises(InputError, match="'z3' is in the zoo and among the 2 held-out people"):
        check_people(data, ["z3", "a"], "test", False, "people.csv")
    with pytest.raises(InputError, match="not the people of the portraits"):
        check_people(data, six[::-1], "test", True, "people.csv")


def test_the_world_is_scored_on_the_held_out_people(gallery):
    gallery.photos.found[0, 1] = False
    metrics = world_metrics(gallery)
    assert metrics["face_found"] == pytest.approx(17 / 18)
    assert (metrics["id_floor"], metrics["id_ceiling"]) == (gallery.floor, gallery.ceiling)
    assert metrics["verification_auc"] == 1
    person = np.stack([photos[found].mean(0) for photos, found in zip(*gallery.real, strict=True)])
    assert metrics["diversity"] == pytest.approx(scoring.mean_pairwise_distance(person, gallery.mean))
    assert 0 <= metrics["novelty"] < 0.01


def test_pictures_of_the_base_model_are_compared_with_as_many_photos():
    rng = np.random.default_rng(0)
    zoo, drawn = (everyone_found(rng.standard_normal((count, 4)) + shift) for count, shift in ((11, 0), (40, 2)))
    drawn.found[:10] = False
    zoo.found[0] = False
    metrics = class_metrics(drawn, zoo)
    faces = zoo.vectors[1:]
    assert metrics == {
        "face_found": 0.75,
        "embedding_frechet": scoring.frechet_distance(drawn.vectors[10:15], faces[:5]),
        "embedding_frechet_floor": scoring.frechet_distance(faces[5:10], faces[:5]),
    }
    drawn.found[1:] = False
    assert class_metrics(drawn, zoo) == {"face_found": 0.0}


def test_the_nearest_zoo_person_has_a_face(gallery):
    photo = Embeddings(gallery.real.vectors[:, 0], np.array([True] * 5 + [False]))
    assert nearest_zoo_person(photo, gallery.zoo, gallery.mean).tolist() == [5, 4, 3, 2, 1, 0]
    gallery.zoo.found[5] = False
    assert nearest_zoo_person(photo, gallery.zoo, gallery.mean)[0] != 5


def test_rungs_are_the_loras_of_the_mean_of_the_nearest_and_of_the_people(gallery, loras):
    data, vectors = loras
    rungs = reference_rungs(data, gallery, [f"z{i}" for i in range(6)], [0, 1, 2], "test", rendered=True)
    assert torch.equal(rungs["mean"], data.mean[None])
    assert torch.equal(rungs["nearest"][[0, 2, 4]], vectors["zoo"])  # p0 looks like z5, p2 like z3, p4 like z1
    assert all(torch.equal(rungs[name], vectors[name]) for name in ("one-photo", "true"))
    assert reference_rungs(data, gallery, [f"z{i}" for i in range(6)], [0, 1, 2], "test", False).keys() == {
        "mean",
        "nearest",
    }


def test_the_zoo_is_counted(loras):
    assert zoo_metrics(loras[0]) == {"people": 3, "dimension": 30}
