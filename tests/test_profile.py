"""A profile changes its own keys and nothing else, or nothing at all."""

import shutil
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from trees import leaves

from w2wpp.files.errors import InputError
from w2wpp.run.params import load_params
from w2wpp.run.profile import apply_profile

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/sd15.yaml"
SHIPPED = (ROOT / "params.yaml").read_bytes()


def test_profile_keeps_comments_and_all_other_settings(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_profile(PROFILE, tmp_path / "params.yaml", ["portraits.path=my/photos", "invert.people_at_once=2"])
    before, after = load_params(ROOT / "params.yaml"), load_params(tmp_path / "params.yaml")
    changed = {
        key: value for key, value in leaves(after.model_dump()).items() if leaves(before.model_dump())[key] != value
    }
    profile = leaves(yaml.safe_load(PROFILE.read_text()))
    assert changed.keys() <= profile.keys() | {"portraits.path", "invert.people_at_once"}
    assert (changed["lora.alpha"], changed["generate.inference_steps"], changed["generate.guidance"]) == (27, 50, 3)
    assert (changed["portraits.path"], changed["invert.people_at_once"]) == ("my/photos", 2)
    comments = [line.split("#")[1] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    assert all(f"#{comment}" in (tmp_path / "params.yaml").read_text() for comment in comments)
    # Stages that the profile does not affect must not run again.
    for key in ("seed", "portraits.size", "base.people", "base.photos", "probe.steps", "arcface.dim"):
        assert key not in changed


def test_an_empty_profile_changes_no_byte(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "none.yaml").write_text("space: vae\n")
    apply_profile(tmp_path / "none.yaml", tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize(
    "overrides",
    [
        ["flatten.people=256"],
        ["lora.blocks=[]", "sample.prompts=['sks: a $, #1','x']"],
        ["collect.path='a #b'"],
        [f"generate.negative_prompt='{'low quality, blurry: ' * 20}'"],
        ["invert.region=[0,0,1,1]", "engine.address=x:1"],
    ],
)
def test_params_as_dvc_leaves_them(tmp_path, overrides):
    ours, theirs = tmp_path / "params.yaml", tmp_path / "settings.yaml"
    for file in (ours, theirs):
        shutil.copy(ROOT / "params.yaml", file)
        apply_overrides(file, overrides)  # as `dvc exp run -S`
    settings = load_params(theirs)
    comments = [line.split("#")[1] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    for _ in range(2):
        apply_profile(PROFILE, ours)
        expected, profile = leaves(settings.model_dump(mode="json")), leaves(yaml.safe_load(PROFILE.read_text()))
        assert leaves(load_params(ours).model_dump(mode="json")) == expected | profile | {"invert.adam_epsilon": 1e-8}
        assert [comment for comment in comments if f"#{comment}" not in ours.read_text()] == []
        apply_overrides(ours, ["space=pca"])
        settings = settings.model_copy(update={"space": "pca"})


def test_what_params_leave_to_defaults_is_added(tmp_path):
    (tmp_path / "params.yaml").write_text("# mine\nvae:\n  # to try\n  layers: 0\nspace: pca  # for now\n")
    (tmp_path / "profile.yaml").write_text("seed: 3\nvae: {kl: {weight: 0.5}, lr: 1e-3}\nsample: {prompts: [x]}\n")
    apply_profile(tmp_path / "profile.yaml", tmp_path / "params.yaml", ["flatten.people=9"])
    changed = load_params(tmp_path / "params.yaml")
    assert (changed.seed, changed.vae.layers, changed.vae.kl.weight, changed.vae.lr) == (3, 0, 0.5, 1e-3)
    assert (changed.space, changed.sample.prompts, changed.flatten.people) == ("pca", ["x"], 9)
    written = (tmp_path / "params.yaml").read_text()
    assert written.startswith("# mine\n") and "  # to try\n" in written and "space: pca  # for now\n" in written


def test_line_ends_and_the_mark_of_windows_stay(tmp_path):
    mark, params, profile = b"\xef\xbb\xbf", tmp_path / "params.yaml", tmp_path / "profile.yaml"
    params.write_bytes(mark + SHIPPED.replace(b"\n", b"\r\n"))
    profile.write_bytes(mark + b"lora:\r\n  blocks: []\r\n")
    apply_profile(profile, params, ["sample.prompts=[x]"])
    changed = load_params(params)
    assert (changed.lora.blocks, changed.sample.prompts) == ([], ["x"])
    written = params.read_bytes()
    assert written.startswith(mark) and written.count(b"\r\n") == written.count(b"\n")
    same = sum(line in SHIPPED for line in written.removeprefix(mark).splitlines())
    assert same == len(SHIPPED.splitlines()) - 5  # of prompts there were three


@pytest.mark.parametrize(
    ("profile", "setting", "words"),
    [
        ("vae: {latentdim: 3}", None, r"vae\.latentdim: unknown key. Did you mean latent_dim\? Known keys here: seed,"),
        ("vae: 3", None, r"vae: a section"),
        ("vae:", None, r"vae: a section"),
        ("seed: {x: 3}", None, r"seed: a section"),
        ("vae: {lr: 1e-3x}", None, r"vae\.lr: .*'1e-3x'\. Change it there$"),
        ("[1]", None, "not a mapping"),
        ("a: [", None, r"not valid YAML, line \d: "),
        ("portraits: {source: folder}", None, r"portraits: .*needs portraits\.path"),
        ("portraits: {source: folder, path: x}", None, r"collect\.source must be w2w or folder"),
        ("base: {source: pretrained}", None, r"base: .*needs base\.model"),
        ("space: vae", "vae.latent_dim", "no setting. Write section.key=value"),
        ("space: vae", "=3", "no setting. Write section.key=value"),
        ("space: vae", "vae.latent_dim=[", r"^setting vae\.latent_dim: '\[' is not valid YAML.* Quote it$"),
        ("space: vae", "vae.latent_dim=x", r"^setting vae\.latent_dim: vae\.latent_dim: .*got 'x'\. Change it there$"),
        ("collect: {repeated: 1}", "vae.within_person_ridge=1.0", r"pca\.within_person_ridge must be null"),
    ],
)
def test_wrong_profiles_and_settings_change_nothing(tmp_path, profile, setting, words):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "profile.yaml").write_text(profile)
    with pytest.raises(InputError, match=words) as caught:
        apply_profile(tmp_path / "profile.yaml", tmp_path / "params.yaml", [setting] if setting else [])
    blamed = setting and profile == "space: vae"
    assert caught.value.where.startswith("setting " if blamed else str(tmp_path / "profile.yaml"))
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("which", ["params.yaml", "profile.yaml"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (SHIPPED + b"space: pca\n", r"not valid YAML, line \d+: found duplicate key \"space\""),
        (b"vae:\n\tlr: 0.1\n", r"not valid YAML, line 2: .*'\\t'.* Indent with spaces"),
        (b"", "empty. "),
        (b"# no more\n", "empty. "),
        (b"7", "not a mapping"),
        ("space: pca\n".encode("utf-16"), r"not UTF-8 \(byte 0 is 0xff\)\. Save it as UTF-8"),
        (b"space: p\x00ca\n", "not valid YAML: .*character"),
        (b"seed: 2026-99-99\n", "not valid YAML: month"),
        (b"a: " + 5000 * b"[", "not valid YAML"),
        (b"space: !vae x\n", "not valid YAML, line 1: .*tag"),
        (b"space: vae\n---\nspace: pca\n", "not valid YAML, line 2: .*another document"),
        (None, "no such file"),
        ("folder", "cannot be read"),
    ],
)
def test_an_unreadable_file_is_named_and_not_the_other(tmp_path, which, content, words):
    (tmp_path / "params.yaml").write_bytes(SHIPPED)
    (tmp_path / "profile.yaml").write_text("space: pca\n")
    (tmp_path / which).unlink()
    if content == "folder":
        (tmp_path / which).mkdir()
    elif content is not None:
        (tmp_path / which).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        apply_profile(tmp_path / "profile.yaml", tmp_path / "params.yaml")
    assert caught.value.where == str(tmp_path / which)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({b"latent_dim: 64": b"latent_dim: many"}, "vae.latent_dim: .*'many'"),
        ({b"  layers: 1 ": b"  layer: 1 "}, "vae.layer: unknown key. Did you mean layers"),
        ({b"vae:\n": b"vae: 3\nvae_:\n"}, "vae_: unknown key"),
        ({b"seed: 0\n": b"7: 0\nseed: 0\n"}, "7: "),
        ({b"seed: 0\n": b"seed: &x 0\n", b"seed: 0 ": b"seed: *x "}, "anchors"),
    ],
)
def test_a_fault_of_params_is_not_the_profiles(tmp_path, changes, words):
    content = SHIPPED
    for old, new in changes.items():
        assert old in content
        content = content.replace(old, new, 1)
    (tmp_path / "params.yaml").write_bytes(content)
    (tmp_path / "profile.yaml").write_text("seed: 3\nvae: {layers: 0}\n")
    with pytest.raises(InputError, match=words) as caught:
        apply_profile(tmp_path / "profile.yaml", tmp_path / "params.yaml")
    assert caught.value.where == str(tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_bytes() == content
