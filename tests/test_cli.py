"""The command `w2wpp`: outputs and messages of each command, and one clear line for bad input."""

import json
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from skimage import data as pictures

import w2wpp
from w2wpp.cli import main
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import WeightLayout

ROOT = Path(__file__).parents[1]
FAST = "invert: {steps: 3}\ngenerate: {inference_steps: 2}\n"


@pytest.fixture
def world(repro) -> Path:
    """The current directory of a user: artifacts, quick settings, and a photo of a face."""
    (repro / "params.yaml").write_text(f"seed: 0\nvae: {{latent_dim: 9}}\n{FAST}")
    Image.fromarray(pictures.astronaut()).save(repro / "photo.jpg")
    return repro


@pytest.fixture
def run(capsys):
    """run(argument, ...): the output of a successful command, line by line."""

    def run(*arguments: str | Path) -> list[str]:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, arguments)))
        assert ended.value.code == 0
        return capsys.readouterr().out.splitlines()

    return run


def refused(*arguments: str | Path) -> str:
    """The one line with which a command ends at exit status 1, which sys.exit sets when it is given text."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert isinstance(ended.value.code, str) and "\n" not in ended.value.code
    return ended.value.code


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_help_fits_a_screen_and_answers_at_once():
    environment = os.environ | {"COLUMNS": "100", "LINES": "24"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    text = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "w2wpp", "--help"],
        check=True,
        text=True,
        capture_output=True,
        env=environment,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert len(text.stdout.splitlines()) <= 24 and max(map(len, text.stdout.splitlines())) <= 100
    assert all(f" {name} " in text.stdout for name in ("invert", "sample", "blend", "edit", "draw", "info", "export"))
    assert not re.search(r"\| +(torch|diffusers|numpy|pandas)$", text.stderr, re.MULTILINE)
    # CPU time, because other tests run at the same time.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


def test_invert_writes_a_lora_and_a_sheet_and_says_what_it_did(world, run):
    printed = run("invert", "photo.jpg", "-o", "me.safetensors", "--space", "pca")
    assert [line.split()[0] for line in printed] == ["photo", "space", "start", "search", "wrote"]
    assert "512 x 512 pixels: one face, aligned" in printed[0] and "4 dimensions" in printed[1]
    assert "photo encoder's guess" in printed[2] and "3 steps" in printed[3] and "me-sheet.png" in printed[4]
    me = w2wpp.load_lora("me.safetensors", "pca")
    found = w2wpp.invert("photo.jpg", "pca", settings=w2wpp.InvertParams(steps=3))
    torch.testing.assert_close(me.weights, found.weights)
    w2wpp.load_base().load_lora_weights(".", weight_name="me.safetensors")
    width, height = size(world / "me-sheet.png")
    assert width > 9 * 160 and height > 160
    sheet = np.asarray(Image.open("me-sheet.png"))
    shown = np.asarray(Image.fromarray(found.record.photos[0].pixels).resize((160, 160), Image.Resampling.BICUBIC))
    assert any((sheet[top : top + 160, 20:180] == shown).all() for top in range(height - 159))


def test_invert_refines(world, run):
    said = run("invert", "photo.jpg", "-o", "me.safetensors", "--space", "pca", "--refine", "2")
    assert "3 steps, then 2 in all weights, in" in said[3]
    me = w2wpp.load_lora("me.safetensors", "pca")
    found = w2wpp.invert("photo.jpg", "pca", settings=w2wpp.InvertParams(steps=3), refine=2)
    torch.testing.assert_close(me.weights, found.weights)
    assert (me.weights - found.space.decode(found.z[None])[0]).abs().max() > 1e-3


def test_invert_by_a_base_model_a_space_and_settings_of_ones_own(world, run, sd15_base, draw_weights, make_space):
    """As with Stable Diffusion 1.5: no people, no photo encoder, no artifacts of the shipped world."""
    shutil.rmtree("data")
    Path("params.yaml").unlink()
    Path("sd15.yaml").write_text("invert: {steps: 2, prompt: sks person, mask: face}\ngenerate: {inference_steps: 1}\n")
    layout = WeightLayout.of_unet(w2wpp.load_base(sd15_base).unet, 1, 27.0, ["to_q", "to_v"])
    make_space(layout, draw_weights(layout, 3, seed=4), draw_weights(layout, 1)[0]).save("mine.safetensors")
    printed = run("invert", "photo.jpg", "--base", sd15_base, "--space", "mine.safetensors", "--params", "sd15.yaml")
    assert "the mean of the space" in printed[2]
    assert w2wpp.load_lora("photo.safetensors", "mine.safetensors").z.abs().max() > 0
    assert size(world / "photo-sheet.png")[1] > 160


def test_several_photos_of_one_person(world, run):
    Image.fromarray(pictures.astronaut()[:, ::-1]).save("other.png")
    printed = run("invert", "photo.jpg", "other.png", "--space", "pca", "--encoder", "none", "--format", "peft")
    assert "photo.jpg and 1 more" in printed[0] and "mean of the space" in printed[2]
    assert sorted(path.name for path in Path("photo").iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_sample_blend_draw(world, run):
    assert run("sample", "-o", "a.safetensors", "--space", "pca", "--seed", "5", "--seeds", "2") == [
        "wrote a.safetensors and a-sheet.png"
    ]
    torch.testing.assert_close(w2wpp.load_lora("a.safetensors").weights, w2wpp.sample("pca", 5).weights)
    run("sample", "-n", "2", "-o", "b.safetensors", "--space", "pca", "--seed", "5", "--seeds", "1")
    assert Path("b-5.safetensors").read_bytes() == Path("a.safetensors").read_bytes()
    assert Path("b-6.safetensors").is_file()

    run("blend", "a.safetensors", "b-6.safetensors", "--share", "0.25", "--space", "pca", "--dtype", "fp16")
    ends = [w2wpp.load_lora(name, "pca") for name in ("a.safetensors", "b-6.safetensors")]
    torch.testing.assert_close(
        w2wpp.load_lora("blend.safetensors").weights, w2wpp.blend(*ends, 0.25).weights, atol=1e-3, rtol=1e-3
    )
    assert size(world / "blend-sheet.png")[0] > 7 * 160

    shutil.rmtree("data/spaces")  # a LoRA that states its layout needs no space
    assert run("draw", "a.safetensors", "a photo of sks person, smiling", "--seeds", "3") == ["wrote a.png"]
    assert size(world / "a.png")[0] > 3 * 160


def test_edit(world, run, save_directions, save_zoo):
    run("sample", "-o", "me.safetensors", "--space", "pca", "--seeds", "1")
    save_directions("pca")
    how = ("edit", "me.safetensors", "--space", "pca", "--seeds", "2")
    assert run(*how, "--set", "age=1.5", "--set", "glasses=-2", "-o", "old.safetensors") == [
        "wrote old.safetensors and old-sheet.png"
    ]
    me = w2wpp.load_lora("me.safetensors", "pca")
    expected = me.edit({"age": 1.5, "glasses": -2.0}).weights
    torch.testing.assert_close(w2wpp.load_lora("old.safetensors").weights, expected)
    assert size(world / "old-sheet.png")[0] > 4 * 160

    run(*how, "--set", "age=1.5", "--hold", "none", "--below", "1")
    alone = me.edit({"age": 1.5}, hold_others=False)
    torch.testing.assert_close(w2wpp.load_lora("edited.safetensors").weights, alone.weights)
    sheet = np.asarray(Image.open("edited-sheet.png"))[40:-40]
    # Below timestep 1 nothing is left to draw, so the edited person looks like the unedited one.
    before, after = np.array_split(sheet, 2, 1)
    width = min(before.shape[1], after.shape[1])
    assert np.abs(before[:, :width].mean() - after[:, -width:].mean()) < 5

    save_zoo()
    Path("mine.csv").write_text("person,tall\n" + "".join(f"zoo-{n},{n % 3}\n" for n in range(12)))
    run(*how, "--set", "tall=1", "--labels", "mine.csv")
    learned = w2wpp.learn_directions("pca", "mine.csv")
    torch.testing.assert_close(
        w2wpp.load_lora("edited.safetensors").weights, me.edit({"tall": 1.0}, directions=learned).weights
    )
    for arguments, words in (
        (("--set", "age"), r"error: --set: 'age' is no label and number\. Write it as age=1\.5"),
        (("--set", "hat=1"), r"error: --set: no label 'hat'\. Labels: age, glasses"),
        (("--set", "age=1", "--hold", "hat"), r"error: --hold: no label 'hat'"),
    ):
        assert re.match(words, refused(*how, *arguments))
    Path("data/edits/pca/directions.safetensors").unlink()
    assert "directions: no file" in refused(*how, "--set", "age=1")


@pytest.mark.parametrize("format", ["diffusers", "peft", "kohya"])
def test_export_writes_what_each_tool_reads(world, run, layout, format):
    person = w2wpp.sample("pca", 1)
    person.save("a.safetensors")
    run("export", "a.safetensors", "-o", "out.safetensors", "--format", format, "--dtype", "fp16")
    export_lora("expected.safetensors", person.weights, layout, format, "fp16")
    file = "adapter_model.safetensors" if format == "peft" else ""
    assert Path("out.safetensors", file).read_bytes() == Path("expected.safetensors", file).read_bytes()
    if format == "peft":
        assert json.loads(Path("out.safetensors/adapter_config.json").read_text())["r"] == layout.rank
    else:  # and its output can be exported again, even in another tool's format
        run("export", "out.safetensors", "-o", "again.safetensors", "--space", "pca", "--dtype", "fp32")
        assert len(load_file("again.safetensors")) == 2 * len(layout.layers)


def test_info_of_a_space_and_of_loras(world, run, pipe, layout, wide_layout, draw_weights, sd15_base):
    printed = dict(line.split(maxsplit=1) for line in run("info", "data/spaces/pca/space.safetensors"))
    assert printed["space"].startswith("pca, 4 dimensions") and printed["base"] == "fits data/base"
    assert (
        f"rank 1, alpha 8, {layout.dimension} numbers" in printed["LoRAs"] and "one A for all" not in printed["LoRAs"]
    )
    printed = run("info", "data/spaces/pca/space.safetensors", "--base", sd15_base)[-1]
    assert printed.startswith("base") and "does not fit" in printed

    w2wpp.sample("pca", 1).save("own.safetensors")
    printed = dict(line.split(maxsplit=1) for line in run("info", "own.safetensors", "--space", "pca"))
    assert printed["LoRA"].startswith("of w2w++ for diffusers; rank 1, alpha 8") and printed["base"] == "fits data/base"
    assert "the space keeps 100%" in printed["space"]
    export_lora("other.safetensors", draw_weights(layout, 1, seed=9)[0], layout, "kohya", "fp16")
    printed = dict(line.split(maxsplit=1) for line in run("info", "other.safetensors", "--space", "pca"))
    assert printed["LoRA"].startswith("in the keys of kohya, rank 1, alpha from tensors") and "F16" in printed["file"]
    assert int(re.search(r"keeps (-?\d+)%", printed["space"])[1]) < 50
    keys = WeightLayout.of_unet(pipe.unet, 1, 8.0, ["to_k"])
    export_lora("wide.safetensors", draw_weights(wide_layout, 1)[0], wide_layout)
    printed = dict(line.split(maxsplit=1) for line in run("info", "wide.safetensors"))
    assert printed["base"] == "fits data/base" and "space: no data/spaces/vae" in printed["space"]
    export_lora("keys.safetensors", torch.ones(keys.dimension), keys)
    printed = dict(line.split(maxsplit=1) for line in run("info", "keys.safetensors", "--space", "pca"))
    assert printed["base"] == "fits data/base" and "pca does not fit" in printed["space"]
    save_file({"lora_te_x.lora_down.weight": torch.zeros(2, 2)}, "text.safetensors")
    printed = dict(line.split(maxsplit=1) for line in run("info", "text.safetensors", "--space", "pca"))
    assert printed["LoRA"] == "not written by w2w++ for diffusers" and "pca does not fit" in printed["space"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["invert", "photo.jpg"], r"error: --space: no data/spaces/vae/space\.safetensors.*Run `make repro`"),
        (["invert", "photo.jpg", "--space", "pca", "--base", "none"], r"error: --base: no such folder: none"),
        (["invert", "missing.jpg", "--space", "pca"], r"error: .*missing\.jpg: cannot be read \(No such file"),
        (
            ["invert", "params.yaml", "--space", "pca"],
            r"error: .*params\.yaml: no picture; JPEG, PNG and WebP are read",
        ),
        (["invert", "wall.png", "--space", "pca"], r"error: wall\.png: no face found\. Give a photo"),
        (["invert", "cut.jpg", "--space", "pca"], r"error: .*cut\.jpg: a damaged JPEG"),
        (["invert", "photo.jpg", "--space", "pca", "--faces", "cv2"], r"error: --faces: unknown face finder 'cv2'"),
        (["invert", "photo.jpg", "--space", "pca", "--encoder", "e.safetensors"], r"error: --encoder: no such file"),
        (["invert", "photo.jpg", "--space", "pca", "--sheet", "photo.jpg"], r"error: --sheet: photo\.jpg is the photo"),
        (["draw", "photo.jpg"], r"error: photo\.jpg: a JPEG picture"),
        (["info", "params.yaml"], r"error: params\.yaml: a text"),
        (
            ["blend", "missing.safetensors", "b.safetensors", "--space", "pca"],
            r"error: missing\.safetensors: cannot be",
        ),
        (["sample", "--space", "pca", "--params", "bad.yaml"], r"error: bad\.yaml: generate\.batch: .*greater than or"),
        (["sample", "--space", "pca", "--params", "none.yaml"], r"error: none\.yaml: no such file"),
        (["sample", "--space", "pca", "--params", "list.yaml"], r"error: list\.yaml: .*not a mapping"),
    ],
)
def test_what_is_wrong_is_one_clear_line(world, arguments, words):
    Image.new("RGB", (200, 150), "green").save("wall.png")
    Path("cut.jpg").write_bytes(Path("photo.jpg").read_bytes()[:5000])
    Path("bad.yaml").write_text("generate: {batch: 0}\n")
    Path("list.yaml").write_text("- 1\n")
    before = set(world.iterdir())
    assert re.match(words, refused(*arguments))
    assert set(world.iterdir()) == before


def test_misspelt_options_are_told_by_name(world, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["invert", "photo.jpg", "--spcae", "pca"])
    assert ended.value.code == 2 and "--spcae" in capsys.readouterr().err


def test_the_command_is_installed_under_its_name():
    """Both ways to call it, in processes of their own, end with status 1 and one line on stderr."""
    for command in ([str(Path(sys.executable).with_name("w2wpp"))], [sys.executable, "-m", "w2wpp"]):
        done = subprocess.run([*command, "info", "missing.safetensors"], capture_output=True, text=True)
        assert done.returncode == 1 and done.stdout == ""
        assert re.fullmatch(r"error: missing\.safetensors: cannot be read \(No such file.*\n", done.stderr)
