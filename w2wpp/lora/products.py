"""LoRAs compared by their products B A, whichever factors A and B they have."""

import torch
from torch import Tensor

from w2wpp.lora.layout import WeightLayout


def product_distance(one: Tensor, other: Tensor, layout: WeightLayout) -> float:
    """Frobenius norm of the difference of the products B A, over all modules, of two weight vectors [d].

    Other than a distance of vectors it does not depend on the choice of A and B.
    """
    total = 0.0
    for down, up in layout.split(torch.stack([one, other]).double()).values():
        # The product of [B1, -B2] and [A1; A2], whose norm needs only 2r x 2r matrices: |B A|^2 = tr(B^T B A A^T).
        wide, tall = torch.cat([up[0], -up[1]], 1), torch.cat([down[0], down[1]])
        total += ((wide.mT @ wide) * (tall @ tall.mT)).sum().clamp_min(0).item()
    return total**0.5


def singular_values(canonical: Tensor, layout: WeightLayout) -> Tensor:
    """float64 [n, modules * rank]: those of the products B A of canonical vectors [n, d].

    Their distance is at most that of the products (Mirsky, 1960), so LoRAs with other singular values are other LoRAs.
    """
    return torch.cat([down.double().square().sum(-1) for down, _ in layout.split(canonical).values()], 1)


def on_rows(weights: Tensor, layout: WeightLayout, rows: Tensor) -> Tensor:
    """The LoRAs that have the A of the vector `rows` [d] and, of all these, products B A nearest to those of others.

    Where LoRAs were trained with one A for all, this is how such a LoRA is told from its products alone; of a LoRA
    with another A, what that A cannot express is left out.

    Args:
        weights: weight vectors [n, d] of the others.

    Returns:
        float32 [n, d].
    """
    parts = []
    fixed = layout.split(rows[None].double())
    for module, (down, up) in layout.split(weights.double()).items():
        a = fixed[module][0]  # [1, r, fan_in]
        b = up @ down @ torch.linalg.pinv(a)
        parts += [a.expand_as(down).flatten(1), b.flatten(1)]
    return torch.cat(parts, 1).float()
