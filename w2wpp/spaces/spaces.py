"""Latent spaces over weight vectors: linear ones, as that of weights2weights, and the VAE of w2w++; one interface."""

import math
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import WeightLayout


def check_latent_dim(key: str, latent_dim: int, people: int, dimension: int) -> None:
    """Refuse a latent dimension that `people` training vectors of `dimension` numbers cannot fill.

    Raises:
        InputError: naming the parameter `key` and the range.
    """
    limit = min(people - 1, dimension)
    if not 1 <= latent_dim <= limit:
        raise InputError("params.yaml", key, f"{latent_dim} is more than the data allow",
                         f"Choose 1 .. {limit}: there are {people} training LoRAs of {dimension} weights")


class WeightSpace(nn.Module):
    """A space of LoRAs: z ~ N(0, I) in k dimensions decodes to the weight vector of a person.

    Attributes:
        latent_dim: k.
        layout: how its weight vectors are made up; d = layout.dimension.
        scales: float32 [k], what a step of 1 in each direction is in the space's metric; of a VAE, on its linear path.
    """

    kind: str
    scales: Tensor

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__()
        self.latent_dim = latent_dim
        self.layout = layout

    def encode(self, weights: Tensor) -> Tensor:
        """Weight vectors [n, d] float32 to latents [n, k]."""
        raise NotImplementedError

    def decode(self, z: Tensor) -> Tensor:
        """Latents [n, k] to weight vectors [n, d] float32; differentiable."""
        raise NotImplementedError

    def config(self) -> dict:
        """The JSON-able arguments, beside the layout, that `load_space` builds the space anew from."""
        raise NotImplementedError

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents [n, k] from the prior N(0, I)."""
        return torch.randn(n, self.latent_dim, generator=generator)

    def log_prior(self, z: Tensor) -> Tensor:
        """log N(z; 0, I) of latents [n, k], in nats [n]."""
        return -0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    def save(self, path: str | Path) -> None:
        """Write the space as one safetensors file, read again by `load_space`."""
        meta = {"kind": self.kind, "config": self.config(), "layout": self.layout.to_meta()}
        write_pack(Path(path), self.state_dict(), meta)


class PCASpace(WeightSpace):
    """The linear space of weights2weights (Dravid et al. 2024, arXiv 2406.09413), in whitened coordinates.

    decode(z) = mean + std * (z * scales) @ components, where `scales` are the standard deviations along the components,
    so that the same N(0, I) is the prior of z here and in the VAE.
    """

    kind = "pca"

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__(latent_dim, layout)
        self.register_buffer("mean", torch.zeros(layout.dimension))
        self.register_buffer("std", torch.ones(layout.dimension))
        self.register_buffer("components", torch.zeros(latent_dim, layout.dimension))
        self.register_buffer("scales", torch.ones(latent_dim))

    def config(self) -> dict:
        return {"latent_dim": self.latent_dim}

    @property
    def analysis(self) -> Tensor:
        """What `LinearSpace` calls so, [k, d]."""
        return self.components / self.scales[:, None] / self.std

    @property
    def synthesis(self) -> Tensor:
        """What `LinearSpace` calls so, [k, d]."""
        return self.components * self.scales[:, None] * self.std

    def encode(self, weights: Tensor) -> Tensor:
        return ((weights - self.mean) / self.std) @ self.components.T / self.scales

    def decode(self, z: Tensor) -> Tensor:
        return self.mean + self.std * ((z * self.scales) @ self.components)

    def truncated(self, latent_dim: int) -> "PCASpace":
        """The space of the leading `latent_dim` components."""
        space = PCASpace(latent_dim, self.layout)
        space.load_state_dict({"mean": self.mean, "std": self.std, "components": self.components[:latent_dim],
                               "scales": self.scales[:latent_dim]})
        return space

    def unexplained(self, weights: Tensor) -> Tensor:
        """Squared z-scored distance [n] of weight vectors [n, d] from the nearest that the space has."""
        return ((weights - self.decode(self.encode(weights))) / self.std).square().sum(1)


class LinearSpace(WeightSpace):
    """Coordinates that are linear in the weights, and the weights that people with these coordinates have on average.

    encode(w) = analysis @ (w - mean), such that the zoo people's coordinates are white, and decode(z) = mean + z @
    synthesis. Of `spaces.fit.predictions`, `scales` are the standard deviations of predictions along the directions; of
    `spaces.fit.within_person` those of people in units of what LoRAs of one person differ by.
    """

    kind = "linear"

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__(latent_dim, layout)
        self.register_buffer("mean", torch.zeros(layout.dimension))
        self.register_buffer("analysis", torch.zeros(latent_dim, layout.dimension))
        self.register_buffer("synthesis", torch.zeros(latent_dim, layout.dimension))
        self.register_buffer("scales", torch.ones(latent_dim))

    @classmethod
    def fitted(cls, layout: WeightLayout, mean: Tensor, scales: Tensor, analysis: Tensor, synthesis: Tensor
               ) -> "LinearSpace":
        """The space of these float32 numbers, mean [d], scales [k], analysis and synthesis [k, d].

        Each direction's sign is fixed (its largest entry of the synthesis is positive), so that equal data give equal
        spaces.
        """
        space = cls(len(synthesis), layout)
        signs = synthesis.gather(1, synthesis.abs().argmax(1, keepdim=True)).sign()
        space.load_state_dict({"mean": mean, "scales": scales, "analysis": signs * analysis,
                               "synthesis": signs * synthesis})
        return space

    def config(self) -> dict:
        return {"latent_dim": self.latent_dim}

    def encode(self, weights: Tensor) -> Tensor:
        return (weights - self.mean) @ self.analysis.T

    def decode(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.synthesis

    def unexplained(self, weights: Tensor) -> Tensor:
        """Zeros [n]: what the coordinates do not tell is not looked at."""
        return torch.zeros(len(weights))


BASES = {space.kind: space for space in (PCASpace, LinearSpace)}


def _mlp(fan_in: int, width: int, layers: int, fan_out: int) -> nn.Sequential:
    """Linear-GELU blocks, or none of them, and a last linear layer that starts at zero."""
    parts: list[nn.Module] = []
    for layer in range(layers):
        parts += [nn.Linear(fan_in if layer == 0 else width, width), nn.GELU()]
    last = nn.Linear(width if layers else fan_in, fan_out)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(*parts, last)


class VAESpace(WeightSpace):
    """The nonlinear space of w2w++: a variational autoencoder (Kingma and Welling 2014, arXiv 1312.6114) over weights.

    It works on the whitened coordinates of a larger linear space, its basis, such as all principal components of the
    training data or many of its predictions'. Encoder and decoder are a fixed linear path, which is that linear space
    at latent dimension k, plus a multilayer perceptron that starts at zero: untrained, the VAE is the linear space, and
    training adds what a linear map misses. Without hidden layers all of it stays linear.
    The perceptrons look at each coordinate times the square root of its scale, so that they follow first the directions
    in which people differ most.

    A small weight of the KL term lets latents outgrow N(0, I) in training, and people sampled from it would all be near
    the mean. `standardise` makes the diagonal Gaussian that fits the training people's latents the prior, by giving
    latents other units, in which it is N(0, I).
    """

    kind = "vae"

    def __init__(self, latent_dim: int, layout: WeightLayout, basis_kind: str, basis: int, width: int, layers: int):
        super().__init__(latent_dim, layout)
        self.width, self.layers = width, layers
        self.basis = BASES[basis_kind](basis, layout)
        self.encoder = _mlp(basis, width, layers, 2 * latent_dim)
        self.decoder = _mlp(latent_dim, width, layers, basis)
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))
        # The posterior starts narrow: at the prior's width its noise would hide all that the linear path preserves.
        nn.init.constant_(self.encoder[-1].bias[latent_dim:], -4.0)

    def config(self) -> dict:
        return {"latent_dim": self.latent_dim, "basis_kind": self.basis.kind, "basis": self.basis.latent_dim,
                "width": self.width, "layers": self.layers}

    @property
    def scales(self) -> Tensor:
        return self.basis.scales[:self.latent_dim] * self.latent_std

    def standardise(self, coordinates: Iterable[Tensor]) -> None:
        """Give latents the units in which these people's have mean 0 and variance 1; nothing else changes.

        Args:
            coordinates: of two people or more, whitened, in blocks [*, basis].
        """
        latents = torch.cat([self.posterior(block)[0] for block in coordinates])
        self.latent_mean += latents.mean(0) * self.latent_std
        self.latent_std *= latents.std(0).clamp_min(1e-6)

    def posterior(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | w): mean and log variance, each [n, k], of whitened coordinates [n, basis]."""
        shift, log_variance = self.encoder(self._emphasised(coordinates)).chunk(2, 1)
        mean = coordinates[:, :self.latent_dim] + shift
        return (mean - self.latent_mean) / self.latent_std, log_variance.clamp(-12, 4) - 2 * self.latent_std.log()

    def decode_coordinates(self, z: Tensor) -> Tensor:
        """Latents [n, k] to whitened coordinates [n, basis]."""
        z = self.latent_mean + self.latent_std * z
        linear = nn.functional.pad(z, (0, self.basis.latent_dim - self.latent_dim))
        return linear + self.decoder(self._emphasised(z))

    def _emphasised(self, coordinates: Tensor) -> Tensor:
        """The leading coordinates [n, *], weighted for the perceptrons."""
        return coordinates * (self.basis.scales[:coordinates.shape[1]] / self.basis.scales[0]).sqrt()

    def encode(self, weights: Tensor) -> Tensor:
        """Weight vectors [n, d] to the means of q(z | w) [n, k]."""
        return self.posterior(self.basis.encode(weights))[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.basis.decode(self.decode_coordinates(z))


SPACES: dict[str, type[WeightSpace]] = {space.kind: space for space in (PCASpace, LinearSpace, VAESpace)}


def load_space(path: str | Path) -> WeightSpace:
    """Read a space that `WeightSpace.save` wrote, frozen and in evaluation mode.

    Raises:
        InputError: the file is missing, corrupt, of an unknown kind, or its tensors do not fit its configuration.
    """
    tensors, meta = read_pack(Path(path))
    if meta.get("kind") not in SPACES:
        raise InputError(str(path), "kind", f"unknown space {meta.get('kind')!r}", f"Known: {', '.join(SPACES)}")
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(path))
    try:
        space = SPACES[meta["kind"]](layout=layout, **meta["config"])
        space.load_state_dict(tensors)
    except (RuntimeError, TypeError, KeyError) as error:
        raise InputError(str(path), "config", f"the tensors do not fit it ({' '.join(str(error).split())[:200]})",
                         "Fit it again: `dvc repro -f pca vae`") from error
    return space.requires_grad_(False).eval()
