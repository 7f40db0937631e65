"""Principal component analysis of weight vectors (w2w)."""

import torch
from sklearn.decomposition import PCA
from torch import Tensor

from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import Shards
from w2wpp.spaces.fit.streaming_pca import fit_streaming_pca
from w2wpp.spaces.spaces import PCASpace

MAX_NUMBERS = 2**28   # that are decomposed in memory: 1 GiB of float32
MAX_COMPONENTS = 4096


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


def fit_components(shards: Shards, mean: Tensor, std: Tensor, least: int, seed: int) -> tuple[PCASpace, Tensor]:
    """All principal components of the vectors [n, d], and their shares of the variance; of many vectors the leading.

    Up to `MAX_NUMBERS` numbers the decomposition is exact and of min(n - 1, d) components, as by `fit_pca`. Beyond, it
    is streamed (see `fit_streaming_pca`), and of the larger of `least` and `MAX_COMPONENTS` of them.

    Args:
        shards: the vectors.
        mean, std: float32 [d], theirs.
        least: components that are needed at least, at most min(n - 1, d).
        seed: of the decomposition's random numbers.

    Raises:
        InputError: a vector is not finite, or cannot be read any more.
    """
    n, d = len(shards), shards.dimension
    every = min(n - 1, d)
    if n * d <= MAX_NUMBERS:
        return fit_pca(next(shards.blocks(n)), mean, std, every, shards.layout, seed)
    return fit_streaming_pca(shards, mean, std, min(every, max(least, MAX_COMPONENTS)), seed)
