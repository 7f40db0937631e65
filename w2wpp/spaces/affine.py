"""Linear spaces over weight vectors: principal components, and coordinates with a separate synthesis."""

import torch
from torch import Tensor

from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.statistics import row_signs
from w2wpp.spaces.base import WeightSpace


class PCASpace(WeightSpace):
    """The linear space of weights2weights (Dravid et al. 2024, arXiv 2406.09413), in whitened coordinates.

    decode(z) = mean + std * (z * scales) @ components, where `scales` are the standard deviations along the components,
    so that the same N(0, I) is the prior of z here and in the VAE.
    """

    kind = "pca"
    mean: Tensor
    std: Tensor
    components: Tensor
    scales: Tensor

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
        space.load_state_dict(
            {
                "mean": self.mean,
                "std": self.std,
                "components": self.components[:latent_dim],
                "scales": self.scales[:latent_dim],
            }
        )
        return space

    def unexplained(self, weights: Tensor) -> Tensor:
        """Squared z-scored distance [n] of weight vectors [n, d] from their projections onto the space."""
        return ((weights - self.decode(self.encode(weights))) / self.std).square().sum(1)


class LinearSpace(WeightSpace):
    """Coordinates that are linear in the weights, and the mean weights of people with these coordinates.

    encode(w) = analysis @ (w - mean), such that the zoo people's coordinates are white, and decode(z) = mean + z @
    synthesis. For `spaces.predictions`, `scales` are the standard deviations of predictions along the directions. For
    `spaces.within_person`, they are the standard deviations of people, in units of within-person deviations.
    """

    kind = "linear"
    mean: Tensor
    analysis: Tensor
    synthesis: Tensor
    scales: Tensor

    def __init__(self, latent_dim: int, layout: WeightLayout):
        super().__init__(latent_dim, layout)
        self.register_buffer("mean", torch.zeros(layout.dimension))
        self.register_buffer("analysis", torch.zeros(latent_dim, layout.dimension))
        self.register_buffer("synthesis", torch.zeros(latent_dim, layout.dimension))
        self.register_buffer("scales", torch.ones(latent_dim))

    @classmethod
    def fitted(
        cls, layout: WeightLayout, mean: Tensor, scales: Tensor, analysis: Tensor, synthesis: Tensor
    ) -> "LinearSpace":
        """The space with float32 mean [d], scales [k], analysis and synthesis [k, d].

        The sign of each direction is fixed (the largest entry of its synthesis is positive), so that equal data give
        equal spaces.
        """
        space = cls(len(synthesis), layout)
        signs = row_signs(synthesis)
        space.load_state_dict(
            {"mean": mean, "scales": scales, "analysis": signs * analysis, "synthesis": signs * synthesis}
        )
        return space

    def config(self) -> dict:
        return {"latent_dim": self.latent_dim}

    def encode(self, weights: Tensor) -> Tensor:
        return (weights - self.mean) @ self.analysis.T

    def decode(self, z: Tensor) -> Tensor:
        return self.mean + z @ self.synthesis

    def truncated(self, latent_dim: int) -> "LinearSpace":
        """The space of the leading `latent_dim` directions."""
        space = LinearSpace(latent_dim, self.layout)
        space.load_state_dict(
            {
                "mean": self.mean,
                "scales": self.scales[:latent_dim],
                "analysis": self.analysis[:latent_dim],
                "synthesis": self.synthesis[:latent_dim],
            }
        )
        return space

    def unexplained(self, weights: Tensor) -> Tensor:
        """Zeros [n]: this space does not measure differences outside its coordinates."""
        return torch.zeros(len(weights))
