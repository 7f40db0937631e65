"""A probe that reads factors, pose and light off a picture, trained on renders that went through the codec."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.pipeline import random_pixels, to_pixels
from w2wpp.files.errors import InputError
from w2wpp.files.settings import Count, Section
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.world.factors import FACTORS, QUANTITIES, Factor
from w2wpp.world.populations import Person

IGNORED = -100


class ProbeParams(Section):
    """The probe: a classifier of factors in pictures, to test whether prompts are obeyed."""

    people: Annotated[int, Field(ge=2)] = 4000
    """Rendered people to train on."""
    photos: Count = 3
    """Photos per person."""
    steps: Count = 2500
    """Training steps."""


class Probe(nn.Module):
    """A small convolutional network with one linear head per factor and quantity, on pictures [b, 3, h, w] in [-1, 1].

    Mirroring a picture changes the sign of all quantities.
    """

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        for fan_in, fan_out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
            layers += [nn.Conv2d(fan_in, fan_out, 4, stride=2, padding=1), nn.GroupNorm(8, fan_out), nn.SiLU()]
        self.trunk = nn.Sequential(
            *layers,
            nn.Conv2d(4 * width, width, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Dropout(0.3),
            nn.LazyLinear(128),
            nn.SiLU(),
        )
        self.heads = nn.ModuleDict(
            {name: nn.Linear(128, len(factor.choices)) for name, factor in FACTORS.items()}
            | {name: nn.Linear(128, 1) for name in QUANTITIES}
        )

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits [b, choices] per factor, and value / scale [b, 1] per quantity."""
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor, factor: str) -> Tensor:
        """The most likely choice of a factor on uint8 images [n, h, w, 3]: int64 [n]."""
        return torch.cat([self(to_pixels(chunk))[factor].argmax(1) for chunk in images.split(256)])

    @torch.no_grad()
    def shares(self, images: Tensor) -> dict[str, Tensor]:
        """Probability of every choice of each factor on uint8 images [n, h, w, 3]: float32 [n, choices]."""
        outputs = [self(to_pixels(chunk)) for chunk in images.split(256)]
        return {name: torch.cat([each[name].softmax(1) for each in outputs]) for name in FACTORS}

    @torch.no_grad()
    def read_all(self, images: Tensor) -> dict[str, Tensor]:
        """What `read` gives of every factor int64 [n], and every quantity in degrees float32 [n]."""
        outputs = [self(to_pixels(chunk)) for chunk in images.split(256)]
        return {name: torch.cat([each[name].argmax(1) for each in outputs]) for name in FACTORS} | {
            name: torch.cat([each[name][:, 0] for each in outputs]) * quantity.scale
            for name, quantity in QUANTITIES.items()
        }

    def measure(self, images: Tensor, names: Iterable[str] = tuple(QUANTITIES)) -> dict[str, Tensor]:
        """Quantities in degrees, float32 [n] by name, of uint8 images [n, h, w, 3]."""
        read = self.read_all(images)
        return {name: read[name] for name in names}


def labels_of(people: list[Person]) -> dict[str, Tensor]:
    """Labels [people * photos] of every photo.

    Returns:
        int64 per factor, the index of its choice or `IGNORED` where a photo shows none of them; float32 degrees per
        quantity.
    """

    def index(factor: Factor, value: str) -> int:
        return factor.choices.index(value) if value in factor.choices else IGNORED

    photos = [(identity, nuisance) for identity, nuisances in people for nuisance in nuisances]
    return {
        name: torch.tensor([index(factor, factor.label(*photo)) for photo in photos])
        for name, factor in FACTORS.items()
    } | {
        name: torch.tensor([quantity.value(nuisance) for _, nuisance in photos])
        for name, quantity in QUANTITIES.items()
    }


def train_probe(
    images: Tensor, labels: dict[str, Tensor], steps: int, seed: int, batch: int = 64, lr: float = 2e-3
) -> Probe:
    """Fit a probe to uint8 photos [n, h, w, 3] and their `labels_of`, mirroring half of what it sees.

    The loss is the sum of all factors' cross-entropies and of all quantities' squared errors in units of their scales.
    """
    torch.manual_seed(seed)
    probe = Probe()
    probe(to_pixels(images[:2]))

    def loss_of(step: int) -> Tensor:
        rows, mirrored, pixels = random_pixels(images, batch, step_generator(seed, step))
        read = probe(pixels)
        loss = torch.zeros(())
        for name in FACTORS:
            loss = loss + F.cross_entropy(read[name], labels[name][rows], ignore_index=IGNORED, reduction="sum")
        for name, quantity in QUANTITIES.items():
            truth = torch.where(mirrored, -labels[name][rows], labels[name][rows]) / quantity.scale
            loss = loss + F.mse_loss(read[name][:, 0], truth, reduction="sum")
        return loss / batch

    train(
        "probe",
        loss_of,
        torch.optim.AdamW(probe.parameters(), lr, weight_decay=0.05),
        partial(cosine_rate, steps=steps, lr=lr),
        steps,
    )
    return probe.requires_grad_(False).eval()


def accuracy(probe: Probe, images: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy of the probe, per factor, on photos uint8 [n, h, w, 3] with labels [n].

    Of the photos that show a value which prompts request (any value, of factors that prompts do not name), the share
    that is read right; the mean over these values, so that rare ones count as much as they do in `obedience`.
    """
    shares = {}
    for name in [name for name in FACTORS if name in labels]:
        truth, factor = labels[name], FACTORS[name]
        right = probe.read(images, name) == truth
        requested = [truth == factor.choices.index(value) for value in factor.requests or factor.choices]
        each = [right[shown].double().mean().item() for shown in requested if shown.any()]
        if each:
            shares[name] = sum(each) / len(each)
    return shares


def quantity_errors(probe: Probe, images: Tensor, labels: dict[str, Tensor]) -> dict[str, float]:
    """Root mean square error in degrees of each quantity, on photos uint8 [n, h, w, 3] with `labels_of` them."""
    read = probe.measure(images)
    return {name: (read[name] - labels[name]).square().mean().sqrt().item() for name in QUANTITIES}


def obedience(
    probe: Probe, factors: dict[str, Factor], draw: Callable[[list[str]], Tensor], subject: str
) -> dict[str, float]:
    """Share of pictures that obey their prompt, judged by the probe, per factor.

    Args:
        draw: returns pictures uint8 [prompts, n, h, w, 3] of prompts.
        subject: of the prompts, such as "a" or "sks".
    """
    requests = [
        (name, factor.choices.index(value), factor.prompt(value, subject))
        for name, factor in factors.items()
        for value in factor.requests
    ]
    pictures = draw([prompt for _, _, prompt in requests])
    shown: dict[str, list[float]] = {name: [] for name in factors}
    for (name, number, _), drawn in zip(requests, pictures, strict=True):
        shown[name].append((probe.read(drawn, name) == number).double().mean().item())
    return {name: sum(shares) / len(shares) for name, shares in shown.items()}


def save_probe(path: Path, probe: Probe) -> None:
    """Write a probe as one safetensors file."""
    write_pack(path, probe.state_dict())


def load_probe(path: Path, size: int) -> Probe:
    """Read a file of `save_probe`, for pictures of `size` pixels.

    Raises:
        InputError: the file is missing, corrupt, or no probe for such pictures.
    """
    probe = Probe()
    probe(torch.zeros(1, 3, size, size))
    try:
        probe.load_state_dict({key: tensor.float() for key, tensor in read_pack(path)[0].items()})
    except RuntimeError as error:
        raise InputError(
            str(path),
            None,
            f"not a probe for pictures of {size} pixels",
            "Run `dvc repro -f probe`, or `git checkout` the shipped one",
        ) from error
    return probe.requires_grad_(False).eval()
