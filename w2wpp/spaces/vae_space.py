"""The nonlinear space of w2w++, a variational autoencoder over the coordinates of a linear space."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from w2wpp.lora.layout import WeightLayout
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.base import WeightSpace

BASES: dict[str, type[PCASpace | LinearSpace]] = {PCASpace.kind: PCASpace, LinearSpace.kind: LinearSpace}


def _mlp(fan_in: int, width: int, layers: int, fan_out: int) -> nn.Sequential:
    """Any number of linear-GELU blocks, and a last linear layer that starts at zero."""
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
    training data or of its predictions. Encoder and decoder are a fixed linear path plus a multilayer perceptron that
    starts at zero. The linear path is that linear space at latent dimension k. So the untrained VAE is the linear
    space, and training adds the nonlinear part. Without hidden layers the whole VAE stays linear. The inputs of the
    perceptrons are coordinates times the square root of their scales, so directions in which people differ most weigh
    most.

    With a small weight of the KL term, latents outgrow N(0, I) in training, and people sampled from N(0, I) would all
    be near the mean. `standardise` rescales latents so that the diagonal Gaussian fitted to the training people's
    latents is N(0, I).
    """

    kind = "vae"
    latent_mean: Tensor
    latent_std: Tensor

    def __init__(self, latent_dim: int, layout: WeightLayout, basis_kind: str, basis: int, width: int, layers: int):
        super().__init__(latent_dim, layout)
        self.width, self.layers = width, layers
        self.basis = BASES[basis_kind](basis, layout)
        self.encoder = _mlp(basis, width, layers, 2 * latent_dim)
        self.decoder = _mlp(latent_dim, width, layers, basis)
        self.register_buffer("latent_mean", torch.zeros(latent_dim))
        self.register_buffer("latent_std", torch.ones(latent_dim))
        # The posterior starts narrow: at the prior's width, noise would mask the signal of the linear path.
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias[latent_dim:], -4.0)

    def config(self) -> dict:
        return {
            "latent_dim": self.latent_dim,
            "basis_kind": self.basis.kind,
            "basis": self.basis.latent_dim,
            "width": self.width,
            "layers": self.layers,
        }

    @property
    def scales(self) -> Tensor:
        return self.basis.scales[: self.latent_dim] * self.latent_std

    def standardise(self, coordinates: Iterable[Tensor]) -> None:
        """Rescale latents so that these people's latents have mean 0 and variance 1; decoded weights do not change.

        Args:
            coordinates: of two people or more, whitened, in blocks [*, basis].
        """
        latents = torch.cat([self.posterior(block)[0] for block in coordinates])
        self.latent_mean += latents.mean(0) * self.latent_std
        self.latent_std *= latents.std(0).clamp_min(1e-6)

    def posterior(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """q(z | w): mean and log variance, each [n, k], of whitened coordinates [n, basis]."""
        shift, log_variance = self.encoder(self._emphasised(coordinates)).chunk(2, 1)
        mean = coordinates[:, : self.latent_dim] + shift
        return (mean - self.latent_mean) / self.latent_std, log_variance.clamp(-12, 4) - 2 * self.latent_std.log()

    def decode_coordinates(self, z: Tensor) -> Tensor:
        """Latents [n, k] to whitened coordinates [n, basis]."""
        z = self.latent_mean + self.latent_std * z
        linear = nn.functional.pad(z, (0, self.basis.latent_dim - self.latent_dim))
        return linear + self.decoder(self._emphasised(z))

    def _emphasised(self, coordinates: Tensor) -> Tensor:
        """The leading coordinates [n, *], weighted for the perceptrons."""
        return coordinates * (self.basis.scales[: coordinates.shape[1]] / self.basis.scales[0]).sqrt()

    def encode(self, weights: Tensor) -> Tensor:
        """Weight vectors [n, d] to the means of q(z | w) [n, k]."""
        return self.posterior(self.basis.encode(weights))[0]

    def decode(self, z: Tensor) -> Tensor:
        return self.basis.decode(self.decode_coordinates(z))
