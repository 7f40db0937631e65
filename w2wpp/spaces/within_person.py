"""Linear spaces of directions with much variance between people, relative to the variance within a person.

This is Fisher's discriminant analysis with a within-class covariance that is shrunk towards the identity (Regularized
Discriminant Analysis, Friedman 1989), because fewer people have two LoRAs than there are directions.
"""

import torch
from torch import Tensor

from w2wpp.files.errors import ArgumentError
from w2wpp.spaces.affine import LinearSpace, PCASpace


def discriminants(scales: Tensor, differences: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """The directions in which people differ most, in units of the differences between two LoRAs of one person.

    Args:
        scales: float32 [q], standard deviations of people along the whitened coordinates.
        differences: of whitened coordinates, between two LoRAs of each of m people, [m, q].
        ridge: times the mean variance of people, it is added to the within-person variance in every direction. A larger
            ridge brings the directions closer to the axes of the coordinates.

    Returns:
        Orthonormal rows [q, q] for projecting whitened coordinates, the strongest first, and people's standard
        deviations [q] along them.
    """
    chance = ((differences - differences.mean(0)) * scales).double()
    within = chance.T @ chance / (2 * len(chance))
    within.diagonal().add_(ridge * scales.double().square().mean())
    root = torch.linalg.cholesky(within)
    ratio = torch.linalg.solve_triangular(root, scales.double().diag(), upper=False)
    _, scales, rows = torch.linalg.svd(ratio)
    return rows.float(), scales.float()


def within_person_space(
    space: LinearSpace | PCASpace,
    first: Tensor,
    second: Tensor,
    ridge: float,
    latent_dim: int,
    owner: type | None = None,
) -> LinearSpace:
    """The `latent_dim` dimensions of a larger space that separate people best, white for the zoo people.

    Args:
        first, second: weight vectors [m, d] of two LoRAs of each of m zoo people.
        ridge: as of `discriminants`.
        owner: the settings class that has the ridge, for errors.

    Raises:
        ArgumentError: m is less than two.
    """
    if len(first) < 2:
        raise ArgumentError(
            owner,
            "within_person_ridge",
            f"{ridge}, but {len(first)} of the zoo people have two LoRAs, too few to tell what these differ by",
            "Set it to null, or give more zoo people a second LoRA; the quarantine list says which were refused",
        )
    rows, scales = discriminants(space.scales, space.encode(first) - space.encode(second), ridge)
    rows = rows[:latent_dim]
    return LinearSpace.fitted(
        space.layout, space.mean, scales[:latent_dim], rows @ space.analysis, rows @ space.synthesis
    )
