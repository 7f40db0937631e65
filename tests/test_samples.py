"""Distributions of sampled people beside real ones, on sets with a known answer."""

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from w2wpp.evaluation import scoring
from w2wpp.evaluation.samples import attribute_error, distribution, kinship, precision_and_recall
from w2wpp.faces.embeddings import Embeddings


def covered(points: np.ndarray, members: np.ndarray, neighbours: int) -> float:
    reach = NearestNeighbors(n_neighbors=neighbours + 1).fit(members).kneighbors(members)[0][:, -1]
    return float(np.mean([(np.linalg.norm(members - point, axis=1) <= reach).any() for point in points]))


@pytest.mark.parametrize("neighbours", [1, 3])
def test_precision_and_recall_are_shares_within_reach_of_neighbours(neighbours):
    rng = np.random.default_rng(0)
    generated, real = 0.7 * rng.normal(size=(50, 4)) + 0.3, rng.normal(size=(60, 4))
    precision, recall = precision_and_recall(generated, real, neighbours)
    assert precision == pytest.approx(covered(generated, real, neighbours))
    assert recall == pytest.approx(covered(real, generated, neighbours))
    assert 0 < recall < precision < 1


def test_one_mode_of_two_is_precise_and_covers_half():
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(100, 2)), rng.normal(size=(100, 2)) + 50
    precision, recall = precision_and_recall(rng.normal(size=(200, 2)), np.concatenate([left, right]))
    assert precision > 0.9 and 0.4 < recall <= 0.5
    assert precision_and_recall(left, right) == (0, 0)
    with pytest.raises(ValueError, match="3 neighbours"):
        precision_and_recall(left[:3], right)


def test_distribution_compares_as_many_faces_as_real_people():
    rng = np.random.default_rng(0)
    vectors, real = rng.normal(size=(40, 6)), rng.normal(size=(30, 6))
    found = np.arange(40) % 2 == 0
    scores = distribution(Embeddings(vectors, found), real)
    faces = vectors[found]
    precision, recall = precision_and_recall(faces, real[:20])
    frechet = scoring.frechet_distance(faces, real[:20])
    assert scores == {"frechet": frechet, "precision": precision, "recall": recall}
    nobody = distribution(Embeddings(vectors, found & (np.arange(40) < 6)), real)
    assert nobody == {"frechet": pytest.approx(np.trace(np.cov(real.T))), "precision": 0, "recall": 0}
    average = np.broadcast_to(real.mean(0), real.shape)
    assert nobody["frechet"] == pytest.approx(scoring.frechet_distance(average, real))


def test_attribute_error_is_the_mean_share_that_is_missing_or_too_much():
    population = {"glasses": 0.2, "beard": 0.1}
    assert attribute_error(population, population) == 0
    assert attribute_error({"glasses": 0.1, "beard": 0.1, "hat": 1.0}, population) == pytest.approx(0.25)
    assert attribute_error({"glasses": 0.0, "beard": 0.3}, population) == pytest.approx(1.5)
    assert attribute_error({"glasses": 0.02}, {"glasses": 0.0}) == pytest.approx(2)


def test_kinship_is_how_often_samples_pass_for_their_donors():
    rng = np.random.default_rng(0)
    zoo, found = rng.normal(size=(60, 6)), np.ones(8, bool)
    copies, zero = Embeddings(zoo[:8], found), np.zeros(6)
    assert kinship(copies, copies, zoo, zero) == 1
    assert kinship(copies, Embeddings(-zoo[:8], found), zoo, zero) == 0
    # Pictures without a face never pass.
    others = Embeddings(np.concatenate([zoo[:6], -zoo[6:8]]), np.arange(8) > 1)
    assert kinship(copies, others, zoo, zero) == 4 / 8
    # Strangers pass as often as pairs of strangers are let pass.
    many, strangers = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    everyone = np.ones(400, bool)
    share = kinship(Embeddings(many, everyone), Embeddings(strangers, everyone), strangers, zero, far=0.2)
    assert share == pytest.approx(0.2, abs=0.06)
