"""LoRAs of equal products have equal canonical factors, at any rank."""

import pytest
import torch
from gauges import assert_same_products, gauge, products
from hypothesis import given, settings
from hypothesis import strategies as st

from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.rank_reduction import canonicalise, reduce_rank

LAYOUT = WeightLayout((Adapted("a.attn1.to_q", 4, 6), Adapted("b.attn2.to_out.0", 3, 2)), 2, 3.0)
special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 65504.0, 1e-30, 1e18, -1e-12])
numbers = special | st.floats(-2, 2, width=32)


@pytest.mark.parametrize("which", ["layout", "wide_layout"])
def test_canonical_vectors(request, which, draw_weights):
    layout = request.getfixturevalue(which)
    weights = draw_weights(layout, 5)
    canonical = canonicalise(weights, layout)
    assert torch.equal(canonicalise(canonical, layout), canonical)
    for before, after in zip(weights, canonical, strict=True):
        assert_same_products(after, layout, products(before, layout))
    for down, up in layout.split(canonical.double()).values():
        torch.testing.assert_close(down @ down.mT, up.mT @ up, atol=1e-6, rtol=1e-6)
        norms = down.norm(dim=-1)
        torch.testing.assert_close(down @ down.mT, torch.diag_embed(norms.square()), atol=1e-6, rtol=0)
        assert (norms.diff(dim=1) <= 0).all()
        assert (down.sum(-1) > 0).all()
    mixed = torch.stack([gauge(vector, layout, torch.Generator().manual_seed(2)) for vector in weights])
    assert not torch.allclose(mixed, weights, atol=0.1)
    torch.testing.assert_close(canonicalise(mixed, layout), canonical, atol=1e-4, rtol=1e-3)
    assert canonicalise(weights[:0], layout).shape == (0, layout.dimension)


@settings(max_examples=150, deadline=None)
@given(st.lists(numbers, min_size=LAYOUT.dimension, max_size=LAYOUT.dimension))
def test_canonicalising_twice_changes_nothing(vector):
    vector = torch.tensor(vector)
    once = canonicalise(vector[None], LAYOUT)
    assert torch.equal(canonicalise(once, LAYOUT), once)
    for name, product in products(once[0], LAYOUT).items():
        wanted = products(vector, LAYOUT)[name]
        torch.testing.assert_close(product, wanted, rtol=0, atol=2e-6 * wanted.norm().item() + 1e-36)


def test_equal_singular_values_and_cancelling_signs_are_settled():
    down, up = torch.eye(4)[None, :2], torch.eye(6)[None, :, :2]
    for a in (down, torch.tensor([[[1.0, -1, 0, 0], [0, 0, -1, 1]]])):
        once = reduce_rank(a, up, 1.0, 2)[:2]
        again = reduce_rank(*once, 1.0, 2)[:2]
        assert all(torch.equal(*pair) for pair in zip(once, again, strict=True))
        torch.testing.assert_close(once[1] @ once[0], up @ a)
