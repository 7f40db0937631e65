"""What a latent space over weight vectors is, how it is fitted, and what the pipeline knows of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import torch
from torch import Tensor, nn

from w2wpp.diffusion.denoising import GenerateParams
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.settings import Section
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.weights import Weights
from w2wpp.spaces.prior import StandardNormal

Settings = TypeVar("Settings", bound=Section)
Space = TypeVar("Space", bound="WeightSpace")

DRAWN = 256  # people whose weights' spread is taken for that of all
LEAST_SPREAD = 1e-5  # of the widest weight's, below which a difference is one of rounding
SPACE, BASIS = "space.safetensors", "basis.safetensors"  # files of a fitted space


class WeightSpace(nn.Module):
    """A space of LoRAs: z from the prior, in k dimensions, decodes to the weight vector of a person.

    Attributes:
        kind: name of the class in files.
        latent_dim: k.
        layout: the layout of its weight vectors; d = layout.dimension.
        prior: of z.
        scales: float32 [k], length of a step of 1 along each direction in the space's metric; of a VAE, on its linear
            path.
        file: that it was read from; None of one that was made.
    """

    kind: str
    file: Path | None = None
    if TYPE_CHECKING:  # nn.Module refuses a buffer that has the name of a property

        @property
        def scales(self) -> Tensor: ...

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__()
        self.latent_dim = latent_dim
        self.layout = layout
        self.prior = StandardNormal(latent_dim)

    def encode(self, weights: Tensor) -> Tensor:
        """Weight vectors [n, d] float32 to latents [n, k]."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents [n, k] to weight vectors [n, d] float32; differentiable."""
        raise NotImplementedError

    @torch.no_grad()
    def weight_spread(self) -> Tensor:
        """Standard deviation float32 [d] of each weight over people of the prior, from `DRAWN` of them.

        It is 0 where all people of the space have the same weight, such as in a frozen A.
        """
        z = self.prior.sample(DRAWN, torch.Generator().manual_seed(0)).to(self.scales)
        spread = self.decode(z).std(0)
        return torch.where(spread > LEAST_SPREAD * spread.max(), spread, 0.0)

    def config(self) -> dict:
        """The JSON-able arguments, beside the layout, that `load_space` builds the space anew from."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the space as one safetensors file, read again by `load_space`."""
        meta = {"kind": self.kind, "config": self.config(), "layout": self.layout.to_meta()}
        write_pack(Path(path), self.state_dict(), meta)


@dataclass(frozen=True)
class FitContext:
    """What a space is fitted with besides the zoo's weight vectors.

    Attributes:
        seed: of everything that is drawn.
        base: folder of the base model.
        weights: folder of the weight vectors.
        spaces: folder with a sub-folder for each space that is fitted already.
        scratch: folder for resuming.
        drawing: how the base model draws pictures.
    """

    seed: int
    base: Path
    weights: Path
    spaces: Path
    scratch: Path
    drawing: GenerateParams


@dataclass(frozen=True)
class Fitted:
    """A fitted space and what its fit leaves besides.

    Attributes:
        space: the space.
        basis: a larger linear space that other spaces may build on, if there is one.
        records: JSON-able facts by file name, such as "training.json".
    """

    space: WeightSpace
    basis: WeightSpace | None
    records: dict[str, dict]


@dataclass(frozen=True)
class SpaceMethod(Generic[Settings]):
    """A way to make a space: one entry of the registry, from which pipeline, evaluation and report follow.

    Attributes:
        name: in paths, settings and metrics, such as "pca".
        title: in sentences, such as "PCA".
        label: in tables and figures, such as "PCA (w2w)".
        color: in figures, as matplotlib has it.
        settings: the settings class of the section `name`.
        fit: (weights, settings, latent dimension, context) -> what is fitted; None on all processes but the main one.
        kinds: the classes of space that `fit` may give.
    """

    name: str
    title: str
    label: str
    color: str
    settings: type[Settings]
    fit: Callable[[Weights, Settings, int, FitContext], Fitted | None]
    kinds: tuple[type[WeightSpace], ...]


def read_space(path: str | Path, kinds: Mapping[str, type[Space]]) -> Space:
    """Read a space that `WeightSpace.save` wrote, frozen and in evaluation mode.

    Args:
        kinds: the classes that it may be of, by name.

    Raises:
        InputError: the file is missing, corrupt, of an unknown kind, or its tensors do not fit its configuration.
    """
    tensors, meta = read_pack(Path(path))
    if meta.get("kind") not in kinds:
        raise InputError(str(path), "kind", f"unknown space {meta.get('kind')!r}", f"Known: {', '.join(kinds)}")
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(path))
    try:
        space = kinds[meta["kind"]](layout=layout, **meta["config"])
        space.load_state_dict(tensors)
    except (RuntimeError, TypeError, KeyError) as error:
        raise InputError(
            str(path),
            "config",
            f"the tensors do not fit it ({' '.join(str(error).split())[:200]})",
            "Fit the space again",
        ) from error
    space.file = Path(path).absolute()
    return space.requires_grad_(False).eval()


def check_latent_dim(settings: type[Section] | None, latent_dim: int, people: int, dimension: int) -> None:
    """Refuse a latent dimension that `people` training vectors of `dimension` numbers cannot fill.

    Raises:
        ArgumentError: naming `latent_dim` of `settings` and the range.
    """
    limit = min(people - 1, dimension)
    if not 1 <= latent_dim <= limit:
        raise ArgumentError(
            settings,
            "latent_dim",
            f"{latent_dim} is more than the data allow",
            f"Choose 1 .. {limit}: there are {people} training LoRAs of {dimension} weights",
        )
