"""Files that are no LoRAs of the UNet are called what they are, with a key of theirs and a remedy."""

import pytest
import torch
from brought_loras import collector, flat, kohya, middle_layout
from safetensors.torch import save, save_file

from w2wpp.files.errors import InputError
from w2wpp.ingest.foreign import read_lora
from w2wpp.lora.layout import WeightLayout


@pytest.fixture
def layout(sd15_base) -> WeightLayout:
    return middle_layout(sd15_base)


FLUX = "transformer.single_transformer_blocks.0.attn.to_q.lora_A.weight"
XL = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q.lora_down.weight"
SD3 = "transformer.transformer_blocks.3.attn.add_q_proj.lora_A.weight"
TEXT = "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight"


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            None,
            "Git LFS pointer.*`git lfs pull`",
        ),
        (b"<!DOCTYPE html><html>Sign in</html>", None, "a web page, not the file. Download the file itself"),
        (b"\xef\xbb\xbf\n <HTML>", None, "a web page"),
        (b'{"error":"gated"}', None, "a JSON text, not the file"),
        (b"Entry not found\n", None, "a text, not the file: 'Entry not found'"),
        (b"", None, "an empty file"),
        (b"\x1f\x8b\x08\x00", None, "a gzip archive. Unpack"),
        (bytes(99), None, "zeros at its start"),
        (b"\x00\x05\x16\x07\x00\x02", None, "macOS"),
        (b"../.git/annex/objects/x", None, "git annex get"),
        ({FLUX: (1, 2)}, FLUX, "looks like a LoRA of Flux"),
        ({XL: (1, 2)}, XL, "looks like a LoRA of Stable Diffusion XL"),
        ({SD3: (1, 2)}, SD3, "looks like a LoRA of Stable Diffusion 3"),
        ({TEXT: (1, 2)}, TEXT, "of a text encoder, as is all of the file. Leave it out"),
        (
            {"lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a": (1, 2)},
            "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q.hada_w1_a",
            r"\(LoHa\).*plain LoRAs",
        ),
        ({"foo.bar": (1, 2)}, "foo.bar", "no LoRA of the UNet, or one with names that are not known here"),
    ],
)
def test_messages_say_what_a_file_is(tmp_path, layout, content, key, words):
    path = tmp_path / "x.safetensors"
    path.write_bytes(
        content if isinstance(content, bytes) else save({name: torch.ones(shape) for name, shape in content.items()})
    )
    with pytest.raises(InputError, match=words) as caught:
        read_lora(path, layout)
    assert (caught.value.where, caught.value.key) == (str(path), key)
    assert caught.value.remedy


def test_the_stages_say_it_and_list_the_remedy(tmp_path, layout, sd15_base, monkeypatch):
    folder, collected = tmp_path / "loras", collector(tmp_path, sd15_base, monkeypatch)
    for number in range(6):
        kohya(folder / f"{number}.safetensors", layout, number)
    (folder / "x.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    (folder / "y.safetensors").write_text("<!DOCTYPE html><html>Sign in</html>")
    save_file({FLUX: torch.ones(1, 2)}, folder / "z.safetensors")
    with pytest.raises(
        SystemExit,
        match=r"^error: x\.safetensors: 3 of 9 LoRAs are unusable, the first \(x\): a Git LFS pointer, which only "
        r"stands for the file\. Run `git lfs pull` in .*max_quarantined, which is 0\.3",
    ):
        collected(folder, max_quarantined=0.3)
    tables, data = collected(folder, max_quarantined=0.34)
    assert len(data.people) == 6
    listed = tables["quarantine"].set_index("lora")
    assert listed["key"].to_dict() == {"x.safetensors": "", "y.safetensors": "", "z.safetensors": FLUX}
    for name, row in listed.iterrows():
        with pytest.raises(InputError) as caught:
            read_lora(folder / name, layout)
        assert (row["reason"], row["remedy"]) == (caught.value.reason, caught.value.remedy)


def test_a_lora_of_xl_that_has_some_of_the_modules(tmp_path, layout):
    module = layout.layers[0].module
    save_file(
        {f"{flat(module)}.lora_{part}.weight": torch.ones(2, 2) for part in ("down", "up")} | {XL: torch.ones(1, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(InputError, match=f"no LoRA A for this module, and {XL} looks like .* XL"):
        read_lora(tmp_path / "x.safetensors", layout)
