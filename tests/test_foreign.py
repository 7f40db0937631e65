"""LoRAs of other tools have the same effect as in diffusers and peft, whatever their naming, rank and alpha."""

import fuzz_loras as fuzz
import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from gauges import assert_same_products, products
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from toy_loras import LAYOUT, OUT, QUERY, write, write_config

from w2wpp.ingest.foreign import read_lora
from w2wpp.ingest.keys import KeyTable
from w2wpp.lora.adapters import adapted
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.rank_reduction import canonicalise

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


@pytest.fixture(scope="module")
def live(make_pipe):
    """A pipeline of this module's own, whose LoRAs come and go."""
    return make_pipe()


@pytest.fixture(params=[1, 4])
def real_layout(request, pipe) -> WeightLayout:
    """Its rank is that of the files, its alpha is not."""
    return WeightLayout.of_unet(pipe.unet, request.param, 3.0, ["to_q", "to_v"] if request.param == 1 else TARGETS)


@pytest.fixture
def inputs(normal):
    return normal(2, 4, 4, 4), torch.tensor([10, 700]), normal(2, 6, 16)


@pytest.fixture
def state(real_layout, draw_weights):
    """peft's state of a UNet's adapter, with B not zero."""
    weights = draw_weights(real_layout, 1, seed=3)
    return {key: tensor[0].contiguous() for key, tensor in real_layout.stack(weights).items()}


def processor_key(key):
    module, part = key.removesuffix(".weight").rsplit(".", 1)
    parent, _, projection = module.removesuffix(".0").rpartition(".")
    return f"{parent}.processor.{projection}_lora.{'down' if part == 'lora_A' else 'up'}.weight"


def diffusers_keys(folder, state, layout):
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state)


def diffusers_metadata(folder, state, layout):
    config = LoraConfig(
        r=layout.rank,
        lora_alpha=5,
        target_modules=[layer.module for layer in layout.layers],
        alpha_pattern={"attn2.to_q": 7},
        use_rslora=True,
    )
    config = config.to_dict() | {"target_modules": sorted(config.target_modules)}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=state, unet_lora_adapter_metadata=config)


def diffusers_down_up(folder, state, layout):
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=convert_state_dict_to_diffusers(state))


def diffusers_processors(folder, state, layout):
    StableDiffusionPipeline.save_lora_weights(
        folder, unet_lora_layers={processor_key(key): tensor for key, tensor in state.items()}
    )


def kohya(folder, state, layout):
    save_file(convert_state_dict_to_kohya({f"unet.{key}": tensor for key, tensor in state.items()}), folder / FILE)


def kohya_alpha(folder, state, layout):
    kohya(folder, state, layout)
    tensors = load_file(folder / FILE)
    save_file(
        {key: torch.tensor(6.0) if key.endswith(".alpha") else tensor for key, tensor in tensors.items()}, folder / FILE
    )


FILE = "pytorch_lora_weights.safetensors"


@torch.no_grad()
@pytest.mark.parametrize(
    ("save_as", "naming", "alpha_from"),
    [
        (diffusers_keys, "diffusers", "rank"),
        (diffusers_metadata, "diffusers", "metadata"),
        (diffusers_down_up, "diffusers", "rank"),
        (diffusers_processors, "diffusers", "rank"),
        (kohya, "kohya", "tensors"),
        (kohya_alpha, "kohya", "tensors"),
    ],
)
def test_equals_what_diffusers_makes_of_the_file(
    pipe, live, real_layout, state, inputs, tmp_path, save_as, naming, alpha_from
):
    save_as(tmp_path, state, real_layout)
    lora = read_lora(tmp_path / FILE, real_layout)
    assert (lora.naming, lora.alpha_from, lora.rank) == (naming, alpha_from, real_layout.rank)
    assert (lora.energy, lora.worst_energy, lora.ignored) == (1.0, 1.0, ())
    live.load_lora_weights(str(tmp_path), weight_name=FILE)
    expected = live.unet(*inputs).sample
    live.unload_lora_weights()
    with adapted(pipe.unet, real_layout, lora.vector[None]):
        actual = pipe.unet(*inputs).sample
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (actual - pipe.unet(*inputs).sample).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize(("save_as", "naming"), [(diffusers_keys, "diffusers"), (kohya, "kohya")])
def test_projections_and_feed_forward_of_chosen_blocks(pipe, live, inputs, draw_weights, tmp_path, save_as, naming):
    targets = ["attn1.to_v", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"]
    layout = WeightLayout.of_unet(pipe.unet, 2, 3.0, targets, ["down_blocks.1", "mid_block"])
    assert len(layout.layers) == 2 * len(targets)
    weights = draw_weights(layout, 1, seed=3)
    save_as(tmp_path, {key: tensor[0].contiguous() for key, tensor in layout.stack(weights).items()}, layout)
    lora = read_lora(tmp_path / FILE, layout)
    assert (lora.naming, lora.rank, lora.ignored) == (naming, 2, ())
    live.load_lora_weights(str(tmp_path), weight_name=FILE)
    expected = live.unet(*inputs).sample
    live.unload_lora_weights()
    with adapted(pipe.unet, layout, lora.vector[None]):
        torch.testing.assert_close(pipe.unet(*inputs).sample, expected, atol=1e-5, rtol=1e-5)
    # Modules of other blocks are no fault of the file.
    middle = WeightLayout.of_unet(pipe.unet, 2, 3.0, targets, ["mid_block"])
    lora = read_lora(tmp_path / FILE, middle)
    assert len(lora.ignored) == (2 if naming == "diffusers" else 3) * len(targets)
    assert all("down_blocks" in key for key in lora.ignored)


@torch.no_grad()
def test_equals_what_peft_saved(pipe, make_pipe, real_layout, inputs, tmp_path):
    config = LoraConfig(
        r=real_layout.rank,
        lora_alpha=11,
        init_lora_weights="gaussian",
        target_modules=[layer.module for layer in real_layout.layers],
    )
    model = get_peft_model(make_pipe().unet, config).eval()
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        if "lora_" in key:
            parameter.normal_(std=0.1, generator=generator)
    model.save_pretrained(tmp_path)
    lora = read_lora(tmp_path / "adapter_model.safetensors", real_layout)
    assert (lora.naming, lora.alpha_from) == ("peft", "adapter_config.json")
    with adapted(pipe.unet, real_layout, lora.vector[None]):
        torch.testing.assert_close(pipe.unet(*inputs).sample, model(*inputs).sample, atol=1e-5, rtol=1e-5)
    (tmp_path / "adapter_config.json").unlink()
    unscaled = read_lora(tmp_path / "adapter_model.safetensors", real_layout)
    assert unscaled.alpha_from == "rank"
    torch.testing.assert_close(unscaled.vector, lora.vector * (real_layout.rank / 11) ** 0.5)


def test_reads_back_what_is_exported(wide_layout, draw_weights, tmp_path):
    weights = canonicalise(draw_weights(wide_layout, 1), wide_layout)[0]
    export_lora(tmp_path / "x.safetensors", weights, wide_layout)
    lora = read_lora(tmp_path / "x.safetensors", wide_layout)
    assert torch.equal(lora.vector, weights)
    assert lora.alpha_from == "metadata"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("naming", fuzz.NAMINGS)
def test_every_naming_in_every_precision(tmp_path, naming, dtype):
    write(tmp_path / "x.safetensors", naming, 2, 4.0, dtype=dtype, text=True)
    lora = read_lora(tmp_path / "x.safetensors", LAYOUT)
    assert fuzz.fault(lora, tmp_path / "x.safetensors", LAYOUT) is None
    assert lora.ignored == (fuzz.NAMINGS[naming][2],)
    assert lora.of_text_encoder == (() if "conv_in" in lora.ignored[0] else lora.ignored)
    assert lora.vector.dtype == torch.float32


@pytest.mark.parametrize("rank", [1, 2, 3, 4, 7])
def test_other_ranks_are_cut_or_padded(tmp_path, rank):
    write(tmp_path / "x.safetensors", "kohya", rank, 5.0)
    lora = read_lora(tmp_path / "x.safetensors", LAYOUT)
    exact = dict(zip((QUERY, OUT), fuzz.plain_products(tmp_path / "x.safetensors", LAYOUT), strict=True))
    kept, whole, shares = 0.0, 0.0, {}
    best = {}
    for module, product in exact.items():
        u, s, vh = torch.linalg.svd(product, full_matrices=False)
        best[module] = u[:, :2] * s[:2] @ vh[:2]
        shares[module] = (s[:2].square().sum() / s.square().sum()).item()
        kept, whole = kept + s[:2].square().sum().item(), whole + s.square().sum().item()
    assert_same_products(lora.vector, LAYOUT, best)
    assert lora.rank == rank
    assert lora.energy == pytest.approx(kept / whole)
    assert lora.worst_energy == pytest.approx(min(shares.values()))
    assert shares[lora.worst_module] == pytest.approx(lora.worst_energy)
    assert (lora.energy == 1) == (rank <= 2)
    if rank == 1:
        for down, up in LAYOUT.split(lora.vector[None]).values():
            assert not down[0, 1].any() and not up[0, :, 1].any()


def test_ranks_may_differ_between_modules(tmp_path):
    tensors = write(tmp_path / "x.safetensors", "peft", 3)
    small = write(tmp_path / "y.safetensors", "peft", 1, seed=1)
    tensors |= {key: tensor for key, tensor in small.items() if "mid_block" in key}
    save_file(tensors, tmp_path / "x.safetensors")
    write_config(tmp_path, r=3, lora_alpha=6, rank_pattern={"to_out.0": 1}, alpha_pattern={f"^{OUT}": 2, "to_q": 9})
    lora = read_lora(tmp_path / "x.safetensors", LAYOUT)
    assert lora.rank == 3
    product = products(lora.vector, LAYOUT)[OUT]
    key = f"base_model.model.unet.{OUT}.lora_"
    torch.testing.assert_close(product, 2 * (tensors[key + "B.weight"] @ tensors[key + "A.weight"]).double())


def test_every_module_has_its_own_alpha(tmp_path):
    tensors = write(tmp_path / "x.safetensors", "kohya", 2, 1.0)
    tensors |= {fuzz.NAMINGS["kohya"][1](OUT): torch.tensor(7, dtype=torch.int64)}
    save_file(tensors, tmp_path / "x.safetensors")
    assert fuzz.fault(read_lora(tmp_path / "x.safetensors", LAYOUT), tmp_path / "x.safetensors", LAYOUT) is None


def test_alpha_comes_from_tensors_then_metadata_then_the_configuration(tmp_path):
    path = tmp_path / "x.safetensors"
    tensors, metadata = fuzz.sound_lora("peft", LAYOUT, 2, 4.0, 0)
    plain = {}

    def scale_and_source():
        lora = read_lora(path, LAYOUT)
        plain.setdefault("norm", lora.vector.norm())
        return round((lora.vector.norm() / plain["norm"]).item() ** 2, 4), lora.alpha_from

    save_file(tensors, path)
    assert scale_and_source() == (1, "rank")
    write_config(tmp_path, r=2, lora_alpha=6)
    assert scale_and_source() == (3, "adapter_config.json")
    save_file(tensors, path, metadata=metadata)
    assert scale_and_source() == (2, "metadata")
    alphas = {f"base_model.model.unet.{module}.alpha": torch.tensor([10]) for module in (QUERY, OUT)}
    save_file(tensors | alphas, path, metadata=metadata)
    assert scale_and_source() == (5, "tensors")
    alphas.popitem()
    save_file(tensors | alphas, path, metadata=metadata)
    assert scale_and_source()[1] == "metadata and tensors"


def test_kohya_names_are_matched_not_split():
    layout = WeightLayout((Adapted("a_b.c.attn1.to_q", 2, 2), Adapted("a.b_c.d.attn1.to_q", 2, 2)), 1, 1.0)
    keys = [f"lora_unet_a_b_c{name}_attn1_to_q.lora_{part}.weight" for name in ("", "_d") for part in ("down", "up")]
    found = KeyTable(layout).sort(keys, "x").found
    assert found["a.b_c.d.attn1.to_q", "up"] == "lora_unet_a_b_c_d_attn1_to_q.lora_up.weight"
    clash = WeightLayout((Adapted("a_b.attn1.to_q", 2, 2), Adapted("a.b.attn1.to_q", 2, 2)), 1, 1.0)
    with pytest.raises(ValueError, match="lora_unet_a_b_attn1_to_q"):
        KeyTable(clash)
