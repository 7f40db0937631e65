"""Training of the VAE: KL weight, kept epoch, early stopping, held-out people, kills, processes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch.distributions import Normal, kl_divergence

from w2wpp.compute.schedules import step_generator
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_json, write_json, write_pack
from w2wpp.lora.statistics import standardise
from w2wpp.spaces import vae_training as vae
from w2wpp.spaces.pca import fit_pca
from w2wpp.spaces.prior import StandardNormal
from w2wpp.spaces.vae_training import (
    KLParams,
    VAEParams,
    basis_coordinates,
    error_beyond,
    kl_weight,
    reconstruction_error,
    train_vae,
)

LAUNCHED = Path(__file__).with_name("launched_vae.py")


@pytest.fixture
def sheet(normal):
    """Weight vectors on a curved surface, which a linear map of 2 dimensions cannot represent."""
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
    return params.vae.model_copy(
        update={
            "latent_dim": 2,
            "metric": "weights",
            "width": 16,
            "layers": 1,
            "epochs": 3,
            "batch": 16,
            "patience": 99,
        }
    )


@pytest.fixture
def fit(tmp_path) -> Callable[..., tuple]:
    """fit(train, validation, basis, settings, checkpoint=new): `train_vae` in this process alone."""
    numbers = count()

    def fit(train, validation, basis, settings, checkpoint=None):
        checkpoint = checkpoint or tmp_path / f"{next(numbers)}.pt"
        return train_vae(
            basis_coordinates([train], validation, basis),
            basis,
            settings,
            checkpoint,
            Accelerator(cpu=True, mixed_precision="no"),
        )

    return fit


@pytest.mark.parametrize(
    ("schedule", "epochs", "warmup", "expected"),
    [
        ("none", 4, 0.5, [2, 2, 2, 2]),
        ("monotonic", 10, 0.5, [0, 0.4, 0.8, 1.2, 1.6, 2, 2, 2, 2, 2]),
        ("monotonic", 4, 1.0, [0, 0.5, 1, 1.5]),
        ("cyclical", 10, 0.4, [0, 1, 2, 2, 2, 0, 1, 2, 2, 2]),
    ],
)
def test_kl_weight(schedule, epochs, warmup, expected):
    params = KLParams(schedule=schedule, weight=2.0, warmup=warmup, cycles=2)
    assert [kl_weight(epoch, epochs, params) for epoch in range(epochs)] == pytest.approx(expected)


def test_kl_per_unit(normal):
    mean, log_variance = normal(7, 4), normal(7, 4)
    expected = kl_divergence(Normal(mean, (0.5 * log_variance).exp()), Normal(0.0, 1.0)).mean(0)
    torch.testing.assert_close(StandardNormal.kl_per_unit(mean, log_variance), expected)
    assert torch.equal(StandardNormal.kl_per_unit(torch.zeros(5, 2), torch.zeros(5, 2)), torch.zeros(2))


def test_training_is_repeatable(train, validation, basis, settings, fit):
    space, history = fit(train, validation, basis, settings)
    again, history_again = fit(train, validation, basis, settings)
    assert history == history_again
    assert len(history) == 3
    for key, value in space.state_dict().items():
        assert torch.equal(value, again.state_dict()[key])
    other, _ = fit(train, validation, basis, settings.model_copy(update={"seed": 1}))
    assert not torch.equal(space.encoder[0].weight, other.encoder[0].weight)
    assert not any(parameter.requires_grad for parameter in space.parameters())


def test_history(train, validation, basis, settings, fit):
    _, history = fit(train, validation, basis, settings)
    keys = {
        "epoch",
        "kl_weight",
        "train_error",
        "train_kl",
        "validation_error",
        "validation_kl",
        "collapsed_units",
        "kept",
    }
    assert [row["epoch"] for row in history] == [0, 1, 2]
    for row in history:
        assert row.keys() == keys
        assert row["kl_weight"] == kl_weight(row["epoch"], 3, settings.kl)
        assert row["train_error"] > 0
        assert 0 <= row["collapsed_units"] <= 2


def test_training_beats_pca_of_the_same_size_on_curved_data(train, validation, basis, settings, fit):
    kl = settings.kl.model_copy(update={"weight": 1e-3})
    settings = settings.model_copy(update={"epochs": 80, "lr": 0.01, "width": 32, "kl": kl})
    space, _ = fit(train, validation, basis, settings)
    pca = basis.truncated(2)

    def error(which):
        return (((which.decode(which.encode(validation)) - validation) / basis.std) ** 2).sum().item()

    assert error(space) < 0.8 * error(pca)


def test_without_hidden_layers_it_is_linear(train, validation, basis, settings, normal, fit):
    backwards = basis.truncated(30)  # otherwise the initial linear space would be kept
    backwards.components, backwards.scales = basis.components.flip(0), basis.scales.flip(0)
    space, _ = fit(train, validation, backwards, settings.model_copy(update={"layers": 0, "lr": 0.03, "epochs": 12}))
    one, other = normal(6, 2), normal(6, 2)
    torch.testing.assert_close(space.decode((one + other) / 2), (space.decode(one) + space.decode(other)) / 2)
    assert space.decoder[-1].weight.any()


def test_the_linear_space_is_kept_where_training_makes_nothing_better(train, basis, settings, normal, fit):
    unrelated = train.mean(0) + train.std(0) * normal(10, 30)
    space, history = fit(train, unrelated, basis, settings.model_copy(update={"lr": 1.0, "epochs": 4}))
    assert [row["epoch"] for row in history if row["kept"]] == [0]
    assert history[-1]["validation_error"] > history[0]["validation_error"]
    z = normal(5, 2)
    torch.testing.assert_close(space.decode(z), basis.truncated(2).decode(z))


@pytest.mark.parametrize("weight", [1e-2, 3.0])
def test_best_epoch_on_validation_is_kept(train, validation, basis, settings, weight, fit):
    kl = settings.kl.model_copy(update={"weight": weight})
    settings = settings.model_copy(update={"epochs": 12, "kl": kl, "lr": 0.03})
    space, history = fit(train, validation, basis, settings)
    errors = [row["validation_error"] for row in history]
    kept = [row["epoch"] for row in history if row["kept"]]
    assert kept == [errors.index(min(errors))]
    coordinates = basis.encode(validation)
    mean = space.posterior(coordinates)[0]
    error = reconstruction_error(space, space.decode_coordinates(mean), coordinates) + error_beyond(basis, validation)
    assert error.item() == pytest.approx(history[kept[0]]["validation_error"], rel=1e-5)
    latents = space.encode(train)
    torch.testing.assert_close(latents.mean(0), torch.zeros(2), atol=1e-4, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2), atol=1e-4, rtol=0)
    space.latent_mean.zero_()  # as in training
    space.latent_std.fill_(1)
    kl = StandardNormal.kl_per_unit(*space.posterior(coordinates)).sum().item()
    assert kl == pytest.approx(history[kept[0]]["validation_kl"], rel=1e-5)


def test_stops_when_patience_is_over(train, basis, settings, normal, fit):
    kl = settings.kl.model_copy(update={"weight": 0.0})
    settings = settings.model_copy(update={"epochs": 60, "patience": 4, "lr": 0.03, "kl": kl})
    unrelated = train.mean(0) + train.std(0) * normal(10, 30)
    _, history = fit(train, unrelated, basis, settings)
    errors = [row["validation_error"] for row in history]
    best = errors.index(min(errors))
    assert len(history) == best + 4 + 1 < 60
    assert history[best]["kept"] == 1


def test_validation_people_are_not_learnt_from(train, validation, basis, settings, fit):
    settings = settings.model_copy(update={"epochs": 6})
    _, history = fit(train, validation, basis, settings)
    _, other = fit(train, 5 * validation + 1, basis, settings)
    for key in ("train_error", "train_kl"):
        assert [row[key] for row in history] == [row[key] for row in other]
    assert history[-1]["validation_error"] != other[-1]["validation_error"]


def test_reconstruction_error_is_relative_to_the_training_variance(train, basis, settings, fit):
    space, _ = fit(train, train, basis, settings)
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


def test_blocks_give_the_same_coordinates_as_one_matrix(train, validation, basis):
    whole, blocks = (basis_coordinates(train.split(rows), validation, basis) for rows in (96, 40))
    torch.testing.assert_close(blocks, whole)
    assert whole["train"].shape == (96, 30)
    assert whole["validation"].shape == (24, 30)
    assert torch.equal(whole["beyond"], error_beyond(basis, validation))


def equal(space, other) -> bool:
    return all(torch.equal(value, other.state_dict()[key]) for key, value in space.state_dict().items())


def test_interrupted_equals_uninterrupted(train, validation, basis, settings, fit, tmp_path, monkeypatch):
    settings = settings.model_copy(update={"epochs": 6, "lr": 0.03})
    whole, history = fit(train, validation, basis, settings)
    monkeypatch.setattr(vae, "CHECKPOINT_SECONDS", 0.0)
    epochs = []

    def draw(seed, epoch):
        epochs.append(epoch)
        if epochs == [0, 1, 2, 3]:
            raise KeyboardInterrupt
        return step_generator(seed, epoch)

    monkeypatch.setattr(vae, "step_generator", draw)
    checkpoint = tmp_path / "checkpoint.pt"
    with pytest.raises(KeyboardInterrupt):
        fit(train, validation, basis, settings, checkpoint)
    resumed, history_resumed = fit(train, validation, basis, settings, checkpoint)
    assert epochs == [0, 1, 2, 3, 3, 4, 5]
    assert history_resumed == history
    assert equal(resumed, whole)
    finished, history_finished = fit(train, validation, basis, settings, checkpoint)  # nothing is left to do
    assert epochs[7:] == []
    assert history_finished == history
    assert equal(finished, whole)


def test_resuming_does_not_go_on_when_patience_is_over(train, basis, settings, fit, normal, tmp_path, monkeypatch):
    monkeypatch.setattr(vae, "CHECKPOINT_SECONDS", 0.0)
    kl = settings.kl.model_copy(update={"weight": 0.0})
    settings = settings.model_copy(update={"epochs": 60, "patience": 4, "lr": 0.03, "kl": kl})
    unrelated = train.mean(0) + train.std(0) * normal(10, 30)
    space, history = fit(train, unrelated, basis, settings, tmp_path / "checkpoint.pt")
    again, history_again = fit(train, unrelated, basis, settings, tmp_path / "checkpoint.pt")
    assert len(history) < 60
    assert history_again == history
    assert equal(again, space)


@pytest.fixture
def problem(train, validation, basis, tmp_path) -> Callable[..., None]:
    """problem(**settings) writes the inputs of tests/launched_vae.py to `tmp_path`."""
    basis.save(tmp_path / "basis")
    write_pack(tmp_path / "coordinates", basis_coordinates([train], validation, basis))

    def leave(**settings: VAEParams) -> None:
        for name, each in settings.items():
            write_json(tmp_path / f"{name}.json", each.model_dump())

    return leave


def alone() -> dict[str, str]:
    """The environment of processes that compute on one thread and communicate only on this machine."""
    return os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(LAUNCHED.parents[1])}


def test_killed_equals_uninterrupted(train, validation, basis, settings, fit, problem, tmp_path):
    settings = settings.model_copy(update={"epochs": 100})
    problem(killed=settings)
    checkpoint = tmp_path / "killed.pt"
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, LAUNCHED, tmp_path, "killed"], env=alone(), stdout=output, stderr=subprocess.STDOUT
        )
        while not checkpoint.exists() and process.poll() is None:
            time.sleep(0.01)
        process.kill()
    assert process.wait() == -signal.SIGKILL, (tmp_path / "output").read_text()
    assert 0 < len(torch.load(checkpoint, weights_only=True)["history"]) < 100
    resumed, history_resumed = fit(train, validation, basis, settings, checkpoint)
    whole, history = fit(train, validation, basis, settings)
    assert history_resumed == history
    resumed.save(tmp_path / "resumed")
    whole.save(tmp_path / "whole")
    assert (tmp_path / "resumed").read_bytes() == (tmp_path / "whole").read_bytes()


def test_two_processes_give_the_history_of_one(train, validation, basis, settings, fit, problem, tmp_path):
    settings = settings.model_copy(update={"epochs": 8, "lr": 0.01})
    cases = {
        "even": settings,  # 6 batches of 16, 8 rows for each
        "uneven": settings.model_copy(update={"batch": 19}),  # 4 of 19 and one of 20 rows
        "linear": settings.model_copy(update={"layers": 0, "batch": 96}),
        "patient": settings.model_copy(update={"epochs": 60, "lr": 0.1, "patience": 3}),
    }
    problem(**cases)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--main_process_port",
            "0",
            LAUNCHED,
            tmp_path,
            *cases,
            "--broken",
            "uneven",
        ],
        env=alone(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for name, each in cases.items():
        _, history = fit(train, validation, basis, each)
        main, other = (read_json(tmp_path / f"{name}-{number}.json") for number in (0, 1))
        assert main == other
        assert main["processes"] == 2
        assert len(main["history"]) == len(history)
        for row, expected in zip(main["history"], history, strict=True):
            assert row == pytest.approx(expected, rel=1e-4, abs=1e-6)
    assert len(history) < 60
    uneven, broken = ((tmp_path / f"{name}-0.safetensors").read_bytes() for name in ("uneven", "broken"))
    assert broken == uneven
    assert read_json(tmp_path / "broken-0.json") == read_json(tmp_path / "uneven-0.json")


def test_more_processes_than_rows_in_a_batch_are_refused(train, validation, basis, settings, tmp_path):
    coordinates = basis_coordinates([train], validation, basis)
    many = SimpleNamespace(num_processes=17, process_index=0, device=torch.device("cpu"))
    with pytest.raises(InputError, match="16 rows for 17 processes"):
        train_vae(coordinates, basis, settings, tmp_path / "checkpoint.pt", many)
