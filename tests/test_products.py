"""LoRAs are compared by their products."""

import math

import pytest
import torch
from gauges import gauge, products

from w2wpp.lora.products import product_distance, singular_values
from w2wpp.lora.rank_reduction import canonicalise


def test_products_are_compared_whatever_the_gauge(wide_layout, draw_weights):
    one, other = draw_weights(wide_layout, 2)
    wanted = (
        math.sqrt(
            sum(
                (products(one, wide_layout)[name] - product).square().sum()
                for name, product in products(other, wide_layout).items()
            )
        )
        / wide_layout.scale
    )
    assert product_distance(one, other, wide_layout) == pytest.approx(wanted)
    mixed = gauge(one, wide_layout, torch.Generator().manual_seed(0))
    assert product_distance(one, mixed, wide_layout) < 1e-5 * wanted
    spectra = singular_values(canonicalise(torch.stack([one, other]), wide_layout), wide_layout)
    assert 0 < (spectra[0] - spectra[1]).norm() <= wanted
