"""Flattening is exact in both directions, its order is fixed, and malformed LoRAs are refused by name."""

import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given
from hypothesis import strategies as st

from w2wpp.files.errors import InputError
from w2wpp.lora.layout import Adapted, WeightLayout, flatten, unflatten

TOY = WeightLayout((Adapted("down_blocks.0.attn1.to_q", 4, 6), Adapted("mid_block.attn1.to_v", 3, 2)), 2, 2.0)
DTYPES = {torch.float16: (torch.int16, 16), torch.bfloat16: (torch.int16, 16), torch.float32: (torch.int32, 32)}


@st.composite
def vectors(draw) -> torch.Tensor:
    """Any finite bit patterns of any of the three dtypes, with negative zero and denormals often among them."""
    dtype = draw(st.sampled_from(list(DTYPES)))
    integer, bits = DTYPES[dtype]
    special = st.sampled_from([-(2 ** (bits - 1)), 1, 1 - 2 ** (bits - 1), 3])  # -0.0 and the smallest denormals
    number = special | st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    patterns = draw(st.lists(number, min_size=TOY.dimension, max_size=TOY.dimension))
    vector = torch.tensor(patterns, dtype=integer).view(dtype)
    return torch.where(torch.isfinite(vector), vector, torch.ones_like(vector))


def bits_of(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(DTYPES[tensor.dtype][0])


@given(vectors())
def test_vector_round_trip_is_bit_exact(vector):
    again = flatten(unflatten(vector, TOY), TOY, "x")
    assert again.dtype == vector.dtype
    assert torch.equal(bits_of(again), bits_of(vector))


@given(vectors())
def test_lora_round_trip_is_bit_exact(vector):
    parts = vector.split([a * b for _, (a, b), _ in TOY.entries])
    state = {key: part.reshape(shape) for (key, shape, _), part in zip(TOY.entries, parts, strict=True)}
    again = unflatten(flatten(dict(reversed(state.items())), TOY, "x"), TOY)
    assert again.keys() == state.keys()
    for key, tensor in state.items():
        assert again[key].shape == tensor.shape
        assert torch.equal(bits_of(again[key]), bits_of(tensor))


def test_unflatten_copies_and_checks_the_length():
    vector = torch.zeros(TOY.dimension)
    unflatten(vector, TOY)["mid_block.attn1.to_v.lora_A.weight"].fill_(1)
    assert vector.sum() == 0
    with pytest.raises(ValueError, match=rf"\[{TOY.dimension}\]"):
        unflatten(torch.zeros(TOY.dimension + 1), TOY)


@pytest.mark.parametrize("stacked", [False, True])
def test_stack_and_split_agree_with_unflatten(layout, draw_weights, stacked):
    weights = draw_weights(layout, 3)
    split, stack = layout.split(weights), layout.stack(weights)
    for i, vector in enumerate(weights):
        for key, tensor in unflatten(vector, layout).items():
            module, part = key.removesuffix(".weight").rsplit(".", 1)
            view = stack[key] if stacked else split[module][part == "lora_B"]
            assert torch.equal(view[i], tensor)
    with pytest.raises(ValueError, match="expected weights"):
        layout.split(weights[:, 1:])


KEY = "mid_block.attn1.to_v.lora_A.weight"


def mixed(state):
    return state | {KEY: state[KEY].half()}


def with_value(value):
    def change(state):
        tensor = state[KEY].clone()
        tensor[1, 2] = value
        return state | {KEY: tensor}

    return change


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (lambda state: {k: v for k, v in state.items() if k != KEY}, KEY, "key missing"),
        (lambda state: state | {"unet.extra": torch.zeros(1)}, "unet.extra", "unexpected key"),
        (lambda state: state | {KEY: state[KEY].T}, KEY, "shape [3, 2], expected [2, 3]"),
        (lambda state: state | {KEY: state[KEY][None]}, KEY, "shape [1, 2, 3], expected [2, 3]"),
        (lambda state: state | {KEY: state[KEY].int()}, KEY, "dtype torch.int32"),
        (lambda state: state | {KEY: state[KEY].double()}, KEY, "dtype torch.float64"),
        (mixed, KEY, "tensors of several dtypes"),
        (with_value(float("nan")), KEY, "not finite"),
        (with_value(float("inf")), KEY, "not finite"),
        (with_value(float("-inf")), KEY, "not finite"),
    ],
)
def test_malformed_lora_is_refused_by_name(change, key, reason):
    state = unflatten(torch.linspace(-1, 1, TOY.dimension), TOY)
    flatten(state, TOY, "fine")
    with pytest.raises(InputError) as caught:
        flatten(change(state), TOY, "lora.safetensors")
    assert (caught.value.where, caught.value.key, caught.value.reason) == ("lora.safetensors", key, reason)
    assert caught.value.remedy


def test_order(wide_layout):
    keys = [key for key, _, _ in wide_layout.entries]
    blocks = [key.split("_block")[0] for key in keys]
    assert sorted(set(blocks), key=blocks.index) == ["down", "mid", "up"]
    assert blocks == sorted(blocks)
    numbers = {
        block: [
            [int(part) for part in key.split(".transformer_blocks")[0].split(".") if part.isdigit()]
            for key in keys
            if key.startswith(block)
        ]
        for block in ("down", "mid", "up")
    }
    assert all(each == sorted(each) for each in numbers.values())
    first = "down_blocks.0.attentions.0"
    projections = [
        f"transformer_blocks.0.{attention}.{projection}"
        for attention in ("attn1", "attn2")
        for projection in ("to_q", "to_k", "to_v", "to_out.0")
    ]
    feed_forward = [f"transformer_blocks.0.ff.net.{layer}" for layer in ("0.proj", "2")]
    layers = ["proj_in", *projections, *feed_forward, "proj_out"]
    assert keys[:24] == [f"{first}.{layer}.lora_{part}.weight" for layer in layers for part in "AB"]


def test_offsets_are_seamless(wide_layout, pipe):
    end = 0
    for key, (rows, columns), offset in wide_layout.entries:
        assert offset == end
        end += rows * columns
        linear = pipe.unet.get_submodule(key.split(".lora_")[0])
        assert (rows, columns) == ((2, linear.in_features) if "lora_A" in key else (linear.out_features, 2))
    assert end == wide_layout.dimension


def test_stable_diffusion_15_is_the_published_order():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            layers_per_block=2,
            attention_head_dim=8,
        )
    layout = WeightLayout.of_unet(unet, 1, 1.0, ["to_q", "to_v"])
    assert len(layout.entries) == 128
    assert layout.dimension == 99_648
    offsets = {}
    for key, _, offset in layout.entries:
        offsets.setdefault(key.split(".")[0], offset)
    assert offsets == {"down_blocks": 0, "mid_block": 35_968, "up_blocks": 45_696}
    first, last = "down_blocks.0.attentions.0.transformer_blocks.0", "up_blocks.3.attentions.2.transformer_blocks.0"
    assert layout.entries[0] == (f"{first}.attn1.to_q.lora_A.weight", (1, 320), 0)
    assert layout.entries[6][:2] == (f"{first}.attn2.to_v.lora_A.weight", (1, 768))
    assert layout.entries[-1] == (f"{last}.attn2.to_v.lora_B.weight", (320, 1), 99_648 - 320)


def test_order_of_targets_does_not_matter_but_unknown_ones_do(pipe, layout):
    assert WeightLayout.of_unet(pipe.unet, 1, 8.0, ["to_v", "to_q"]) == layout
    with pytest.raises(InputError, match="Known: to_q, to_k, to_v, to_out") as caught:
        WeightLayout.of_unet(pipe.unet, 1, 8.0, ["to_q", "to_x"])
    assert caught.value.key == "targets"
    assert "to_x" in caught.value.reason


def test_blocks_narrow_the_layout(pipe):
    whole = WeightLayout.of_unet(pipe.unet, 1, 8.0, ["attn1.to_v", "proj_in"])
    block = whole.layers[-1].module.split(".attentions")[0]
    part = WeightLayout.of_unet(pipe.unet, 1, 8.0, ["attn1.to_v", "proj_in"], [block])
    assert part.layers == tuple(layer for layer in whole.layers if layer.module.startswith(block + "."))
    assert len(part.layers) < len(whole.layers)
    assert not any("attn2" in layer.module for layer in whole.layers)
    for unknown in ("up_blocks.9", block[:-1]):
        with pytest.raises(InputError, match=f"{unknown!r}.*{block}") as caught:
            WeightLayout.of_unet(pipe.unet, 1, 8.0, ["attn1.to_v"], [block, unknown])
        assert caught.value.key == "blocks"


def test_mask_of_B(any_layout):
    weights = any_layout.in_B.float()[None]
    for down, up in any_layout.split(weights).values():
        assert (down == 0).all() and (up == 1).all()


def test_hash_tells_layouts_apart():
    q, v = TOY.layers
    layouts = [
        TOY,
        WeightLayout((q, v), 1, 2.0),
        WeightLayout((q, v), 2, 1.0),
        WeightLayout((v, q), 2, 2.0),
        WeightLayout((q, Adapted(v.module, 4, 2)), 2, 2.0),
        WeightLayout((q,), 2, 2.0),
    ]
    assert len({each.hash for each in layouts}) == len(layouts)
    assert WeightLayout((q, v), 2, 2.0).hash == TOY.hash
    assert WeightLayout((q, v), 2, 2).hash == TOY.hash


def test_meta_round_trip(wide_layout):
    again = WeightLayout.from_meta(wide_layout.to_meta(), "x")
    assert again == wide_layout
    assert again.entries == wide_layout.entries
    integer_alpha = WeightLayout(TOY.layers, 2, 8)
    assert WeightLayout.from_meta(integer_alpha.to_meta(), "x").scale == 4


@pytest.mark.parametrize(
    "tamper",
    [
        lambda meta: meta | {"rank": 3},
        lambda meta: meta | {"alpha": 1.0},
        lambda meta: meta | {"alpha": "much"},
        lambda meta: meta | {"hash": "0" * 16},
        lambda meta: meta | {"layers": meta["layers"][::-1]},
        lambda meta: meta | {"layers": [meta["layers"][0] | {"fan_in": "four"}, meta["layers"][1]]},
        lambda meta: meta | {"layers": [{"module": "x"}]},
        lambda meta: {key: value for key, value in meta.items() if key != "hash"},
        lambda meta: {},
        lambda meta: None,
    ],
)
def test_tampered_meta_is_refused(tamper):
    with pytest.raises(InputError) as caught:
        WeightLayout.from_meta(tamper(TOY.to_meta()), "pack.safetensors")
    assert (caught.value.where, caught.value.key) == ("pack.safetensors", "layout")
