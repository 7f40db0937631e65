"""Spaces with a within-person ridge: within-person variance counts less, and nothing else changes."""

import pytest
import torch
from scipy.linalg import eigh, subspace_angles

from w2wpp.files.errors import ArgumentError
from w2wpp.lora.statistics import standardise
from w2wpp.spaces.pca import PCAParams, fit_pca
from w2wpp.spaces.registry import load_space
from w2wpp.spaces.within_person import discriminants, within_person_space

PEOPLE, PAIRS = 400, 150


@pytest.fixture
def loras(normal):
    """Two LoRAs [PEOPLE, 30] of each person: 3 directions of the person, and twice as much chance in 4 others."""
    directions = torch.linalg.qr(normal(30, 30))[0]
    person = normal(PEOPLE, 3) @ directions[:3]

    def lora():
        return person + 2 * normal(PEOPLE, 4) @ directions[3:7] + 0.05 * normal(PEOPLE, 30)

    return lora(), lora() + 0.3, directions


@pytest.fixture
def full(loras, toy_layout):
    mean = loras[0].mean(0)
    return fit_pca(loras[0], mean, torch.ones(30), 30, toy_layout, seed=0)[0]


def fit(full, loras, ridge, latent_dim):
    return within_person_space(full, loras[0][:PAIRS], loras[1][:PAIRS], ridge, latent_dim)


def test_people_are_found_where_chance_is_louder(full, loras):
    first, second, directions = loras
    space, plain = fit(full, loras, 0.01, 3), full.truncated(3)
    assert subspace_angles(space.synthesis.T.numpy(), directions[:3].T.numpy()).max() < 0.3
    assert subspace_angles(plain.synthesis.T.numpy(), directions[:3].T.numpy()).max() > 1

    def agreement(of):
        one, other = (of.encode(some[PAIRS:]) for some in (first, second))
        return torch.corrcoef(torch.stack([(one - one.mean(0)).flatten(), (other - other.mean(0)).flatten()]))[0, 1]

    assert agreement(space) > 0.98
    assert agreement(plain) < 0.5


def test_coordinates_are_white_and_decode_to_the_average(full, loras, normal):
    first = loras[0]
    space, z = fit(full, loras, 0.1, 5), normal(9, 5)
    coordinates = space.encode(first)
    torch.testing.assert_close(torch.cov(coordinates.T), torch.eye(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(space.encode(space.decode(z)), z, atol=1e-3, rtol=0)
    regressed = torch.linalg.lstsq(coordinates, first - first.mean(0)).solution
    torch.testing.assert_close(space.synthesis, regressed, atol=1e-3, rtol=0)


def test_all_dimensions_are_the_whole_space(full, loras):
    first = loras[0]
    space = fit(full, loras, 0.1, 30)
    torch.testing.assert_close(space.decode(space.encode(first)), full.decode(full.encode(first)), atol=1e-3, rtol=0)


def test_a_large_ridge_leaves_the_principal_components(full, loras):
    other, space, plain = loras[1], fit(full, loras, 1e6, 4), full.truncated(4)
    torch.testing.assert_close(space.encode(other).abs(), plain.encode(other).abs(), atol=0.02, rtol=0)


def test_discriminants_solve_fishers_problem(normal):
    scales, differences = torch.linspace(3, 0.5, 8), normal(40, 8) + 5
    rows, strengths = discriminants(scales, differences, 0.2)
    within = torch.cov((differences * scales).T, correction=0) / 2 + 0.2 * scales.square().mean() * torch.eye(8)
    expected, vectors = eigh(scales.square().diag().double(), within.double())
    torch.testing.assert_close(strengths.square().double(), torch.from_numpy(expected[::-1].copy()), rtol=1e-4, atol=0)
    found = (rows / scales).double()  # of coordinates that are not white
    for row, vector in zip(found, torch.from_numpy(vectors[:, ::-1].T.copy()), strict=True):
        assert abs(torch.cosine_similarity(row, vector, 0)) == pytest.approx(1, abs=1e-4)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8), atol=1e-5, rtol=0)


def test_direction_of_a_person_unseen_twice_costs_nothing(full, loras):
    """A difference that all second LoRAs share, as from another seed, is not within-person variance."""
    first, second, _ = loras
    moved = within_person_space(full, first[:PAIRS], second[:PAIRS] + 3.0, 0.1, 3)
    torch.testing.assert_close(moved.analysis, fit(full, loras, 0.1, 3).analysis, atol=1e-3, rtol=1e-3)


def test_a_space_of_it_survives_a_file_and_has_fixed_signs(full, loras, tmp_path):
    space = fit(full, loras, 0.1, 4)
    space.save(tmp_path / "space.safetensors")
    loaded = load_space(tmp_path / "space.safetensors")
    assert torch.equal(loaded.encode(loras[1]), space.encode(loras[1]))
    largest = space.synthesis.gather(1, space.synthesis.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


@pytest.mark.parametrize("pairs", [0, 1])
def test_too_few_pairs_are_refused(full, loras, pairs):
    with pytest.raises(ArgumentError, match=rf"PCAParams: within_person_ridge: 1.0, but {pairs} of the zoo people"):
        within_person_space(full, loras[0][:pairs], loras[1][:pairs], 1.0, 3, PCAParams)


def test_a_constant_weight_is_no_trouble(loras, toy_layout):
    first = loras[0].clone()
    first[:, 3] = 0.7
    full = fit_pca(first, *standardise(first), 29, toy_layout, seed=0)[0]
    assert torch.isfinite(within_person_space(full, first[:9], loras[1][:9], 1.0, 29).analysis).all()
