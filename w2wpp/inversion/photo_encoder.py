"""The photo encoder: a linear guess of a person's latent from one photo, learned from photos of zoo people."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.pipeline import encode_images
from w2wpp.files.settings import Positive, Section, Whole
from w2wpp.files.storage import read_pack, write_pack

FOLDS = 4
LEAST_VARIANCE = 0.05  # least spread, so that the search can move along every direction


class PhotoEncoderParams(Section):
    """The encoder of a photo: start and step sizes of the search."""

    photos: Whole = 4
    """Training photos of each zoo person, beside their mirror images; 0 starts every search at the mean."""
    ridge: Positive = 0.1
    """Ridge penalty per photo."""


class LatentPrior(NamedTuple):
    """N(mean, spread^2) of people's z, independent along the directions: mean [n, k], spread [k] in (0, 1]."""

    mean: Tensor
    spread: Tensor


@dataclass(frozen=True)
class PhotoEncoder:
    """z given one photo of a person is N(offset + matrix^T latents, spread^2), where N(0, I) is the space's prior.

    Attributes:
        matrix: float32 [c * h * w, k].
        offset: float32 [k].
        spread: float32 [k] in (0, 1]: uncertainty of the guess, in standard deviations of the space's prior.
    """

    matrix: Tensor
    offset: Tensor
    spread: Tensor

    def __call__(self, latents: Tensor) -> LatentPrior:
        """The guess from scaled latents [n, c, h, w] of one photo of each person."""
        return LatentPrior(
            latents.flatten(1) @ self.matrix.to(latents) + self.offset.to(latents), self.spread.to(latents)
        )

    def of_photos(self, latents: Tensor) -> LatentPrior:
        """What scaled latents [n, photos, c, h, w] of several photos tell of each person: the mean of the guesses."""
        guesses = self(latents.flatten(0, 1))
        return guesses._replace(mean=guesses.mean.unflatten(0, latents.shape[:2]).mean(1))

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""
        write_pack(path, {"matrix": self.matrix, "offset": self.offset, "spread": self.spread})

    @classmethod
    def load(cls, path: Path) -> "PhotoEncoder":
        """Read a file of `save`.

        Raises:
            InputError: the file is missing or corrupt, or not a photo encoder.
        """
        tensors, _ = read_pack(path, ("matrix", "offset", "spread"))
        return cls(tensors["matrix"], tensors["offset"], tensors["spread"])


def uninformed(numbers: int, latent_dim: int) -> PhotoEncoder:
    """The encoder that ignores photos of `numbers` latent numbers: every guess is the prior N(0, I)."""
    return PhotoEncoder(torch.zeros(numbers, latent_dim), torch.zeros(latent_dim), torch.ones(latent_dim))


def mirrored_latents(pipe: StableDiffusionPipeline, photos: Tensor) -> Tensor:
    """Scaled latents float32 [n, 2 p, c, h, w] of photos uint8 [n, p, H, W, 3] and then of their mirror images."""
    both = torch.cat([photos, photos.flip(3)], 1)
    return encode_images(pipe, both.flatten(0, 1)).unflatten(0, both.shape[:2])


def fit_photo_encoder(latents: Tensor, z: Tensor, ridge: float) -> PhotoEncoder:
    """Ridge regression from photos to z, shrunk along each direction by its accuracy on people left out.

    Zhu et al. 2016 (arXiv 1609.03552) start the inversion of generative adversarial networks by an encoder.

    Args:
        latents: scaled latents [n, p, c, h, w] of p photos of each of n people.
        z: latents of these people, [n, k].
        ridge: penalty per photo, of standardised latents.
    """
    # Of the extra `pipeline`; a fitted photo encoder does not need it.
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n, photos = latents.shape[:2]
    x, y = latents.flatten(2).flatten(0, 1).double().numpy(), z.double().repeat_interleave(photos, 0).numpy()
    model = make_pipeline(StandardScaler(), Ridge(ridge * len(x)))
    guess = cross_val_predict(model, x, y, groups=np.arange(n).repeat(photos), cv=GroupKFold(min(FOLDS, n)))
    slope = np.clip((guess * y).sum(0) / np.square(guess).sum(0).clip(1e-12), 0, 1)
    left = np.square(y - slope * guess).mean(0).clip(LEAST_VARIANCE, 1)
    scaler, regression = model.fit(x, y)
    matrix = (slope[:, None] * regression.coef_ / scaler.scale_).T
    offset = slope * regression.intercept_ - scaler.mean_ @ matrix
    return PhotoEncoder(
        *(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (matrix, offset, np.sqrt(left)))
    )
