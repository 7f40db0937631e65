"""The interface of latent spaces over weight vectors, their fits, and their entries in the registry."""

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
from w2wpp.spaces.prior import Kernels, StandardNormal

Settings = TypeVar("Settings", bound=Section)
Space = TypeVar("Space", bound="WeightSpace")

SMOOTHING = 0.75  # of `WeightSpace.sample`
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
        donor_latents, donor_residuals: of q people, float32 [q, k] and float16 [q, d], see `keep_donors`; q is 0 unless
            that was called.
    """

    kind: str
    file: Path | None = None
    donor_latents: Tensor
    donor_residuals: Tensor
    if TYPE_CHECKING:  # nn.Module refuses a buffer with the name of a property

        @property
        def scales(self) -> Tensor: ...

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__()
        self.latent_dim = latent_dim
        self.layout = layout
        self.prior = StandardNormal(latent_dim)
        self.hold_donors(0)

    def encode(self, weights: Tensor) -> Tensor:
        """Weight vectors [n, d] float32 to latents [n, k]."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents [n, k] to weight vectors [n, d] float32; differentiable."""
        raise NotImplementedError

    def keep_donors(self, weights: Tensor) -> None:
        """Keep latents of these people, weight vectors [q, d], and what the space leaves out of them, for `sample`."""
        self.hold_donors(len(weights))
        self.donor_latents = self.encode(weights)
        self.donor_residuals = (weights - self.decode(self.donor_latents)).half()

    def complete(self, z: Tensor) -> Tensor:
        """Latents [n, k] to weight vectors [n, d] float32, with what the space leaves out of a LoRA.

        `decode` gives the LoRA that people of these latents have on average, who have less hair, fewer glasses and less
        of all else that varies than any of them. Here each takes the rest from the nearest donor ("hot deck", Andridge
        and Little 2010). Without donors the two are the same.
        """
        weights = self.decode(z)
        if not len(self.donor_latents):
            return weights
        return weights + self.donor_residuals[self.nearest_donors(z)].float()

    def nearest_donors(self, z: Tensor) -> Tensor:
        """Which donor is nearest to each of the latents [n, k] in the space's metric: int64 [n]."""
        return torch.cdist(z * self.scales, self.donor_latents * self.scales).argmin(1)

    def sample(self, n: int, generator: torch.Generator, smoothing: float = SMOOTHING) -> tuple[Tensor, Tensor]:
        """n people who never existed, drawn from `Kernels` around the donors; without donors from the prior.

        Args:
            smoothing: as of `Kernels`.

        Returns:
            The latents, and the weight vectors [n, d] that `complete` makes of them.
        """
        donors = self.donor_latents.cpu()
        density = Kernels(donors, smoothing) if len(donors) else self.prior
        z = density.sample(n, generator)
        return z, self.complete(z.to(self.scales.device)).cpu()

    def hold_donors(self, count: int) -> None:
        """Make room for donors, which `keep_donors` or a file then fills."""
        # Files of spaces without donors have no such tensors.
        kept = count > 0
        latents, residuals = torch.zeros(count, self.latent_dim), torch.zeros(count, self.layout.dimension)
        self.register_buffer("donor_latents", latents, persistent=kept)
        self.register_buffer("donor_residuals", residuals.half(), persistent=kept)

    @torch.no_grad()
    def weight_spread(self) -> Tensor:
        """Standard deviation float32 [d] of each weight over people of the prior, from `DRAWN` of them.

        It is 0 where all people of the space have the same weight, such as in a frozen A.
        """
        z = self.prior.sample(DRAWN, torch.Generator().manual_seed(0)).to(self.scales)
        spread = self.decode(z).std(0)
        return torch.where(spread > LEAST_SPREAD * spread.max(), spread, 0.0)

    def config(self) -> dict:
        """The JSON-able arguments, beside the layout, from which `load_space` constructs the space."""
        raise NotImplementedError

    def save(self, path: str | Path) -> None:
        """Write the space as one safetensors file for `load_space`."""
        meta = {"kind": self.kind, "config": self.config(), "layout": self.layout.to_meta()}
        write_pack(Path(path), self.state_dict(), meta)


@dataclass(frozen=True)
class FitContext:
    """Inputs of a fit besides the zoo's weight vectors.

    Attributes:
        seed: of all random numbers.
        base: folder of the base model.
        weights: folder of the weight vectors.
        spaces: folder with a sub-folder for each space that is already fitted.
        scratch: folder for resuming.
        drawing: settings with which the base model draws pictures.
    """

    seed: int
    base: Path
    weights: Path
    spaces: Path
    scratch: Path
    drawing: GenerateParams


@dataclass(frozen=True)
class Fitted:
    """A fitted space and the by-products of its fit.

    Attributes:
        space: the space.
        basis: a larger linear space for other spaces to build on, if there is one.
        records: JSON-able facts by file name, such as "training.json".
    """

    space: WeightSpace
    basis: WeightSpace | None
    records: dict[str, dict]


@dataclass(frozen=True)
class SpaceMethod(Generic[Settings]):
    """A kind of space: one entry of the registry, which pipeline, evaluation and report use.

    Attributes:
        name: name in paths, settings and metrics, such as "pca".
        title: name in sentences, such as "PCA".
        label: name in tables and figures, such as "PCA (w2w)".
        color: colour in figures, in matplotlib's notation.
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
        space.hold_donors(len(tensors.get("donor_latents", ())))
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
