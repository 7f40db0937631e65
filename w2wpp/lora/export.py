"""LoRA files for other tools: diffusers, peft and kohya's trainer."""

import json
from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from w2wpp.files.errors import ArgumentError
from w2wpp.files.storage import write_atomically, write_json
from w2wpp.lora.layout import WeightLayout, unflatten

LoraFormat = Literal["diffusers", "peft", "kohya"]
LoraDtype = Literal["fp32", "fp16"]
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


def export_lora(
    path: str | Path, weights: Tensor, layout: WeightLayout, format: LoraFormat = "diffusers", dtype: LoraDtype = "fp32"
) -> None:
    """Write a weight vector as a LoRA of another tool, with the same effect scale * B A.

    Args:
        path: a safetensors file; for peft a folder, created if it is missing.
        weights: [d].
        format: "diffusers", for `pipe.load_lora_weights(path)`: peft's keys, alpha in the metadata. "peft", for
            `PeftModel.from_pretrained(unet, path)`: adapter_model.safetensors and adapter_config.json. "kohya", for
            tools that read kohya's LoRAs, such as A1111 and ComfyUI: names with underscores, alpha per module.
        dtype: "fp32", or "fp16" for half the size.

    Raises:
        ArgumentError: unknown format or dtype, or weights that are not finite in this dtype.
        ValueError: the vector's length is not the layout's dimension.
    """
    if format not in get_args(LoraFormat):
        raise ArgumentError(None, "format", f"unknown format {format!r}", f"Use {', '.join(get_args(LoraFormat))}")
    if dtype not in _DTYPES:
        raise ArgumentError(None, "dtype", f"unknown dtype {dtype!r}", f"Use {', '.join(_DTYPES)}")
    weights = weights.detach().to("cpu", _DTYPES[dtype])
    if not torch.isfinite(weights).all():
        raise ArgumentError(None, "dtype", f"weights that are not finite in {dtype}", "Use fp32, or train it again")
    path, tensors = Path(path), unflatten(weights, layout)
    if format == "diffusers":
        config = {f"unet.{key}": value for key, value in _config(layout).items()}
        _write(
            path,
            {f"unet.{key}": tensor for key, tensor in tensors.items()},
            {"lora_adapter_metadata": json.dumps(config, sort_keys=True)},
        )
    elif format == "peft":
        _write(
            path / "adapter_model.safetensors",
            {f"base_model.model.{key}": tensor for key, tensor in tensors.items()},
            {"format": "pt"},
        )
        write_json(path / "adapter_config.json", {"peft_type": "LORA", "bias": "none", **_config(layout)})
    else:
        _write(path, _kohya(layout, tensors), None)


def _config(layout: WeightLayout) -> dict:
    return {"r": layout.rank, "lora_alpha": layout.alpha, "target_modules": [layer.module for layer in layout.layers]}


def _kohya(layout: WeightLayout, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    named = {}
    for layer in layout.layers:
        stem = f"lora_unet_{layer.module.replace('.', '_')}"
        for ours, theirs in (("lora_A", "lora_down"), ("lora_B", "lora_up")):
            named[f"{stem}.{theirs}.weight"] = tensors[f"{layer.module}.{ours}.weight"]
        named[f"{stem}.alpha"] = torch.tensor(layout.alpha)
    return named


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))
