"""Measure an epoch of the VAE, in this project's training and in pythae's, with the same networks and random data.

Both see the same coordinates in batches of the same size, take a step of AdamW for each, and validate. pythae is no
dependency: `pip install --no-deps pythae` in an environment that has w2wpp. The results are vae_epoch.json and .md.
"""

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from measuring import ROOT, in_rounds, keep, machine, on_machine, plain_layout
from torch import nn

from w2wpp.compute.runtime import device
from w2wpp.report.tables import markdown_table
from w2wpp.run.stage import run_stage
from w2wpp.spaces.affine import PCASpace
from w2wpp.spaces.vae_space import VAESpace
from w2wpp.spaces.vae_training import VAEParams, train_vae

GOAL = 2.0


class Sizes(NamedTuple):
    """People to train on, a sixteenth as many to validate on, and the sizes of the networks."""

    people: int
    basis: int
    width: int
    latent_dim: int
    batch: int = 256

    def params(self, epochs: int) -> VAEParams:
        """Settings whose training never stops early."""
        return VAEParams(latent_dim=self.latent_dim, width=self.width, batch=self.batch, epochs=epochs, patience=epochs)


SIZES = {
    "shipped": Sizes(people=2200, basis=256, width=4096, latent_dim=64),
    "large": Sizes(people=16_384, basis=4096, width=4096, latent_dim=1000),
    "miniature": Sizes(people=64, basis=16, width=16, latent_dim=4, batch=16),
}


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
    space = PCASpace(sizes.basis, plain_layout(sizes.basis))
    space.scales.copy_(torch.arange(1, sizes.basis + 1) ** -0.5)
    return space


def train_here(sizes: Sizes, epochs: int) -> None:
    """Train for some epochs in `train_vae`."""
    with tempfile.TemporaryDirectory() as scratch:
        accelerator = Accelerator(cpu=device().type == "cpu", mixed_precision="no")
        checkpoint = Path(scratch) / "checkpoint.pt"
        train_vae(data_of(sizes), basis_of(sizes), sizes.params(epochs), checkpoint, accelerator)


def train_with_pythae(sizes: Sizes, epochs: int) -> None:
    """Train for some epochs in pythae's `BaseTrainer`.

    Raises:
        ImportError: pythae is not installed.
    """
    from pythae.data.datasets import BaseDataset
    from pythae.models import VAE, VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder
    from pythae.trainers import BaseTrainer, BaseTrainerConfig

    basis, params = basis_of(sizes), sizes.params(epochs)
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

    rows = data_of(sizes)
    train, validation = (BaseDataset(rows[split], torch.zeros(len(rows[split]))) for split in ("train", "validation"))
    with tempfile.TemporaryDirectory() as out:
        config = BaseTrainerConfig(
            output_dir=out,
            num_epochs=epochs,
            per_device_train_batch_size=sizes.batch,
            per_device_eval_batch_size=len(validation),
            optimizer_cls="AdamW",
            optimizer_params={"weight_decay": params.weight_decay},
            learning_rate=params.lr,
            no_cuda=device().type == "cpu",
        )
        model = VAE(VAEConfig((sizes.basis,), sizes.latent_dim), Encoder(), Decoder())
        BaseTrainer(model, train, validation, config).train()


TRAININGS: dict[str, Callable[[Sizes, int], None]] = {"here": train_here, "pythae": train_with_pythae}


def installed() -> list[str]:
    """The names of `TRAININGS` that can be measured here."""
    return [name for name in TRAININGS if name == "here" or find_spec(name)]


def compare(sizes: Sizes, epochs: int, rounds: int, known: list[str]) -> dict:
    """Seconds and CPU seconds of an epoch, by training: what further epochs add to one.

    Args:
        epochs: of the longer training, at least 2.
        known: which trainings, see `installed`.
    """
    for name in known:
        TRAININGS[name](sizes, 1)  # loads kernels
    works = {f"{name} {count}": partial(TRAININGS[name], sizes, count) for name in known for count in (1, epochs)}
    runs = in_rounds(works, rounds)
    return {
        "epoch": {
            name: {
                key: (runs[f"{name} {epochs}"][key] - runs[f"{name} 1"][key]) / (epochs - 1)
                for key in ("seconds", "cpu_seconds")
            }
            for name in known
        },
        "sizes": sizes._asdict(),
        "epochs": epochs,
        "rounds": rounds,
        **machine(),
    }


def times(result: dict) -> float | None:
    """CPU seconds of pythae's epoch over those of the one here, on a GPU seconds; None without pythae."""
    if "pythae" not in result["epoch"]:
        return None
    key = "cpu_seconds" if result["device"] == "the CPU" else "seconds"
    return result["epoch"]["pythae"][key] / max(result["epoch"]["here"][key], 1e-9)


def markdown(result: dict) -> str:
    """The table, and whether the goal is met."""
    sizes, fewer = Sizes(**result["sizes"]), times(result)
    rows = [
        (name, *(f"{each[key]:.3f}" for key in ("seconds", "cpu_seconds"))) for name, each in result["epoch"].items()
    ]
    lines = [
        "# An epoch of the VAE",
        "",
        f"{sizes.people:,} people in batches of {sizes.batch}, {sizes.basis:,} coordinates, hidden layers of "
        f"{sizes.width:,}, {sizes.latent_dim:,} latent dimensions; {on_machine(result)}. An epoch is what "
        f"{result['epochs'] - 1} further ones add to the first; median of {result['rounds']} rounds.",
        "",
        *markdown_table(["training", "seconds an epoch", "CPU seconds an epoch"], rows),
        "",
        "pythae is not installed."
        if fewer is None
        else f"pythae takes {fewer:.1f} times as long. Goal: {GOAL:g} times, {'met' if fewer >= GOAL else 'missed'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="shipped")
    parser.add_argument("--epochs", type=int, default=6, help="of the longer of two trainings")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    args = parser.parse_args()
    result = compare(SIZES[args.size], args.epochs, args.rounds, installed())
    keep(args.out, "vae_epoch", result, markdown(result))


if __name__ == "__main__":
    run_stage(main)
