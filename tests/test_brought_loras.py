"""Users' LoRAs through the stages: each person once, with the effect of the LoRA, and a reason for every other file."""

import json
import os
import unicodedata
from pathlib import Path

import fuzz_lora_folders
import fuzz_loras as fuzz
import pytest
import torch
from brought_loras import (
    assert_is,
    by_name,
    collector,
    flat,
    kohya,
    middle_layout,
    peft,
    word,
    write,
)
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from w2wpp.files.errors import InputError
from w2wpp.ingest import folder as lora_folder
from w2wpp.ingest.checkpoints import find_trainings
from w2wpp.ingest.folder import scan_folder
from w2wpp.ingest.foreign import read_lora
from w2wpp.ingest.sources import read_layout
from w2wpp.lora.adapters import adapted
from w2wpp.lora.layout import LoraParams, WeightLayout


@pytest.fixture
def layout(sd15_base) -> WeightLayout:
    return middle_layout(sd15_base)


@pytest.fixture
def collected(tmp_path, sd15_base, monkeypatch):
    return collector(tmp_path, sd15_base, monkeypatch)


def test_every_naming_with_everything_beside(tmp_path, layout, collected):
    folder, scales = tmp_path / "loras", {}
    write_config = {"r": 2, "lora_alpha": 27}
    peft(folder / "anna/unet/adapter_model.safetensors", layout, 0, adapter=".identity1")
    (folder / "anna/unet/adapter_config.json").write_text(json.dumps(write_config))
    scales["anna"] = 27 / 2
    write(
        folder / "bert.safetensors",
        layout,
        1,
        lambda m, p: f"unet.{m}.lora_{word(p)}.weight",
        lambda m: f"unet.{m}.alpha",
    )
    peft(folder / "carl.safetensors", layout, 2, "unet._orig_mod.")
    peft(folder / "dora.safetensors", layout, 3, "unet.base_model.model.")
    peft(folder / "emil.safetensors", layout, 4, "diffusion_model.")
    write(
        folder / "fritz.safetensors",
        layout,
        5,
        lambda m, p: f"diffusion_model.{m.replace('mid_block.attentions.0', 'middle_block.1')}.lora_{p}.weight",
        lambda m: f"diffusion_model.{m.replace('mid_block.attentions.0', 'middle_block.1')}.alpha",
    )
    write(
        folder / "gina.safetensors",
        layout,
        6,
        lambda m, p: f"{flat(m).replace('lora_unet', 'lycoris')}.lora_{word(p)}.weight",
        lambda m: f"{flat(m).replace('lora_unet', 'lycoris')}.alpha",
    )
    # Tensors outside the targets may have any dtype; metadata may be missing or have 9 MB.
    kohya(folder / "hans.safetensors", layout, 7, metadata={"ss_tag_frequency": "x" * (9 * 2**20)})
    kohya(folder / "ida.safetensors", layout, 8)
    header, data = fuzz.split_header((folder / "ida.safetensors").read_bytes())
    odd = {"dtype": "F8_E8M0", "shape": [16], "data_offsets": [len(data), len(data) + 16]}
    (folder / "ida.safetensors").write_bytes(
        fuzz.join_header({"__metadata__": None, "lora_te_x.scale": odd} | header, data + bytes(16))
    )
    kohya(folder / (unicodedata.normalize("NFD", "José") + ".safetensors"), layout, 9)
    scales |= dict.fromkeys(["bert", "fritz", "gina", "hans", "ida", "José"], 1.5 / 2)
    scales |= dict.fromkeys(["carl", "dora", "emil"], 1.0)
    # Bystanders.
    for name in (
        "checkpoint-500/optimizer.bin",
        "checkpoint-500/random_states_0.pkl",
        "checkpoint-500/scheduler.pt",
        "anna/w2wmodel.pt",
        "._bert.safetensors",
        "__MACOSX/._x.safetensors",
        ".cache/y.safetensors",
        "bert.png",
        "bert.txt",
        "hans-state/model.safetensors",
        "hans-state/optimizer.bin",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    text = "base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    (folder / "anna/text_encoder").mkdir()
    save_file({text: torch.ones(1, 2)}, folder / "anna/text_encoder/adapter_model.safetensors")
    save_file({"conv_in.weight": torch.ones(1)}, folder / "unet.safetensors")
    save_file({"<sks>": torch.ones(1)}, folder / "token.safetensors")

    tables, data = collected(folder)
    manifest = tables["manifest"].set_index("person")
    assert set(manifest.index) == set(scales)
    assert manifest["naming"].to_dict() == {
        "anna": "peft",
        "bert": "onetrainer",
        "carl": "diffusers",
        "dora": "peft",
        "emil": "diffusers",
        "fritz": "ldm",
        "gina": "kohya",
        "hans": "kohya",
        "ida": "kohya",
        "José": "kohya",
    }
    assert manifest["ignored_keys"].sum() == 1 and manifest.loc["ida", "beyond"] == "lora_te_x.scale"
    for name, vector in by_name(data).items():
        assert_is(vector, layout, sorted(scales, key=str.lower).index(name), scales[name])
    assert tables["quarantine"].empty and tables["duplicates"].empty
    others = tables["others"].set_index("name")["reason"]
    adapter = others["anna/text_encoder/adapter_model.safetensors"]
    assert adapter == f"{text} is of a text encoder, as is all of the file"
    assert "no LoRA" in others["unet.safetensors"] and "embedding" in others["token.safetensors"]
    assert others["checkpoint-500/optimizer.bin"] == "of a trainer's state"
    assert others["._bert.safetensors"] == "what macOS keeps beside a file"
    assert others["__MACOSX"] == "what macOS leaves in archives"
    assert (others[".cache"], others["hans-state"]) == ("a hidden folder", "a trainer's state")
    assert {"bert.png", "bert.txt", "anna/w2wmodel.pt", "anna/unet/adapter_config.json"} <= set(others.index)


@torch.no_grad()
def test_a_lora_of_weights2weights_does_what_peft_makes_of_it(tmp_path, sd15_base, layout, normal):
    unet = UNet2DConditionModel.from_pretrained(sd15_base, subfolder="unet").eval()
    inputs = normal(2, 4, 8, 8), torch.tensor([10, 700]), normal(2, 6, 16)
    peft(tmp_path / "adapter_model.safetensors", layout, 0, adapter=".identity1")
    LoraConfig(r=2, lora_alpha=27, target_modules=[layer.module for layer in layout.layers]).save_pretrained(tmp_path)
    lora = read_lora(tmp_path / "adapter_model.safetensors", layout)
    assert (lora.naming, lora.alpha_from) == ("peft", "adapter_config.json")
    plain = unet(*inputs).sample
    with adapted(unet, layout, lora.vector[None]):
        actual = unet(*inputs).sample
    # peft wants the keys without the adapter's name, as it saves them today.
    peft(tmp_path / "adapter_model.safetensors", layout, 0)
    expected = PeftModel.from_pretrained(unet, tmp_path, adapter_name="identity1")(*inputs).sample
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)
    assert (expected - plain).abs().max() > 1e-3


@torch.no_grad()
def test_names_of_the_original_code_are_what_diffusers_takes_them_for(tmp_path, sd15_base, normal):
    layout = read_layout(sd15_base, LoraParams(rank=2, alpha=3, targets=["to_q", "to_v"], blocks=[]))
    unet = UNet2DConditionModel.from_pretrained(sd15_base, subfolder="unet").eval()
    inputs = normal(2, 4, 8, 8), torch.tensor([10, 700]), normal(2, 6, 16)

    def original(module: str) -> str:
        block, number, _, place, rest = module.split(".", 4) if "mid" not in module else ("", 0, 0, 0, module[23:])
        at = 3 * int(number) + int(place)
        names = {"down_blocks": f"input_blocks.{at + 1}.1", "up_blocks": f"output_blocks.{at}.1"}
        return f"{names.get(block, 'middle_block.1')}.{rest}"

    write(
        tmp_path / "x.safetensors",
        layout,
        0,
        lambda m, p: f"{flat(original(m))}.lora_{word(p)}.weight",
        lambda m: f"{flat(original(m))}.alpha",
    )
    lora = read_lora(tmp_path / "x.safetensors", layout)
    assert (lora.naming, lora.alpha_from, lora.ignored) == ("ldm", "tensors", ())
    plain = unet(*inputs).sample
    with adapted(unet, layout, lora.vector[None]):
        actual = unet(*inputs).sample
    state, alphas = StableDiffusionPipeline.lora_state_dict(str(tmp_path / "x.safetensors"), unet_config=unet.config)
    unet.load_lora_adapter(state, prefix="unet", network_alphas=alphas)
    torch.testing.assert_close(actual, unet(*inputs).sample, atol=1e-4, rtol=1e-4)
    assert (actual - plain).abs().max() > 1e-3


def test_two_adapters_in_one_file_are_named(tmp_path, layout):
    write(
        tmp_path / "x.safetensors",
        layout,
        0,
        lambda m, p: f"base_model.model.{m}.lora_{p}.anna.weight",
        extra={f"base_model.model.{layout.layers[0].module}.lora_A.bert.weight": torch.ones(2, 3)},
    )
    with pytest.raises(InputError, match=r"adapter 'bert', where others are of 'anna'.*selected_adapters"):
        read_lora(tmp_path / "x.safetensors", layout)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"bias": "all"}, {"modules_to_save": ["conv_in"]}])
def test_what_else_a_file_changes_is_said(tmp_path, sd15_base, layout, collected, capsys, options):
    unet = UNet2DConditionModel.from_pretrained(sd15_base, subfolder="unet")
    targets = [layer.module for layer in layout.layers if layer.module.endswith("to_q")]
    model = get_peft_model(unet, LoraConfig(r=2, target_modules=targets, init_lora_weights=False, **options))
    model.save_pretrained(tmp_path / "peft")
    query = WeightLayout(layout.layers[:1], 2, 3.0)
    lora = read_lora(tmp_path / "peft/adapter_model.safetensors", query)
    assert lora.beyond == lora.ignored != ()
    assert all("lora_" not in key for key in lora.beyond)
    # Of the layers that the vector stands for, nothing is left out.
    if "bias" in options:
        with pytest.raises(InputError, match=r"to_out\.0\.bias: neither A, B nor alpha of a LoRA \(a bias\)"):
            read_lora(tmp_path / "peft/adapter_model.safetensors", layout)
    for number in range(5):
        kohya(tmp_path / f"loras/{number}.safetensors", layout, number)
    extra = {key: torch.ones(2) for key in lora.beyond[:5]}
    kohya(tmp_path / "loras/x.safetensors", layout, 9, extra=extra)
    tables, _ = collected(tmp_path / "loras")
    beyond = tables["manifest"].set_index("lora")["beyond"]["x.safetensors"]
    assert beyond == "; ".join(lora.beyond[:3]) + (f" and {len(extra) - 3} more" if len(extra) > 3 else "")
    assert (
        "warning: 1 of the files hold more than a LoRA, which is left out, such as x.safetensors"
        in capsys.readouterr().err
    )


def test_a_folder_below_home(tmp_path, layout, collected, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in range(5):
        kohya(tmp_path / f"loras/{number}.safetensors", layout, number)
    assert len(collected(Path("~/loras"))[0]["manifest"]) == 5


def test_long_chains_of_links_end(tmp_path, layout):
    for number in range(1000):
        os.symlink(f"{number + 1}.safetensors", tmp_path / f"{number}.safetensors")
    kohya(tmp_path / "1000.safetensors", layout, 0)
    scan = scan_folder(tmp_path, layout)
    assert list(scan.accepted) == ["1000.safetensors"]
    assert all("leads nowhere (Too many levels" in each.reason for each in scan.rejected) and len(scan.rejected) > 900


def test_fuzz_run_of_folders_finds_nothing_and_would_find_something(monkeypatch):
    counts, failures, _ = fuzz_lora_folders.fuzz_folders(12, seed=1)
    assert failures == [] and counts["folders"] == 12
    monkeypatch.setattr(
        lora_folder,
        "find_trainings",
        lambda metadata: [each for name in sorted(metadata) for each in find_trainings({name: metadata[name]})],
    )
    assert any("read" in line for line in fuzz_lora_folders.fuzz_folders(12, seed=1)[1])
    monkeypatch.setattr(lora_folder, "find_trainings", lambda metadata: [].pop())
    assert any("crashed" in line for line in fuzz_lora_folders.fuzz_folders(2, seed=1)[1])
