"""A classifier of factors in pictures, trained on renders, that tests whether generated pictures obey their prompts."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, cast

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
from w2wpp.world.people import BACKGROUNDS, EXPRESSIONS, HAIR_COLORS, Identity, Nuisance
from w2wpp.world.populations import Person

IGNORED = -100


class ProbeParams(Section):
    """The probe: a classifier of factors in pictures, to test whether prompts are obeyed."""

    people: Annotated[int, Field(ge=2)] = 3000
    """Rendered people to train on."""
    photos: Count = 3
    """Photos per person."""
    steps: Count = 2500
    """Training steps."""


@dataclass(frozen=True)
class Factor:
    """A factor that a prompt can ask for and a picture can show.

    Attributes:
        choices: the values that the probe tells apart.
        prompted: those of them that prompts ask for. The rest are there so that no picture is read as one of these for
            want of another word.
        label: the value that a person in a photo has; another text than any of `choices` where none fits.
        prompt: the prompt that asks for a value of a subject, such as "a" or "sks".
    """

    choices: tuple[str, ...]
    prompted: tuple[str, ...]
    label: Callable[[Identity, Nuisance], str]
    prompt: Callable[[str, str], str]


def _sex(identity: Identity, _: Nuisance) -> str:
    return "man" if identity.gender < 0.35 else "woman" if identity.gender > 0.65 else "between"


def _age(identity: Identity, _: Nuisance) -> str:
    limits = (("young", 0, 0.3), ("middle-aged", 0.4, 0.7), ("old", 0.82, 1.01))
    return next((name for name, low, high in limits if low <= identity.age < high), "between")


PERSON_FACTORS = {
    "sex": Factor(("man", "woman"), ("man", "woman"), _sex, lambda value, _: f"a photo of a {value}"),
    "age": Factor(
        ("young", "middle-aged", "old"),
        ("young", "old"),
        _age,
        lambda value, _: f"a photo of {'an' if value == 'old' else 'a'} {value} man",
    ),
    "hair": Factor(
        (*HAIR_COLORS, "bald"),
        tuple(HAIR_COLORS),
        lambda i, _: "bald" if i.hair_style == "bald" else i.hair_color,
        lambda value, _: f"a photo of a man with {value} hair",
    ),
}
PHOTO_FACTORS = {
    "expression": Factor(
        EXPRESSIONS,
        ("smiling", "surprised", "frowning"),
        lambda _, n: n.expression,
        lambda value, subject: f"a photo of {subject} person, {value}",
    ),
    "background": Factor(
        tuple(BACKGROUNDS),
        tuple(BACKGROUNDS),
        lambda _, n: n.background,
        lambda value, subject: f"a photo of {subject} person, on a {value} background",
    ),
}
FACTORS = PERSON_FACTORS | PHOTO_FACTORS


class Probe(nn.Module):
    """A small convolutional network with one linear head per factor, on pictures [b, 3, h, w] in [-1, 1]."""

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
        self.heads = nn.ModuleDict({name: nn.Linear(128, len(factor.choices)) for name, factor in FACTORS.items()})

    def forward(self, pixels: Tensor) -> dict[str, Tensor]:
        """Logits [b, choices] per factor."""
        features = self.trunk(pixels)
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def read(self, images: Tensor, factor: str) -> Tensor:
        """The most likely choice of a factor on uint8 images [n, h, w, 3]: int64 [n]."""
        return torch.cat([self(to_pixels(chunk))[factor].argmax(1) for chunk in images.split(256)])


def labels_of(people: list[Person]) -> dict[str, Tensor]:
    """int64 [people * photos] per factor: the index of its choice, `IGNORED` where a photo shows none of them."""

    def index(factor: Factor, value: str) -> int:
        return factor.choices.index(value) if value in factor.choices else IGNORED

    return {
        name: torch.tensor(
            [
                index(factor, factor.label(identity, nuisance))
                for identity, nuisances in people
                for nuisance in nuisances
            ]
        )
        for name, factor in FACTORS.items()
    }


def train_probe(
    images: Tensor, labels: dict[str, Tensor], steps: int, seed: int, batch: int = 64, lr: float = 2e-3
) -> Probe:
    """Fit a probe to uint8 photos [n, h, w, 3] and their labels [n] per factor; half of the inputs are mirrored."""
    torch.manual_seed(seed)
    probe = Probe()
    probe(to_pixels(images[:2]))

    def loss_of(step: int) -> Tensor:
        rows, pixels = random_pixels(images, batch, step_generator(seed, step))
        return (
            cast(
                Tensor,
                sum(
                    F.cross_entropy(logits, labels[name][rows], ignore_index=IGNORED, reduction="sum")
                    for name, logits in probe(pixels).items()
                ),
            )
            / batch
        )

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

    It is the mean recall over the values that prompts ask for, so rare values count as much as in `obedience`.
    """
    shares = {}
    for name, truth in labels.items():
        right = probe.read(images, name) == truth
        prompted = [truth == FACTORS[name].choices.index(value) for value in FACTORS[name].prompted]
        each = [right[shown].double().mean().item() for shown in prompted if shown.any()]
        if each:
            shares[name] = sum(each) / len(each)
    return shares


def obedience(
    probe: Probe, factors: dict[str, Factor], draw: Callable[[list[str]], Tensor], subject: str
) -> dict[str, float]:
    """Share of pictures that obey their prompt, judged by the probe, per factor.

    Args:
        draw: returns pictures uint8 [prompts, n, h, w, 3] of prompts.
        subject: of the prompts, such as "a" or "sks".
    """
    prompted = [
        (name, factor.choices.index(value), factor.prompt(value, subject))
        for name, factor in factors.items()
        for value in factor.prompted
    ]
    pictures = draw([prompt for _, _, prompt in prompted])
    shown: dict[str, list[float]] = {name: [] for name in factors}
    for (name, number, _), drawn in zip(prompted, pictures, strict=True):
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
