"""Seconds of an epoch of the VAE, in this project's training and in pythae's, with the same networks and random data.

Both see the same coordinates in batches of the same size, take a step of AdamW for each, and validate. pythae is no
dependency: `pip install pythae` in an environment that has w2wpp.
"""

import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from torch import nn

from w2wpp.compute.runtime import device
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.spaces.affine import PCASpace
from w2wpp.spaces.vae_space import VAESpace
from w2wpp.spaces.vae_training import VAEParams, train_vae


class Sizes(NamedTuple):
    """People to train on, a sixteenth as many to validate on, and the sizes of the networks."""

    people: int
    basis: int
    width: int
    latent_dim: int
    epochs: int
    batch: int = 256

    @property
    def params(self) -> VAEParams:
        """Settings whose training never stops early."""
        return VAEParams(
            latent_dim=self.latent_dim, width=self.width, batch=self.batch, epochs=self.epochs, patience=self.epochs
        )


class _EnoughEpochs(Exception):
    """Ends pythae's training where it would write the model to disk."""


def data_of(sizes: Sizes) -> dict[str, torch.Tensor]:
    """Coordinates as `basis_coordinates` returns them, of random people."""
    generator = torch.Generator().manual_seed(0)
    return {
        "train": torch.randn(sizes.people, sizes.basis, generator=generator),
        "validation": torch.randn(max(2, sizes.people // 16), sizes.basis, generator=generator),
        "beyond": torch.tensor(0.0),
    }


def basis_of(sizes: Sizes) -> PCASpace:
    """A basis whose scales fall as 1 / sqrt(i); its components, which no epoch uses, have `basis` numbers each."""
    space = PCASpace(sizes.basis, WeightLayout((Adapted("mid_block.attn1.to_q", sizes.basis - 1, 1),), 1, 1.0))
    space.scales.copy_(torch.arange(1, sizes.basis + 1) ** -0.5)
    return space


def seconds_here(sizes: Sizes) -> float:
    """Seconds of an epoch in `train_vae`: what further epochs add to one."""
    coordinates, basis, spent = data_of(sizes), basis_of(sizes), {}
    accelerator = Accelerator(cpu=device().type == "cpu", mixed_precision="no")
    for epochs in (1, 1, sizes.epochs):  # twice, because the first loads kernels
        with tempfile.TemporaryDirectory() as scratch:
            started = time.perf_counter()
            params = sizes.params.model_copy(update={"epochs": epochs})
            train_vae(coordinates, basis, params, Path(scratch) / "checkpoint.pt", accelerator)
            spent[epochs] = time.perf_counter() - started
    return (spent[sizes.epochs] - spent[1]) / (sizes.epochs - 1)


def seconds_of_pythae(sizes: Sizes) -> float:
    """Seconds of an epoch in pythae's `BaseTrainer`: the mean of all but the first.

    Raises:
        ImportError: pythae is not installed.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig
    from pythae.trainers.training_callbacks import TrainingCallback

    basis = basis_of(sizes)
    space = VAESpace(sizes.latent_dim, basis.layout, basis.kind, sizes.basis, sizes.width, 1)
    space.basis.load_state_dict(basis.state_dict())

    class Encoder(BaseEncoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.space = space

        def forward(self, x: torch.Tensor) -> ModelOutput:
            mean, log_variance = self.space.posterior(x)
            return ModelOutput(embedding=mean, log_covariance=log_variance)

    class Decoder(BaseDecoder):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.space = space

        def forward(self, z: torch.Tensor) -> ModelOutput:
            return ModelOutput(reconstruction=self.space.decode_coordinates(z))

    ends: list[float] = []

    class Clock(TrainingCallback):
        def on_epoch_end(self, training_config, **kwargs) -> None:
            ends.append(time.perf_counter())
            if len(ends) == sizes.epochs:
                raise _EnoughEpochs

    train, validation = (
        BaseDataset(rows, torch.zeros(len(rows))) for rows in map(data_of(sizes).get, ("train", "validation"))
    )
    with tempfile.TemporaryDirectory() as out:
        config = BaseTrainerConfig(
            output_dir=out,
            num_epochs=sizes.epochs,
            per_device_train_batch_size=sizes.batch,
            per_device_eval_batch_size=len(validation),
            optimizer_cls="AdamW",
            optimizer_params={"weight_decay": sizes.params.weight_decay},
            learning_rate=sizes.params.lr,
            no_cuda=device().type == "cpu",
        )
        model = VAE(VAEConfig((sizes.basis,), sizes.latent_dim), Encoder(), Decoder())
        trainer = BaseTrainer(model, train, validation, config, [Clock()])
        with suppress(_EnoughEpochs):
            trainer.train()
    return (ends[-1] - ends[0]) / (len(ends) - 1)
