"""Densities of latents: the prior that a search for a person is held by, and what people are sampled from."""

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


class Kernels:
    """Equal Gaussians around latents of zoo people, drawn towards 0 so that the variance stays 1 (West 1993).

    The zoo's latents are no Gaussian: a person has glasses or has none. Samples from this density keep some of that.
    """

    def __init__(self, centres: Tensor, smoothing: float):
        """Around latents [q, k] of mean 0 and variance 1.

        Args:
            smoothing: the kernels' share of the variance, in (0, 1]: near 0 are copies of the centres, 1 is N(0, I).
        """
        self.centres = centres
        self.smoothing = smoothing

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n latents [n, k], float32."""
        count, latent_dim = self.centres.shape
        chosen = self.centres[torch.randint(count, (n,), generator=generator)]
        noise = torch.randn(n, latent_dim, generator=generator)
        return (1 - self.smoothing) ** 0.5 * chosen + self.smoothing**0.5 * noise

    def log_prob(self, z: Tensor) -> Tensor:
        """Log density of latents [n, k], in nats [n]."""
        count, latent_dim = self.centres.shape
        distance = torch.cdist(z, (1 - self.smoothing) ** 0.5 * self.centres).square() / self.smoothing
        norm = latent_dim * math.log(2 * math.pi * self.smoothing) / 2 + math.log(count)
        return torch.logsumexp(-0.5 * distance, 1) - norm
