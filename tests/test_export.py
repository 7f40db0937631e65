"""Exported LoRAs have the effect of W + scale * B A in diffusers and peft."""

import json

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.func import functional_call

from w2wpp.diffusion.pipeline import encode_prompts, load_pipeline
from w2wpp.files.errors import ArgumentError
from w2wpp.ingest.exported import read_exported
from w2wpp.ingest.foreign import read_lora
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import WeightLayout

FORMATS = ("diffusers", "peft", "kohya")
LORA = "lora.safetensors"  # of peft a folder, whatever its name


@pytest.fixture
def inputs(pipe, normal):
    return normal(2, 4, 4, 4), torch.tensor([20, 700]), encode_prompts(pipe, ["a photo of sks person", ""])


@pytest.fixture
def load(tmp_path, make_pipe):
    """load(format): the UNet of a tiny pipeline with the LoRA tmp_path / LORA, loaded by the tool itself."""
    return lambda format: with_lora(make_pipe(), format, tmp_path)


def with_lora(pipe, format, folder):
    if format == "peft":
        return peft.PeftModel.from_pretrained(pipe.unet, folder / LORA).base_model.model
    pipe.load_lora_weights(str(folder), weight_name=LORA)
    return pipe.unet


def merged(unet, layout, vector):
    """W + scale * B A of every adapted layer, in float64 and from the vector's numbers alone."""
    weights, at = {}, 0
    for layer in layout.layers:
        down, up = (
            vector[at + first : at + last].double().reshape(shape)
            for first, last, shape in (
                (0, layout.rank * layer.fan_in, (layout.rank, layer.fan_in)),
                (
                    layout.rank * layer.fan_in,
                    layout.rank * (layer.fan_in + layer.fan_out),
                    (layer.fan_out, layout.rank),
                ),
            )
        )
        at += layout.rank * (layer.fan_in + layer.fan_out)
        weight = unet.get_submodule(layer.module).weight
        weights[f"{layer.module}.weight"] = (weight.double() + layout.alpha / layout.rank * up @ down).float()
    return weights


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("format", FORMATS)
def test_tools_load_what_was_exported(tmp_path, pipe, any_layout, draw_weights, inputs, load, format, dtype):
    weights = draw_weights(any_layout, 1, seed=3)[0]
    plain = pipe.unet(*inputs).sample
    export_lora(tmp_path / LORA, weights, any_layout, format, dtype)
    held = weights.half().float() if dtype == "fp16" else weights
    expected = functional_call(pipe.unet, merged(pipe.unet, any_layout, held), inputs).sample
    assert (expected - plain).abs().max() > 1e-2
    torch.testing.assert_close(load(format)(*inputs).sample, expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("format", FORMATS)
def test_stable_diffusions_tools_load_what_was_exported(tmp_path, sd15_base, draw_weights, format):
    """The names of down, middle and up blocks in trainers and A1111."""
    pipe = load_pipeline(sd15_base)
    layout = WeightLayout.of_unet(pipe.unet, 1, 27.0, ["to_q", "to_v"])
    weights = draw_weights(layout, 1)[0]
    export_lora(tmp_path / LORA, weights, layout, format)
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([300]), encode_prompts(pipe, ["sks person"])
    with torch.no_grad():
        expected = functional_call(pipe.unet, merged(pipe.unet, layout, weights), inputs).sample
        torch.testing.assert_close(with_lora(pipe, format, tmp_path)(*inputs).sample, expected, atol=2e-5, rtol=1e-4)


def test_every_layer_has_an_alpha_for_kohya(tmp_path, wide_layout, draw_weights):
    export_lora(tmp_path / "x.safetensors", draw_weights(wide_layout, 1)[0], wide_layout, "kohya", "fp16")
    tensors = load_file(tmp_path / "x.safetensors")
    assert len(tensors) == 3 * len(wide_layout.layers)
    assert {key.rpartition(".")[2] for key in tensors} == {"weight", "alpha"}
    assert all(key.startswith("lora_unet_") and key.count(".") <= 2 for key in tensors)
    assert all(tensor == wide_layout.alpha for key, tensor in tensors.items() if key.endswith("alpha"))
    assert {tensor.dtype for key, tensor in tensors.items() if key.endswith("weight")} == {torch.float16}


@pytest.mark.parametrize("format", FORMATS)
def test_products_come_back_by_the_reader_of_strangers_files(tmp_path, wide_layout, draw_weights, format):
    weights = draw_weights(wide_layout, 1)[0]
    file = tmp_path / "lora/adapter_model.safetensors" if format == "peft" else tmp_path / "lora.safetensors"
    export_lora(file.parent if format == "peft" else file, weights, wide_layout, format)
    found = read_lora(file, wide_layout)
    assert found.naming == format and found.energy == pytest.approx(1, abs=1e-6)
    for name, (down, up) in wide_layout.split(weights[None]).items():
        a, b = wide_layout.split(found.vector[None])[name]
        torch.testing.assert_close(b[0] @ a[0], up[0] @ down[0], atol=1e-6, rtol=1e-4)


def test_what_was_exported_for_diffusers_comes_back_to_the_bit(tmp_path, any_layout, draw_weights):
    weights = draw_weights(any_layout, 1)[0]
    export_lora(tmp_path / "x.safetensors", weights, any_layout)
    found, layout = read_exported(tmp_path / "x.safetensors")
    assert torch.equal(found, weights) and layout == any_layout
    export_lora(tmp_path / "half.safetensors", weights, any_layout, dtype="fp16")
    assert torch.equal(read_exported(tmp_path / "half.safetensors")[0], weights.half().float())
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    assert config == {
        "unet.r": layout.rank,
        "unet.lora_alpha": layout.alpha,
        "unet.target_modules": [layer.module for layer in layout.layers],
    }


def test_other_tools_files_are_not_taken_for_own_ones(tmp_path, layout, draw_weights, write_loras):
    write_loras(tmp_path, layout, 6)
    export_lora(tmp_path / "kohya.safetensors", draw_weights(layout, 1)[0], layout, "kohya")
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 7 and [read_exported(file) for file in files] == [None] * 7


@pytest.mark.parametrize(("arguments", "key"), [(("safetensors", "fp32"), "format"), (("peft", "fp8"), "dtype")])
def test_unknown_formats_and_dtypes(tmp_path, layout, draw_weights, arguments, key):
    with pytest.raises(ArgumentError, match="unknown") as caught:
        export_lora(tmp_path / "x", draw_weights(layout, 1)[0], layout, *arguments)
    assert caught.value.key == key and not list(tmp_path.iterdir())


def test_weights_that_half_precision_cannot_hold(tmp_path, layout, draw_weights):
    weights = draw_weights(layout, 1)[0]
    weights[3] = 1e6
    with pytest.raises(ArgumentError, match="not finite in fp16"):
        export_lora(tmp_path / "x", weights, layout, dtype="fp16")
    export_lora(tmp_path / "x", weights, layout)
