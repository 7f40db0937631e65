"""Principal component analysis of weight vectors (w2w)."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from w2wpp.layout import WeightLayout
from w2wpp.spaces import PCASpace


def standardise(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [d] over weight vectors [n, d] in float32; constant coordinates get deviation 1."""
    weights = weights.float()
    mean, std = weights.mean(0), weights.std(0)
    return mean, torch.where(std > 1e-8, std, torch.ones_like(std))


def fit_pca(weights: Tensor, mean: Tensor, std: Tensor, latent_dim: int, layout: WeightLayout, seed: int
            ) -> tuple[PCASpace, Tensor]:
    """The leading `latent_dim` components of the z-scored weights [n, d], and their shares of the variance [k].

    Each component's sign is fixed (its largest entry is positive), so that equal data give equal spaces.
    """
    solver = PCA(n_components=latent_dim, svd_solver="full", random_state=seed)
    solver.fit(((weights.float() - mean) / std).numpy())
    space = PCASpace(latent_dim, layout)
    space.mean.copy_(mean)
    space.std.copy_(std)
    space.components.copy_(torch.from_numpy(solver.components_))
    # The last of n - 1 components of nearly dependent data may have no variance; dividing by it would give infinities.
    space.scales.copy_(torch.from_numpy(solver.explained_variance_).sqrt().clamp_min(1e-6))
    return space, torch.from_numpy(solver.explained_variance_ratio_)
