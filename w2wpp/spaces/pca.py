"""The baseline: principal component analysis of z-scored weight vectors, as in weights2weights."""

import torch
from torch import Tensor

from w2wpp.files.settings import Count, Ridge, Section
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import Shards
from w2wpp.lora.weights import Weights
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.base import FitContext, Fitted, SpaceMethod
from w2wpp.spaces.streaming_pca import fit_streaming_pca
from w2wpp.spaces.within_person import within_person_space

MAX_NUMBERS = 2**28  # numbers that are decomposed in memory: 1 GiB of float32
MAX_COMPONENTS = 4096


class PCAParams(Section):
    """The baseline, PCA as in weights2weights."""

    latent_dim: Count | None = None
    """Dimensions; null: those of the VAE."""
    within_person_ridge: Ridge = 1.0
    """A smaller ridge suppresses within-person variance more; null ranks directions by variance alone."""


def fit_pca(
    weights: Tensor, mean: Tensor, std: Tensor, latent_dim: int, layout: WeightLayout, seed: int
) -> tuple[PCASpace, Tensor]:
    """The leading `latent_dim` components of the z-scored weights [n, d], and their shares of the variance [k].

    The sign of each component is fixed (its largest entry is positive), so that equal data give equal spaces.
    """
    from sklearn.decomposition import PCA  # of the extra `pipeline`, which reading a space does not need

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
    """All principal components of the vectors [n, d], or the leading ones of many vectors, and their shares of
    variance.

    Up to `MAX_NUMBERS` numbers the decomposition is exact and has min(n - 1, d) components, as `fit_pca`. Beyond, it is
    streamed (see `fit_streaming_pca`) and has max(`least`, `MAX_COMPONENTS`) components.

    Args:
        shards: the vectors.
        mean, std: float32 [d] of the vectors.
        least: the required number of components, at most min(n - 1, d).
        seed: of the decomposition's random numbers.

    Raises:
        InputError: a vector is not finite, or can no longer be read.
    """
    n, d = len(shards), shards.dimension
    every = min(n - 1, d)
    if n * d <= MAX_NUMBERS:
        return fit_pca(next(shards.blocks(n)), mean, std, every, shards.layout, seed)
    return fit_streaming_pca(shards, mean, std, min(every, max(least, MAX_COMPONENTS)), seed)


def fit(data: Weights, params: PCAParams, latent_dim: int, context: FitContext) -> Fitted:
    """The components, or combinations of them, along which people differ most; see `PCAParams.within_person_ridge`."""
    full, shares = fit_components(data.zoo, data.mean, data.std, latent_dim, context.seed)
    ridge = params.within_person_ridge
    space = (
        within_person_space(full, *data.pairs(), ridge, latent_dim, PCAParams) if ridge else full.truncated(latent_dim)
    )
    variance = full.scales[0].square() / shares[0]
    kept = (space.synthesis / data.std).square().sum() / variance
    return Fitted(space, None, {"explained_variance.json": {"shares": shares.tolist(), "kept": kept.item()}})


METHOD = SpaceMethod("pca", "PCA", "PCA (w2w)", "#0072B2", PCAParams, fit, (PCASpace, LinearSpace))
