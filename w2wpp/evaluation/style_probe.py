"""A probe of style: is a picture a photo, or a drawing, a painting, a print of one?"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.pipeline import encode_images, reconstruct, to_images
from w2wpp.files.storage import read_pack, write_pack

PHOTO = "photo"  # the first style of every probe
INVERSE_PENALTY = 0.03  # of logistic regression, on standardised latents


@dataclass(frozen=True)
class StyleProbe:
    """Which style a picture has, by a linear function of its codec latents.

    Attributes:
        styles: names, `PHOTO` first.
        matrix: float32 [c * h * w, styles].
        offset: float32 [styles].
    """

    styles: list[str]
    matrix: Tensor
    offset: Tensor

    def __call__(self, latents: Tensor) -> Tensor:
        """The place in `styles` that pictures with scaled latents [n, c, h, w] have: int64 [n]."""
        return (latents.flatten(1).to(self.matrix) @ self.matrix + self.offset).argmax(1)

    def photo_share(self, latents: Tensor) -> Tensor:
        """Share of the pictures of n people, with scaled latents [n, g, c, h, w], that are taken for photos [n]."""
        return (self(latents.flatten(0, 1)) == 0).double().unflatten(0, latents.shape[:2]).mean(1)

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""
        write_pack(path, {"matrix": self.matrix, "offset": self.offset}, {"styles": self.styles})

    @classmethod
    def load(cls, path: Path) -> "StyleProbe":
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or corrupt, or not a probe of style.
        """
        tensors, meta = read_pack(path, ("matrix", "offset"))
        return cls(meta["styles"], tensors["matrix"], tensors["offset"])


def drawn_latents(pipe: StableDiffusionPipeline, pictures: Tensor) -> Tensor:
    """Scaled latents [n, c, h, w] of pictures uint8 [n, h, w, 3], through the codec as all drawn ones have gone."""
    return encode_images(pipe, to_images(reconstruct(pipe, pictures)))


def fit_style_probe(latents: dict[str, Tensor], inverse_penalty: float = INVERSE_PENALTY) -> StyleProbe:
    """Logistic regression on scaled latents [n, c, h, w] of photos (`PHOTO`) and of pictures of each other style."""
    # Of the extra `pipeline`; a probe that is there does without.
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    styles = [PHOTO, *sorted(latents.keys() - {PHOTO})]
    x = torch.cat([latents[style].flatten(1) for style in styles]).double().numpy()
    y = np.repeat(np.arange(len(styles)), [len(latents[style]) for style in styles])
    scaler = StandardScaler().fit(x)
    found = LogisticRegression(C=inverse_penalty, max_iter=1000).fit(scaler.transform(x), y)
    matrix = (found.coef_ / scaler.scale_).T
    offset = found.intercept_ - scaler.mean_ @ matrix
    if len(styles) == 2:  # of two classes, sklearn has the second one's logit alone
        matrix, offset = np.hstack([np.zeros_like(matrix), matrix]), np.append(0.0, offset)
    return StyleProbe(styles, *(torch.from_numpy(np.ascontiguousarray(part, np.float32)) for part in (matrix, offset)))
