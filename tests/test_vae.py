"""Training of the VAE: the KL weight's course, what is kept, when it stops, and who may not be learnt from."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from w2wpp.params import KLParams, VAEParams
from w2wpp.pca import fit_pca, standardise
from w2wpp.vae import error_beyond, kl_per_unit, kl_weight, reconstruction_error, train_vae


@pytest.fixture
def sheet(normal):
    """Weight vectors on a curved sheet, which a linear map of 2 dimensions cannot follow."""
    z = normal(120, 2)
    return torch.cat([2 * z, z.square(), z[:, :1] * z[:, 1:]], 1) @ normal(5, 30) + 0.05 * normal(120, 30)


@pytest.fixture
def train(sheet):
    return sheet[:96]


@pytest.fixture
def validation(sheet):
    return sheet[96:]


@pytest.fixture
def basis(train, toy_layout):
    return fit_pca(train, *standardise(train), 30, toy_layout, seed=0)[0]


@pytest.fixture
def settings(params) -> VAEParams:
    return params.vae.model_copy(update={"latent_dim": 2, "metric": "weights", "width": 16, "layers": 1, "epochs": 3,
                                         "batch": 16, "patience": 99})


@pytest.mark.parametrize(("schedule", "epochs", "warmup", "expected"), [
    ("none", 4, 0.5, [2, 2, 2, 2]),
    ("monotonic", 10, 0.5, [0, 0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2]),
    ("monotonic", 4, 1.0, [0, 0.5, 1, 1.5]),
    ("cyclical", 10, 0.4, [0, 1, 2, 2, 2, 0, 1, 2, 2, 2]),
])
def test_kl_weight(schedule, epochs, warmup, expected):
    params = KLParams(schedule=schedule, weight=2.0, warmup=warmup, cycles=2)
    assert [kl_weight(epoch, epochs, params) for epoch in range(epochs)] == pytest.approx(expected)


def test_kl_per_unit(normal):
    mean, log_variance = normal(7, 4), normal(7, 4)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(kl_per_unit(mean, log_variance), expected)
    assert torch.equal(kl_per_unit(torch.zeros(5, 2), torch.zeros(5, 2)), torch.zeros(2))


def test_training_is_repeatable(train, validation, basis, settings):
    space, history = train_vae([train], validation, basis, settings)
    again, history_again = train_vae([train], validation, basis, settings)
    assert history == history_again
    assert len(history) == 3
    for key, value in space.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    other, _ = train_vae([train], validation, basis, settings.model_copy(update={"seed": 1}))
    assert not torch.equal(space.encoder[0].weight, other.encoder[0].weight)
    assert not any(parameter.requires_grad for parameter in space.parameters())


def test_history(train, validation, basis, settings):
    _, history = train_vae([train], validation, basis, settings)
    keys = {"epoch", "kl_weight", "train_error", "train_kl", "validation_error", "validation_kl", "collapsed_units",
            "kept"}
    assert [row["epoch"] for row in history] == [0, 1, 2]
    for row in history:
        assert row.keys() == keys
        assert row["kl_weight"] == kl_weight(row["epoch"], 3, settings.kl)
        assert row["train_error"] > 0
        assert 0 <= row["collapsed_units"] <= 2


def test_training_beats_pca_of_the_same_size_on_curved_data(train, validation, basis, settings):
    kl = settings.kl.model_copy(update={"weight": 1e-3})
    settings = settings.model_copy(update={"epochs": 80, "lr": 0.01, "width": 32, "kl": kl})
    space, _ = train_vae([train], validation, basis, settings)
    pca = basis.truncated(2)

    def error(which):
        return (((which.decode(which.encode(validation)) - validation) / basis.std)**2).sum().item()

    assert error(space) < 0.8 * error(pca)


def test_without_hidden_layers_it_is_linear(train, validation, basis, settings, normal):
    space, _ = train_vae([train], validation, basis, settings.model_copy(update={"layers": 0, "lr": 0.03}))
    one, other = normal(6, 2), normal(6, 2)
    torch.testing.assert_close(space.decode((one + other) / 2), (space.decode(one) + space.decode(other)) / 2)
    assert space.decoder[-1].weight.any()


@pytest.mark.parametrize("weight", [1e-2, 3.0])
def test_best_epoch_on_validation_is_kept(train, validation, basis, settings, weight):
    kl = settings.kl.model_copy(update={"weight": weight})
    settings = settings.model_copy(update={"epochs": 12, "kl": kl, "lr": 0.03})
    space, history = train_vae([train], validation, basis, settings)
    criterion = [row["validation_error"] + weight * row["validation_kl"] / 2 for row in history]
    kept = [row["epoch"] for row in history if row["kept"]]
    assert kept == [criterion.index(min(criterion))]
    coordinates = basis.encode(validation)
    mean, log_variance = space.posterior(coordinates)
    error = reconstruction_error(space, space.decode_coordinates(mean), coordinates) + error_beyond(basis, validation)
    assert error.item() == pytest.approx(history[kept[0]]["validation_error"], rel=1e-5)
    assert kl_per_unit(mean, log_variance).sum().item() == pytest.approx(history[kept[0]]["validation_kl"], rel=1e-5)


def test_stops_when_patience_is_over(train, basis, settings, normal):
    kl = settings.kl.model_copy(update={"weight": 0.0})
    settings = settings.model_copy(update={"epochs": 60, "patience": 4, "lr": 0.03, "kl": kl})
    unrelated = train.mean(0) + train.std(0) * normal(10, 30)
    _, history = train_vae([train], unrelated, basis, settings)
    errors = [row["validation_error"] for row in history]
    best = errors.index(min(errors))
    assert len(history) == best + 4 + 1 < 60
    assert history[best]["kept"] == 1


def test_validation_people_are_not_learnt_from(train, validation, basis, settings):
    settings = settings.model_copy(update={"epochs": 6})
    _, history = train_vae([train], validation, basis, settings)
    _, other = train_vae([train], 5 * validation + 1, basis, settings)
    for key in ("train_error", "train_kl"):
        assert [row[key] for row in history] == [row[key] for row in other]
    assert history[-1]["validation_error"] != other[-1]["validation_error"]


def test_reconstruction_error_is_relative_to_the_training_variance(train, basis, settings):
    space, _ = train_vae([train], train, basis, settings)
    coordinates = basis.encode(train)
    error = reconstruction_error(space, torch.zeros_like(coordinates), coordinates).item()
    assert error == pytest.approx((len(train) - 1) / len(train), rel=1e-3)
    assert reconstruction_error(space, coordinates, coordinates).item() == 0


def test_error_beyond_the_basis_is_what_the_left_out_components_hold(validation, basis):
    leading = basis.truncated(5)
    left_out = (basis.encode(validation) * basis.scales)[:, 5:]
    expected = left_out.square().sum(1).mean() / leading.scales.square().sum()
    torch.testing.assert_close(error_beyond(leading, validation), expected)
    assert error_beyond(basis, validation).item() == pytest.approx(0, abs=1e-6)
