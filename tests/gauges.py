"""Products B A of weight vectors, and other factors that have the same ones."""

import torch
from torch import Tensor

from w2wpp.lora.layout import WeightLayout


def products(vector: Tensor, layout: WeightLayout) -> dict[str, Tensor]:
    """scale * B A of each module of a vector [d], in float64."""
    return {name: layout.scale * up[0] @ down[0] for name, (down, up) in layout.split(vector[None].double()).items()}


def assert_same_products(vector: Tensor, layout: WeightLayout, expected: dict[str, Tensor], rtol: float = 1e-6) -> None:
    for name, product in products(vector, layout).items():
        torch.testing.assert_close(product, expected[name], rtol=0, atol=rtol * expected[name].norm().item())


def gauge(vector: Tensor, layout: WeightLayout, generator: torch.Generator) -> Tensor:
    """The same products from other factors: A to G A and B to B G^-1."""
    parts = []
    for down, up in layout.split(vector[None].double()).values():
        mix = torch.randn(layout.rank, layout.rank, generator=generator, dtype=torch.float64)
        mix += 3 * torch.eye(layout.rank)
        parts += [(mix @ down[0]).flatten(), (up[0] @ mix.inverse()).flatten()]
    return torch.cat(parts).float()
