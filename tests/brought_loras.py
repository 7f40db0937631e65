"""LoRAs as people bring them, with the effect that they should have, for tests."""

import runpy
import shutil
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from safetensors.torch import save_file

from w2wpp.ingest.sources import read_layout
from w2wpp.lora.layout import LoraParams, WeightLayout
from w2wpp.lora.weights import Weights, read_weights

ROOT = Path(__file__).parents[1]
LORA = {"rank": 2, "alpha": 3, "targets": ["attn1.to_q", "attn1.to_out.0"], "blocks": ["mid_block"]}
TABLES = ("manifest", "quarantine", "duplicates", "others", "ignored_keys")


def middle_layout(base: Path) -> WeightLayout:
    """Two modules of the middle block of a base model."""
    return read_layout(base, LoraParams(**LORA))


def collector(tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch):
    """collected(folder, ...) runs collect and flatten, and returns the tables that collect leaves and the vectors."""

    def run(folder: Path, max_quarantined: float = 0.0, **collect) -> tuple[dict[str, pd.DataFrame], Weights]:
        params = {
            "lora": LORA,
            "flatten": {"max_quarantined": max_quarantined},
            "collect": {"source": "folder", "path": str(folder), "held_out": 0.2, **collect},
            **{space: {"within_person_ridge": None} for space in ("pca", "linear", "vae")},
        }
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
        shutil.rmtree(tmp_path / "zoo", ignore_errors=True)  # as dvc does before a stage
        for name, options in (
            ("collect", {"base": base, "out": "zoo", "scratch": "scratch"}),
            ("flatten", {"zoo": "zoo", "out": "weights"}),
        ):
            monkeypatch.setattr(
                sys,
                "argv",
                [
                    name,
                    "--params",
                    str(tmp_path / "params.yaml"),
                    *(f"--{key}={tmp_path / value}" for key, value in options.items()),
                ],
            )
            runpy.run_path(str(ROOT / f"stages/{name}.py"), run_name="__main__")
        tables = {name: pd.read_csv(tmp_path / f"zoo/{name}.csv", keep_default_na=False) for name in TABLES}
        return tables, read_weights(tmp_path / "weights")

    return run


def factors(layout, seed, rank=2):
    """A [rank, fan_in] and B [fan_out, rank] of each module."""
    generator = torch.Generator().manual_seed(seed)
    return {
        layer.module: (
            torch.randn(rank, layer.fan_in, generator=generator),
            torch.randn(layer.fan_out, rank, generator=generator),
        )
        for layer in layout.layers
    }


def write(path: Path, layout, seed, key, alpha_key=None, alpha=1.5, extra=None, metadata=None):
    """A LoRA whose keys are `key(module, "A" or "B")`, with an alpha where `alpha_key(module)` says."""
    tensors = dict(extra or {})
    for module, (down, up) in factors(layout, seed).items():
        tensors |= {key(module, "A"): down, key(module, "B"): up}
        if alpha_key:
            tensors[alpha_key(module)] = torch.tensor(alpha)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=metadata)


def flat(module):
    return "lora_unet_" + module.replace(".", "_")


def word(part):
    return "down" if part == "A" else "up"


def kohya(path: Path, layout, seed, **kwargs):
    write(path, layout, seed, lambda m, p: f"{flat(m)}.lora_{word(p)}.weight", lambda m: f"{flat(m)}.alpha", **kwargs)


def peft(path: Path, layout, seed, prefix="base_model.model.", adapter="", **kwargs):
    write(path, layout, seed, lambda m, p: f"{prefix}{m}.lora_{p}{adapter}.weight", **kwargs)


def assert_is(vector, layout, seed, scale, rtol=2e-3):
    """The vector, rounded to float16, has the products scale * B A of `factors(layout, seed)`."""
    for module, (down, up) in factors(layout, seed).items():
        expected = scale * up @ down
        a, b = layout.split(vector[None].float())[module]
        torch.testing.assert_close(layout.scale * b[0] @ a[0], expected, rtol=0, atol=rtol * expected.norm().item())


def by_name(data) -> dict[str, torch.Tensor]:
    return dict(zip(data.names("zoo") + data.names("true"), [*data.of("zoo"), *data.of("true")], strict=True))
