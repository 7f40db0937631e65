"""The rehearsal of Stable Diffusion 1.5 in miniature, and the files of its base model."""

import json
import re

import pytest
import sd15_rehearsal as rehearsal
import torch
from diffusers import UNet2DConditionModel
from measuring import run_part
from safetensors.torch import load_file
from sd15_shape import SHAPES, UNET, WORDS, models

from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.lora.layout import WeightLayout

MINIATURE = SHAPES["miniature"]


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory):
    """The folder and the results of all steps in both dtypes."""
    folder = tmp_path_factory.mktemp("rehearsal")
    result = rehearsal.rehearse(
        ["float32", "bfloat16"], lambda name, dtype: rehearsal.do_part(name, dtype, folder, MINIATURE)
    )
    return folder, json.loads(json.dumps(result)) | {"size": "miniature"}


def test_every_step_does_what_it_should(rehearsed):
    _, result = rehearsed
    for dtype, steps in result["steps"].items():
        assert list(steps) == [name for name in rehearsal.STEPS if (name, dtype) != ("command", "bfloat16")]
        assert steps["prompt"]["shape"] == [1, 77, 16] and steps["prompt"]["finite"]
        assert steps["train"]["loss"] > 0 and 0 < steps["train"]["moved"] < 1e-3
        assert len(steps["invert"]["losses"]) == 2 and steps["invert"]["moved"] > 0
        assert steps["picture"]["shape"] == [1, 1, 1, 64, 64, 3] and steps["picture"]["spread"] > 0
        assert steps["export"]["equal"]
        assert all(step["peak_bytes"] > 0 for step in steps.values())
    assert result["steps"]["float32"]["command"]["finite"]
    assert result["steps"]["float32"]["load_lora"]["difference"] < 1e-3
    assert result["steps"]["bfloat16"]["load_lora"]["difference"] < 0.5


def test_weights_are_held_in_the_dtype(rehearsed):
    folder, result = rehearsed
    numbers = sum(
        tensor.numel()
        for file in (folder / "base").rglob("*.safetensors")
        for key, tensor in load_file(file).items()
        if "position_ids" not in key
    )
    held = {dtype: steps["load"]["weight_bytes"] for dtype, steps in result["steps"].items()}
    assert held == {"float32": 4 * numbers, "bfloat16": 2 * numbers}
    assert {dtype: each["load"] for dtype, each in result["estimates"].items()} == held
    assert all(each["command"] >= each["invert"] > each["load"] for each in result["estimates"].values())


def test_the_table_has_a_row_for_every_step_and_tells_what_failed(rehearsed):
    _, result = rehearsed
    page = rehearsal.markdown(result)
    assert len(re.findall(r"^\| .+ \| (?:float32|bfloat16) \| [\d.]+ \|", page, re.MULTILINE)) == 15
    result["steps"]["bfloat16"]["picture"] = {"failed": "killed by signal 9"}
    assert "| one picture, 2 steps | bfloat16 | failed: killed by signal 9 |" in rehearsal.markdown(result)


def test_a_part_prints_its_result(rehearsed, tmp_path):
    folder, _ = rehearsed
    arguments = ["--part", "prompt", "--dtypes", "bfloat16", "--size", "miniature", "--folder", str(folder)]
    assert run_part(rehearsal.__file__, arguments, tmp_path / "log.txt", 600)["shape"] == [1, 77, 16]


def test_files_are_those_of_published_models(rehearsed):
    folder, _ = rehearsed
    base = folder / "base"
    assert {path.relative_to(base).as_posix() for path in base.rglob("*.*")} == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/special_tokens_map.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }
    files = {file.parent.name: load_file(file) for file in base.rglob("*.safetensors")}
    assert {tensor.dtype for part in files.values() for tensor in part.values()} == {torch.float16, torch.int64}
    assert "encoder.mid_block.attentions.0.proj_attn.weight" in files["vae"]
    assert all(key.startswith("text_model.") for key in files["text_encoder"])


def test_the_loaded_model_has_the_written_weights(rehearsed):
    folder, _ = rehearsed
    torch.manual_seed(0)
    written, pipe = models(torch.float16, MINIATURE), load_pipeline(folder / "base")
    for theirs, ours in zip(written, (pipe.unet, pipe.vae, pipe.text_encoder), strict=True):
        assert all(torch.equal(a.float(), b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_the_tokenizer_has_the_size_of_clips(rehearsed):
    folder, _ = rehearsed
    tokenizer = load_pipeline(folder / "base").tokenizer
    assert len(tokenizer) == 49_408 and tokenizer.model_max_length == 77
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (49_406, 49_407)
    assert all(len(tokenizer(word).input_ids) == 3 for word in WORDS)


def test_the_true_shape_has_the_loras_of_weights2weights():
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNET)
    layout = WeightLayout.of_unet(unet, 1, 27.0, ["to_q", "to_v"])
    assert layout.dimension == 99_648 and len(layout.entries) == 128
    assert sum(each.numel() for each in unet.parameters()) == 859_520_964
