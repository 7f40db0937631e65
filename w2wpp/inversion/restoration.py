"""What a picture from outside shows, as a photo would show it: latents of that photo, and how sure each of them is.

The search of an inversion compares what a model draws with the latents of a photo, number by number, so that a drawing
or a covered face would be taken for what the person looks like. A restorer, learned from photos and altered copies of
them, says what the photo's latents were (their mean given the picture) and with which variance: photo encoder and
search see these, and the search goes by each as far as it is sure. A restorer knows no space, and serves all alike.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.pipeline import to_pixels
from w2wpp.files.errors import InputError
from w2wpp.files.settings import Count, Section
from w2wpp.files.storage import read_pack, write_pack

LEAST_VARIANCE = 1e-3  # of a standardised latent


class RestorerParams(Section):
    """The network that tells from a picture of any kind what a photo would show."""

    people: Annotated[int, Field(ge=8)] = 4000
    """Rendered people to learn from."""
    photos: Count = 3
    """Photos per person."""
    steps: Count = 3000
    """Training steps."""


class Restored(NamedTuple):
    """Latents of the photo behind each of n pictures.

    Attributes:
        latents: their mean given the picture, scaled latents [n, c, h, w].
        confidence: the share of each latent's variance over photos that the picture explains, [n, c, h, w] in [0, 1].
    """

    latents: Tensor
    confidence: Tensor

    @property
    def mask(self) -> Tensor:
        """How much each latent counts in a search, [n, 1, c, h, w] as of `EncodedPhotos`: the confidence squared.

        So a search among latents that nobody is sure of stays near the photo encoder's guess.
        """
        return self.confidence.square()[:, None]


class MixerBlock(nn.Module):
    """Mixes positions, then channels, of [n, positions, width] (Tolstikhin et al. 2021, arXiv 2105.01601)."""

    def __init__(self, positions: int, width: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(nn.Linear(positions, 2 * positions), nn.GELU(), nn.Linear(2 * positions, positions))
        self.within = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.norm1(x).mT).mT
        return x + self.within(self.norm2(x))


class Restorer(nn.Module):
    """Pictures to the latents of the photos behind them; faces are framed as in training.

    Args:
        channels: c of the codec's latents; side: h and w of them, an eighth of the picture's.
        width: channels of the network; blocks: how many `MixerBlock` there are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int, side: int, width: int = 128, blocks: int = 4):
        super().__init__()
        self.shape = {"channels": channels, "side": side, "width": width, "blocks": blocks}
        self.stem = nn.Sequential(
            nn.Conv2d(3, width // 4, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(width // 4, width // 2, 4, 2, 1),
            nn.GELU(),
            nn.Conv2d(width // 2, width, 4, 2, 1),
        )
        self.blocks = nn.Sequential(*(MixerBlock(side * side, width) for _ in range(blocks)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * channels))
        self.register_buffer("mean", torch.zeros(channels, side, side))
        self.register_buffer("std", torch.ones(channels, side, side))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance [n, c, h, w] of standardised latents, for pictures [n, 3, 8 h, 8 w] in [-1, 1]."""
        x = self.stem(pixels)
        read = self.head(self.blocks(x.flatten(2).mT)).mT.unflatten(2, x.shape[2:])
        mean, log_variance = read.chunk(2, 1)
        return mean, log_variance

    @torch.no_grad()
    def restore(self, pictures: Tensor, latents: Tensor) -> Restored:
        """What photos behind pictures would show.

        Where a picture's own latent is what the restorer expects of the photo's, it is taken for that: as probable as
        N(mean, variance) makes it, against N(mean, variance + 1) of a latent that was altered, and as far as there is
        something to expect (1 - variance). So a photo stays nearly what it is, and so does what is visible of a face.

        Args:
            pictures: uint8 [n, 8 h, 8 w, 3].
            latents: scaled latents [n, c, h, w] of the pictures themselves.
        """
        parts = [self(to_pixels(chunk.to(self.mean.device))) for chunk in pictures.split(256)]
        mean, log_variance = (torch.cat(each) for each in zip(*parts, strict=True))
        variance = log_variance.exp().clamp(LEAST_VARIANCE, 1)
        off = (latents.to(mean) - self.mean) / self.std - mean
        altered = variance + 1
        odds = (altered / variance).log() - off.square() * (1 / variance - 1 / altered)
        own = torch.sigmoid(odds / 2) * (1 - variance)
        left = (1 - own) * (variance + own * off.square())
        return Restored(self.mean + self.std * (mean + own * off), (1 - left).clamp(0, 1))


def train_restorer(
    photos: Tensor,
    latents: Tensor,
    alter: Callable[[Tensor, torch.Generator], Tensor],
    steps: int,
    seed: int,
    batch: int = 32,
    lr: float = 2e-3,
) -> Restorer:
    """Learn to undo alterations of photos uint8 [n, H, W, 3] with scaled latents [n, c, h, w].

    The mean is fitted by its squared error and the variance by the likelihood of what the mean leaves, so that the mean
    is that of the latents, however uncertain, and any linear function of it (a photo encoder's guess) is unbiased.

    Args:
        alter: makes pictures uint8 [b, H, W, 3] of photos of the same shape.
    """
    torch.manual_seed(seed)
    restorer = Restorer(latents.shape[1], latents.shape[2])
    restorer.mean.copy_(latents.mean(0))
    restorer.std.copy_(latents.std(0).clamp_min(1e-3))
    targets = (latents - restorer.mean) / restorer.std

    def loss_of(step: int) -> Tensor:
        generator = step_generator(seed, step)
        rows = torch.randint(len(photos), (batch,), generator=generator)
        mean, log_variance = restorer(to_pixels(alter(photos[rows], generator)))
        error = (mean - targets[rows]).square()
        likelihood = F.gaussian_nll_loss(
            mean.detach(), targets[rows], log_variance.exp().clamp_min(LEAST_VARIANCE), full=False
        )
        return error.mean() + likelihood

    rate = partial(cosine_rate, steps=steps, lr=lr)
    train("restorer", loss_of, torch.optim.AdamW(restorer.parameters(), lr, weight_decay=0.05), rate, steps, ema=0.999)
    return restorer.requires_grad_(False).eval()


def save_restorer(path: Path, restorer: Restorer) -> None:
    """Write a restorer to one safetensors file."""
    write_pack(path, restorer.state_dict(), restorer.shape)


def load_restorer(path: Path) -> Restorer:
    """Read what `save_restorer` wrote.

    Raises:
        InputError: the file is missing or corrupt, or not a restorer.
    """
    tensors, shape = read_pack(path, ("mean", "std"))
    try:
        restorer = Restorer(**shape)
        restorer.load_state_dict(tensors)
    except (TypeError, RuntimeError) as error:
        raise InputError(
            str(path),
            None,
            "not a restorer of this version",
            "Run `dvc repro -f restorer`, or `git checkout` the shipped one",
        ) from error
    return restorer.requires_grad_(False).eval()


def unexplained(restorer: Restorer, pictures: Tensor, own: Tensor, latents: Tensor) -> float:
    """Share of the variance of photos' latents that `restore` gets wrong from pictures made of these photos.

    Args:
        pictures: uint8 [n, 8 h, 8 w, 3].
        own: scaled latents [n, c, h, w] of the pictures; latents: of the photos.
    """
    error = (restorer.restore(pictures, own).latents.to(latents) - latents) / restorer.std.to(latents)
    return error.square().mean().item()
