"""Users' LoRAs through the stages: each person once, with the effect of the LoRA, and a reason for every other file."""

import json
import os
import runpy
import shutil
import sys
import unicodedata
from pathlib import Path

import fuzz_lora_folders
import fuzz_loras as fuzz
import pandas as pd
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save, save_file

from w2wpp.files.errors import InputError
from w2wpp.ingest import folder as lora_folder
from w2wpp.ingest.checkpoints import find_trainings
from w2wpp.ingest.folder import scan_folder
from w2wpp.ingest.foreign import read_lora
from w2wpp.ingest.people import read_listed
from w2wpp.ingest.sources import read_layout
from w2wpp.lora.adapters import adapted
from w2wpp.lora.layout import LoraParams, WeightLayout
from w2wpp.lora.weights import read_weights

ROOT = Path(__file__).parents[1]
LORA = {"rank": 2, "alpha": 3, "targets": ["attn1.to_q", "attn1.to_out.0"], "blocks": ["mid_block"]}
TABLES = ("manifest", "quarantine", "duplicates", "others", "ignored_keys")


@pytest.fixture
def base(sd15_base) -> Path:
    return sd15_base


@pytest.fixture
def layout(base) -> WeightLayout:
    """Two modules of the middle block."""
    return read_layout(base, LoraParams(**LORA))


@pytest.fixture
def collected(tmp_path, base, monkeypatch):
    """collected(folder, ...) runs collect and flatten, and returns the tables that collect leaves and the vectors."""

    def run(folder: Path, max_quarantined: float = 0.0, **collect) -> tuple[dict[str, pd.DataFrame], object]:
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
def test_a_lora_of_weights2weights_does_what_peft_makes_of_it(tmp_path, base, layout, normal):
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").eval()
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
def test_names_of_the_original_code_are_what_diffusers_takes_them_for(tmp_path, base, normal):
    layout = read_layout(base, LoraParams(rank=2, alpha=3, targets=["to_q", "to_v"], blocks=[]))
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet").eval()
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


def test_checkpoints_are_one_person(tmp_path, layout, collected):
    folder = tmp_path / "loras"
    for person in range(5):
        for step, part in enumerate(("checkpoint-500", "checkpoint-1000", ".")):
            kohya(folder / f"p{person}" / part / "pytorch_lora_weights.safetensors", layout, 10 * person + step)
    for step, name in enumerate(("anna-000010", "anna-000002", "anna-step00000100")):
        kohya(folder / f"{name}.safetensors", layout, 100 + step)
    kohya(folder / "bert_000000500.safetensors", layout, 110)
    kohya(folder / "bert_000001000.safetensors", layout, 111)
    (folder / "bert_000001000.safetensors").write_bytes((folder / "bert_000001000.safetensors").read_bytes()[:-9])
    tables, data = collected(folder, max_quarantined=0.2)
    manifest = tables["manifest"].set_index("person")
    assert manifest["lora"].to_dict() == {
        **{f"p{person}": f"p{person}/pytorch_lora_weights.safetensors" for person in range(5)},
        "anna": "anna-step00000100.safetensors",
        "bert": "bert_000000500.safetensors",
    }
    assert manifest["checkpoints"].to_dict() == {**{f"p{person}": 3 for person in range(5)}, "anna": 3, "bert": 2}
    assert tables["quarantine"]["lora"].tolist() == ["bert_000001000.safetensors"]
    assert set(tables["others"]["reason"]) == {
        f"another checkpoint of the training of {name}" for name in manifest["lora"] if "bert" not in name
    }
    vectors = by_name(data)
    assert_is(vectors["p3"], layout, 32, 0.75)
    assert_is(vectors["anna"], layout, 102, 0.75)

    tables, _ = collected(folder, max_quarantined=0.2, checkpoints="all")
    manifest = tables["manifest"]
    assert manifest["person"].value_counts().to_dict() == {
        "anna": 3,
        "bert": 1,
        "p0": 3,
        "p1": 3,
        "p2": 3,
        "p3": 3,
        "p4": 3,
    }
    assert manifest.groupby("person")["split"].nunique().max() == 1

    (folder / "people.csv").write_text(
        "file;person\np0\\checkpoint-500\\pytorch_lora_weights.safetensors;Ann\nanna-000002.safetensors;Ann\n"
        "anna-000010.safetensors;Ann\n",
        "utf-16",
    )
    tables, _ = collected(folder, max_quarantined=0.2)
    manifest = tables["manifest"]
    assert sorted(manifest["lora"][manifest["person"] == "Ann"]) == [
        "anna-000002.safetensors",
        "anna-000010.safetensors",
        "p0/checkpoint-500/pytorch_lora_weights.safetensors",
    ]
    assert len(manifest) == 3 + 4 + 1 and "anna" not in set(manifest["person"])


def test_numbers_that_could_be_people_are_asked_about(tmp_path, layout):
    kohya(tmp_path / "a-000000.safetensors", layout, 0)
    for number in range(1, 52):
        shutil.copy(tmp_path / "a-000000.safetensors", tmp_path / f"a-{number:06d}.safetensors")
    with pytest.raises(InputError, match=r"a-000000.*one of 52 files that are numbered as checkpoints.*people.csv"):
        scan_folder(tmp_path, layout)
    listed = {f"a-{number:06d}.safetensors" for number in range(52)}
    assert len(scan_folder(tmp_path, layout, listed=listed).duplicates) == 51
    kohya(tmp_path / "a.safetensors", layout, 1)
    assert list(scan_folder(tmp_path, layout).accepted) == ["a.safetensors"]


def test_copies_are_told(tmp_path, layout, collected):
    for name in "abcd":
        kohya(tmp_path / f"loras/{name}.safetensors", layout, 0)
    with pytest.raises(SystemExit, match=r"1 LoRA can be read, too few for a zoo; 3 are copies of a\.safetensors\."):
        collected(tmp_path / "loras")
    kohya(tmp_path / "loras/p/checkpoint-5/pytorch_lora_weights.safetensors", layout, 1)
    kohya(tmp_path / "loras/p/pytorch_lora_weights.safetensors", layout, 2)
    with pytest.raises(SystemExit, match=r"2 LoRAs can be read, .*; further checkpoints of these trainings: 1\."):
        collected(tmp_path / "loras")


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


def test_a_lora_of_xl_that_has_some_of_the_modules(tmp_path, layout):
    module = layout.layers[0].module
    save_file(
        {f"{flat(module)}.lora_{part}.weight": torch.ones(2, 2) for part in ("down", "up")} | {XL: torch.ones(1, 2)},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(InputError, match=f"no LoRA A for this module, and {XL} looks like .* XL"):
        read_lora(tmp_path / "x.safetensors", layout)


@torch.no_grad()
@pytest.mark.parametrize("options", [{"bias": "all"}, {"modules_to_save": ["conv_in"]}])
def test_what_else_a_file_changes_is_said(tmp_path, base, layout, collected, capsys, options):
    unet = UNet2DConditionModel.from_pretrained(base, subfolder="unet")
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


@pytest.mark.parametrize(
    ("content", "listed"),
    [
        ("file,person\nJosé.safetensors,José\n", {"José.safetensors": "José"}),
        ("file;person\nJosé.safetensors;Müller, José\n", {"José.safetensors": "Müller, José"}),
        ("Person\tFile\tnote\r\nAnna\t./a\\b.safetensors\tx\r\n\r\n", {"a/b.safetensors": "Anna"}),
        ('\ufeffsep=;\nfile;person\n"x;y";"Ann"\n', {"x;y": "Ann"}),
        ("file|person\na|b", {"a": "b"}),
        ("file,person\n", {}),
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_tables_of_people(tmp_path, content, listed, form):
    (tmp_path / "people.csv").write_text(unicodedata.normalize(form, content), "utf-8", newline="")
    assert read_listed(tmp_path / "people.csv") == listed


@pytest.mark.parametrize(
    ("content", "key", "words"),
    [
        (
            b"file,person\np,anna\nq,carl\np,bert\n",
            "file",
            "'p' is in line 2, of 'anna', and in line 4, of 'bert'. Keep",
        ),
        (b"file,person\np,anna\np,anna\n", "file", "line 2, of 'anna', and in line 3"),
        (b"file,person\nJos\xe9,x\n", None, "not in UTF-8"),
        (b"name,person\n", "file", "column missing"),
        (b'file,person\n"p,anna\n', None, "not a sound CSV"),
        (b"file,person\np\n", "person", "'' in line 2, expected a"),
        (b"", "file", "column missing"),
    ],
)
def test_tables_of_people_that_are_wrong(tmp_path, content, key, words):
    (tmp_path / "people.csv").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_listed(tmp_path / "people.csv")
    assert caught.value.key == key
    assert words in str(caught.value)


def test_names_are_matched_however_accents_are_written(tmp_path, layout, collected):
    for number, name in enumerate(("José", "Zoë", "Åsa", "Ω", "e", "f")):
        kohya(tmp_path / "loras" / f"{unicodedata.normalize('NFD', name)}.safetensors", layout, number)
    (tmp_path / "loras/people.csv").write_text("file,person\nJosé.safetensors,J\nÅsa.safetensors,Å\n")
    tables, _ = collected(tmp_path / "loras")
    assert set(tables["manifest"]["person"]) == {"J", "Zoë", "Å", "Ω", "e", "f"}
    (tmp_path / "loras/people.csv").write_text("file,person\n._x.safetensors,J\n")
    (tmp_path / "loras/._x.safetensors").touch()
    with pytest.raises(SystemExit, match=r"'\._x\.safetensors' \(what macOS keeps.*expected a LoRA of the folder"):
        collected(tmp_path / "loras")


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
