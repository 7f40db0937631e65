"""LoRAs of other tools do here what they do in diffusers; whatever else is in a file or a folder is refused by name."""

import importlib.util
import json
import math
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from diffusers.utils import convert_state_dict_to_diffusers, convert_state_dict_to_kohya
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save, save_file

from w2wpp.files import tensor_files
from w2wpp.files.errors import InputError
from w2wpp.ingest import folder as lora_folder
from w2wpp.ingest import names as lora_files
from w2wpp.ingest.folder import Other, find_duplicates, scan_folder
from w2wpp.ingest.foreign import MAX_RANK, read_lora
from w2wpp.ingest.keys import KeyTable
from w2wpp.ingest.scale import METADATA_KEY
from w2wpp.lora.adapters import adapted
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.products import product_distance, singular_values
from w2wpp.lora.rank_reduction import canonicalise, reduce_rank


def load_fuzz():
    path = Path(__file__).resolve().parents[1] / "benchmarks/fuzz_loras.py"
    spec = importlib.util.spec_from_file_location("fuzz_loras", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fuzz = load_fuzz()
LAYOUT = fuzz.LAYOUT
QUERY, OUT = (layer.module for layer in LAYOUT.layers)
TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]


def products(vector, layout):
    """scale * B A of each module of a vector [d], in float64."""
    return {name: layout.scale * up[0] @ down[0] for name, (down, up) in layout.split(vector[None].double()).items()}


def assert_same_products(vector, layout, expected, rtol=1e-6):
    for name, product in products(vector, layout).items():
        torch.testing.assert_close(product, expected[name], rtol=0, atol=rtol * expected[name].norm().item())


def write(path, naming="diffusers", rank=2, alpha=None, seed=0, **kwargs):
    """A sound LoRA of the toy layout; returns its tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, metadata = fuzz.sound_lora(naming, LAYOUT, rank, alpha, seed, **kwargs)
    save_file(tensors, path, metadata=metadata or None)
    return tensors


def refused(path, layout=LAYOUT):
    with pytest.raises(InputError) as caught:
        read_lora(path, layout)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


# What the files do in diffusers


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
    """What peft gives as the state of a UNet's adapter, with B that does something."""
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
    # Of the file's modules, those of other blocks than asked for are no fault.
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


# Namings, ranks, scales and keys on the toy layout


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


def write_config(folder, **config):
    (folder / "adapter_config.json").write_text(json.dumps(config))


def test_kohya_names_are_matched_not_split():
    layout = WeightLayout((Adapted("a_b.c.attn1.to_q", 2, 2), Adapted("a.b_c.d.attn1.to_q", 2, 2)), 1, 1.0)
    keys = [f"lora_unet_a_b_c{name}_attn1_to_q.lora_{part}.weight" for name in ("", "_d") for part in ("down", "up")]
    found = KeyTable(layout).sort(keys, "x").found
    assert found["a.b_c.d.attn1.to_q", "up"] == "lora_unet_a_b_c_d_attn1_to_q.lora_up.weight"
    clash = WeightLayout((Adapted("a_b.attn1.to_q", 2, 2), Adapted("a.b.attn1.to_q", 2, 2)), 1, 1.0)
    with pytest.raises(ValueError, match="lora_unet_a_b_attn1_to_q"):
        KeyTable(clash)


# The gauge


def gauge(vector, layout, generator):
    """The same products from other factors: A to G A and B to B G^-1."""
    parts = []
    for down, up in layout.split(vector[None].double()).values():
        mix = torch.randn(layout.rank, layout.rank, generator=generator, dtype=torch.float64)
        mix += 3 * torch.eye(layout.rank)
        parts += [(mix @ down[0]).flatten(), (up[0] @ mix.inverse()).flatten()]
    return torch.cat(parts).float()


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


special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, 65504.0, 1e-30, 1e18, -1e-12])
numbers = special | st.floats(-2, 2, width=32)


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


# Bad files


def keyed(part, module=OUT, naming="diffusers"):
    return fuzz.NAMINGS[naming][0](module, part)


A, B = keyed("A"), keyed("B")
ALPHA, MAGNITUDE, BIAS = (f"unet.{OUT}.{part}" for part in ("alpha", "lora_magnitude_vector", "lora_B.bias"))
A_AGAIN, A_OF_KOHYA = keyed("A", naming="diffusers down up"), keyed("A", naming="kohya")
RANKS = f"ranks 1 to {MAX_RANK} can be read"


def changed(key, change):
    return lambda tensors: tensors | {key: change(tensors[key])}


def spoiled(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[1, 0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if key != A},
            OUT,
            "no LoRA A for this module",
        ),
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if key != B},
            OUT,
            "no LoRA B for this module",
        ),
        (lambda tensors: {}, None, "holds no tensors"),
        (
            lambda tensors: {"model.weight": torch.ones(3)},
            "model.weight",
            "no LoRA of the UNet, or one with names that are not known here",
        ),
        (changed(A, lambda tensor: tensor[:, 1:]), A, "shape [2, 2], expected [2, 3]"),
        (changed(A, lambda tensor: tensor[1:]), B, "shape [2, 2], expected [2, 1]"),
        (changed(B, lambda tensor: tensor.T.repeat(1, 2)), B, "shape [2, 4], expected [2, 2]"),
        (changed(A, lambda tensor: tensor[..., None, None]), A, "shape [2, 3, 1, 1], expected [2, 3]"),
        (changed(A, lambda tensor: tensor[:0]), A, f"shape [0, 3]: {RANKS}"),
        (changed(A, lambda tensor: tensor[0, 0]), A, f"shape []: {RANKS}"),
        (changed(A, lambda _: torch.ones(MAX_RANK + 1, 3)), A, f"shape [{MAX_RANK + 1}, 3]: {RANKS}"),
        (changed(A, lambda tensor: tensor.double()), A, "dtype F64"),
        (changed(B, lambda tensor: tensor.to(torch.float8_e4m3fn)), B, "dtype F8_E4M3"),
        (changed(B, lambda tensor: tensor.int()), B, "dtype I32"),
        (changed(A, spoiled(math.nan)), A, "not finite"),
        (changed(B, spoiled(-math.inf)), B, "not finite"),
        (changed(B, lambda tensor: tensor.half() / 0), B, "not finite"),
        (lambda tensors: tensors | {MAGNITUDE: torch.ones(2)}, MAGNITUDE, "neither A, B nor alpha of a LoRA (DoRA)"),
        (lambda tensors: tensors | {BIAS: torch.ones(2)}, BIAS, "neither A, B nor alpha of a LoRA (a bias)"),
        (
            lambda tensors: tensors | {A_OF_KOHYA: torch.ones(2, 3)},
            keyed("A", QUERY),
            "named by diffusers in a file of kohya",
        ),
        (lambda tensors: tensors | {A_AGAIN: torch.ones(2, 3)}, A, f"the same as {A_AGAIN}"),
        (lambda tensors: tensors | {ALPHA: torch.ones(2)}, ALPHA, "shape [2], expected one number"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(-1.0)}, ALPHA, "-1.0, expected a positive number"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(math.nan)}, ALPHA, "not finite"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(True)}, ALPHA, "dtype BOOL"),
    ],
)
def test_bad_tensors_are_refused_by_name(tmp_path, change, key, reason):
    tensors = write(tmp_path / "x.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, tmp_path / "x.safetensors")
    error = refused(tmp_path / "x.safetensors")
    assert (error.where, error.key, error.reason) == (str(tmp_path / "x.safetensors"), key, reason)


def test_largest_numbers(tmp_path):
    tensors = {key: torch.full_like(tensor, 3e38) for key, tensor in write(tmp_path / "x.safetensors").items()}
    save_file(tensors, tmp_path / "x.safetensors")
    error = refused(tmp_path / "x.safetensors")
    assert (error.key, error.reason) == (QUERY, "too large for float32")


@pytest.mark.parametrize(
    ("config", "key", "reason"),
    [
        ({"r": 2}, "lora_alpha", "None, expected"),
        ({"r": 2, "lora_alpha": 0}, "lora_alpha", "0, expected"),
        ({"r": 2, "lora_alpha": True}, "lora_alpha", "True, expected"),
        ({"r": 2, "lora_alpha": 10**400}, "lora_alpha", "expected a positive"),
        ({"r": 2, "lora_alpha": math.nan}, "lora_alpha", "nan, expected"),
        ({"r": 2, "lora_alpha": "\n\x1b"}, "lora_alpha", "expected a positive"),
        ({"r": 3, "lora_alpha": 1}, "r", f"3 for {QUERY}, whose tensors have rank 2"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": []}, None, None),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": [1]}, "alpha_pattern", "not a JSON object"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern", "is not a module's name"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": {"to_q": -1}}, "alpha_pattern", "-1, expected"),
        ({"r": 2, "lora_alpha": 1, "use_dora": True}, "use_dora", "no plain LoRA"),
        ({"r": 2, "lora_alpha": 1, "init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "changed base model"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_configurations(tmp_path, config, key, reason, beside):
    path = tmp_path / "x.safetensors"
    tensors = write(path, "peft")
    if beside:
        write_config(tmp_path, **config)
    else:
        config = {f"unet.{name}": value for name, value in config.items()}
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(config)})
    if key is None:
        assert read_lora(path, LAYOUT).alpha_from == ("adapter_config.json" if beside else "metadata")
        return
    error = refused(path)
    assert (error.key, error.where) == (key, str(tmp_path / "adapter_config.json" if beside else path))
    assert reason in error.reason


def test_metadata_key_is_that_of_diffusers():
    assert METADATA_KEY == LORA_ADAPTER_METADATA_KEY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not valid"),
        ('{"r": 1, "r": 2}', "given twice"),
        ("[" * 10**5, "not valid"),
        (" " * (2**20 + 1), "more than 1048576 bytes"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_unreadable_configurations(tmp_path, content, reason):
    write(tmp_path / "x.safetensors", "peft")
    (tmp_path / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert reason in refused(tmp_path / "x.safetensors").reason
    (tmp_path / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    assert "cannot be read" in refused(tmp_path / "x.safetensors").reason


@pytest.mark.parametrize(("name", "value"), [("MAX_FILE_BYTES", 1000), ("MAX_HEADER_BYTES", 100), ("MAX_TENSORS", 3)])
def test_limits(tmp_path, monkeypatch, name, value):
    write(tmp_path / "x.safetensors", rank=20)
    read_lora(tmp_path / "x.safetensors", LAYOUT)
    monkeypatch.setattr(tensor_files, name, value)
    assert str(value) in refused(tmp_path / "x.safetensors").reason


def test_a_header_that_promises_much_allocates_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path)
    header, data = fuzz.split_header(path.read_bytes())
    header[A] |= {"shape": [2**30, 3], "data_offsets": [0, 12 * 2**30]}
    path.write_bytes(fuzz.join_header(header, data))
    assert refused(path).reason == "dtypes, shapes and offsets of the tensors do not fit each other or the file"
    with path.open("wb") as file:
        file.write((2**40).to_bytes(8, "little") + b"{")
        file.truncate(2**40)
    assert refused(path).reason == f"a header of {2**40} bytes in a file of {2**40}"
    path.write_bytes((2**26).to_bytes(8, "little") + b"{")
    os.truncate(path, 2**27)
    assert refused(path).reason == f"a header of {2**26} bytes, more than the {2**25} that are read"


def test_files_too_large_to_be_loras(tmp_path, monkeypatch):
    tensors = write(tmp_path / "x.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    size = path.stat().st_size
    assert refused(path).reason == f"{size} bytes of {size + 9}: the end of the file is missing"
    monkeypatch.setattr(tensor_files, "MAX_FILE_BYTES", 10)
    save_file({"conv_in.weight": torch.ones(9)}, path)
    assert scan_folder(tmp_path, LAYOUT).others == (
        Other("x.safetensors", "conv_in.weight is of a whole model or a part of one, no LoRA"),
    )
    save_file(tensors, path)
    assert "more than the 10 allowed" in refused(path).reason


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [*tensor_files.PICKLE_SUFFIXES, ".safetensors", ".PT"])
def test_pickles_never_run(tmp_path, protocol, suffix):
    trap = tmp_path / "trap"
    path = tmp_path / f"lora{suffix}"
    path.write_bytes(pickle.dumps(fuzz.Bomb(trap), protocol=protocol))
    error = refused(path)
    assert "pickle" in error.reason or protocol < 2
    torch.save({"lora": fuzz.Bomb(trap)}, path)
    assert "pickle" in refused(path).reason
    scan_folder(tmp_path, LAYOUT)
    assert not trap.exists()
    pickle.loads(pickle.dumps(fuzz.Bomb(trap)))
    assert trap.exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda text: fuzz.join_header(b"{" + text, b"")))
def test_any_bytes(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["dtype", "shape", "data_offsets", "entry", "__metadata__", "header", "config"]), anything)
def test_any_json(tmp_path, place, value):
    path = tmp_path / "x.safetensors"
    tensors, metadata = fuzz.sound_lora("diffusers", LAYOUT, 2, 2.0, 0)
    header, data = fuzz.split_header(save(tensors, metadata))
    if place == "header":
        header = value
    elif place == "entry":
        header[A] = value
    elif place == "config":
        header["__metadata__"][METADATA_KEY] = json.dumps({"unet.r": 2, "unet.lora_alpha": value})
    elif place == "__metadata__":
        header[place] = value
    else:
        header[A][place] = value
    path.write_bytes(fuzz.join_header(json.dumps(header).encode(), data))
    try:
        lora = read_lora(path, LAYOUT)
    except InputError:
        return
    assert fuzz.fault(lora, path, LAYOUT) is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(fuzz.DAMAGES), st.sampled_from(list(fuzz.NAMINGS)), st.randoms(use_true_random=False))
def test_damaged_files(tmp_path, damage, naming, rng):
    path = tmp_path / "x.safetensors"
    tensors, metadata = fuzz.sound_lora(naming, LAYOUT, rng.randrange(1, 5), 2.0, 0, text=True)
    path.write_bytes(damage(save(tensors, metadata or None), rng))
    try:
        lora = read_lora(path, LAYOUT)
    except InputError:
        assert damage is not fuzz.undamaged
    else:
        assert fuzz.fault(lora, path, LAYOUT) is None


def test_fuzz_run_finds_nothing_and_would_find_something(monkeypatch):
    counts, failures, _ = fuzz.fuzz(60, seed=1)
    assert failures == []
    assert sum(sum(each.values()) for each in counts.values()) == 60
    real = fuzz.read_lora

    def careless(path, layout):
        lora = real(path, layout)
        lora.vector.mul_(2)
        return lora

    monkeypatch.setattr(fuzz, "read_lora", careless)
    assert any("another product" in line for line in fuzz.fuzz(60, seed=1)[1])
    monkeypatch.setattr(fuzz, "read_lora", lambda path, layout: [].pop())
    assert any("crashed" in line for line in fuzz.fuzz(3, seed=1)[1])


@pytest.mark.parametrize("name", ["absent", "a\0b", "\ud800", "x" * 300])
def test_impossible_paths(tmp_path, name):
    assert refused(tmp_path / name).reason.startswith("cannot be read")


# Folders


def test_mixed_folder(tmp_path, capsys):
    for number, naming in enumerate(fuzz.NAMINGS):
        write(tmp_path / f"person {number}" / "pytorch_lora_weights.safetensors", naming, 2, 3.0, seed=number)
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    (tmp_path / "old.pt").write_bytes(b"x")
    scan = scan_folder(tmp_path, LAYOUT)
    assert list(scan.accepted) == [
        f"person {number}/pytorch_lora_weights.safetensors" for number in sorted(range(len(fuzz.NAMINGS)), key=str)
    ]
    assert scan.vectors().shape == (len(fuzz.NAMINGS), LAYOUT.dimension)
    assert [(each.name, each.key) for each in scan.rejected] == [("broken.safetensors", None), ("old.pt", None)]
    assert all(each.reason and each.remedy for each in scan.rejected)
    assert scan.others == (Other("README.md", "a text"),)
    assert scan.duplicates == ()
    assert scan_folder(tmp_path / "person 0", LAYOUT).vectors().shape == (1, LAYOUT.dimension)


def test_empty_and_absent_folders(tmp_path):
    assert scan_folder(tmp_path, LAYOUT).vectors().shape == (0, LAYOUT.dimension)
    for path in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be read"):
            scan_folder(path, LAYOUT)


def test_duplicates_are_found_whatever_the_naming_and_the_precision(tmp_path):
    tensors = write(tmp_path / "a.safetensors", "diffusers", 2)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    write(tmp_path / "c.safetensors", "kohya", 2)
    write(tmp_path / "d.safetensors", "peft", 2, dtype=torch.bfloat16)
    scaled = {key: tensor * (4.0 if "lora_A" in key else -0.25) for key, tensor in tensors.items()}
    save_file({key: tensor * (1 - 2 * ("lora_A" in key)) for key, tensor in scaled.items()}, tmp_path / "e.safetensors")
    save_file(scaled, tmp_path / "negative.safetensors")
    write(tmp_path / "other.safetensors", "kohya", 2, seed=1)
    write(tmp_path / "stronger.safetensors", "diffusers", 2, 2.1)
    scan = scan_folder(tmp_path, LAYOUT)
    assert list(scan.accepted) == [f"{name}.safetensors" for name in ("a", "negative", "other", "stronger")]
    assert [(each.name[0], each.original, each.how) for each in scan.duplicates] == [
        ("b", "a.safetensors", "identical file"),
        ("c", "a.safetensors", "equal weights"),
        ("d", "a.safetensors", "equal weights"),
        ("e", "a.safetensors", "equal weights"),
    ]
    assert [each.distance < 1e-6 for each in scan.duplicates] == [True, True, False, True]
    assert scan.duplicates[2].distance < lora_folder.SAME


def test_the_same_bytes_beside_another_alpha_are_another_lora(tmp_path):
    for alpha in (1, 2):
        write(tmp_path / str(alpha) / "adapter_model.safetensors", "peft")
        write_config(tmp_path / str(alpha), r=2, lora_alpha=alpha)
    scan = scan_folder(tmp_path, LAYOUT)
    assert len(scan.accepted) == 2
    assert len({lora.digest for lora in scan.accepted.values()}) == 2


def test_untrained_loras_are_duplicates_of_each_other(tmp_path):
    for name in "ab":
        tensors = write(tmp_path / f"{name}.safetensors", seed=ord(name))
        untrained = {key: tensor * ("lora_A" in key) for key, tensor in tensors.items()}
        save_file(untrained, tmp_path / f"{name}.safetensors")
    scan = scan_folder(tmp_path, LAYOUT)
    lora = scan.accepted["a.safetensors"]
    assert not lora.vector.any()
    assert (lora.energy, lora.worst_energy) == (1.0, 1.0)
    assert [(each.name, each.distance) for each in scan.duplicates] == [("b.safetensors", 0.0)]
    assert find_duplicates({}, LAYOUT) == ()


def test_tricks_of_the_file_system(tmp_path):
    folder = tmp_path / "folder"
    write(tmp_path / "secret.safetensors")
    write(folder / "good.safetensors", seed=1)
    write(folder / "..hidden.safetensors", seed=2)
    write(folder / ".cache" / "x.safetensors", seed=3)
    write(folder / "tab\t.safetensors", seed=4)
    write(folder / "locked.safetensors", seed=5)
    (folder / "outside.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "relative.safetensors").symlink_to("../secret.safetensors")
    (folder / "inside.safetensors").symlink_to("good.safetensors")
    (folder / "dangling.safetensors").symlink_to("nowhere")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "linked.safetensors").symlink_to(folder / ".cache")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "/".join("d" * (lora_files.MAX_DEPTH + 2))).mkdir(parents=True)
    opener = os.open

    def refuse(path, *args, **kwargs):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied")
        return opener(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        scan = scan_folder(folder, LAYOUT)
    assert list(scan.accepted) == ["good.safetensors"]
    assert [each.name for each in scan.duplicates] == ["inside.safetensors"]
    reasons = {each.name: each.reason for each in scan.rejected}
    assert {name: reason.split(" (")[0] for name, reason in reasons.items()} == {
        "tab\\t.safetensors": "an unprintable or overlong name",
        "locked.safetensors": "cannot be read",
        "outside.safetensors": "a symbolic link out of the folder",
        "relative.safetensors": "a symbolic link out of the folder",
        "dangling.safetensors": "a symbolic link that leads nowhere",
        "loop.safetensors": "a symbolic link that leads nowhere",
        "pipe.safetensors": "not a regular file",
    }
    deep = "/".join("d" * (lora_files.MAX_DEPTH + 1))
    assert {each.name: each.reason for each in scan.others} == {
        "..hidden.safetensors": "a hidden file",
        ".cache": "a hidden folder",
        "linked": "a symbolic link to a folder, which is not followed",
        "linked.safetensors": "a symbolic link to a folder, which is not followed",
        deep: f"a folder more than {lora_files.MAX_DEPTH} deep",
    }


def test_a_bad_configuration_is_named_in_the_list(tmp_path):
    write(tmp_path / "x.safetensors", "peft")
    (tmp_path / "adapter_config.json").write_text("{}")
    (rejected,) = scan_folder(tmp_path, LAYOUT).rejected
    assert (rejected.name, rejected.key) == ("x.safetensors", "r")
    assert rejected.reason.startswith("adapter_config.json: None, expected")
