"""The prior of latents, which sampling draws from and which regularises the search."""

import math

import torch
from torch import Tensor


class StandardNormal:
    """N(0, I) over latents of `latent_dim` numbers.

    Another prior, such as a flow, has the same methods; `whiten` and `unwhiten` then map latents to and from N(0, I).
    """

    def __init__(self, latent_dim: int):
        self.latent_dim = latent_dim

    def whiten(self, z: Tensor) -> Tensor:
        """Latents [n, k] to coordinates [n, k] that are N(0, I) under the prior."""
        return z

    def unwhiten(self, u: Tensor) -> Tensor:
        """The inverse of `whiten`."""
        return u

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents [n, k], float32."""
        return self.unwhiten(torch.randn(n, self.latent_dim, generator=generator))

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of latents [n, k], in nats [n]."""
        return -0.5 * (z.square().sum(1) + self.latent_dim * math.log(2 * math.pi))

    @staticmethod
    def kl_per_unit(mean: Tensor, log_variance: Tensor) -> Tensor:
        """KL(N(mean, exp(log_variance)) || N(0, 1)) in nats per unit, averaged over a batch [n, k] -> [k]."""
        return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)
