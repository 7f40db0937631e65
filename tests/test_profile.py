"""A profile changes what it says and nothing else, or nothing at all."""

import shutil
from pathlib import Path

import pytest
import yaml
from trees import leaves

from w2wpp.files.errors import InputError
from w2wpp.run.params import load_params
from w2wpp.run.profile import apply_profile

ROOT = Path(__file__).parents[1]
PROFILE = ROOT / "profiles/sd15.yaml"


def test_profile_keeps_comments_and_all_other_settings(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    apply_profile(PROFILE, tmp_path / "params.yaml", ["portraits.path=my/photos", "invert.people_at_once=2"])
    before, after = load_params(ROOT / "params.yaml"), load_params(tmp_path / "params.yaml")
    changed = {key: value for key, value in leaves(after.model_dump()).items()
               if leaves(before.model_dump())[key] != value}
    said = leaves(yaml.safe_load(PROFILE.read_text()))
    assert changed.keys() <= said.keys() | {"portraits.path", "invert.people_at_once"}
    assert (changed["lora.alpha"], changed["generate.inference_steps"], changed["generate.guidance"]) == (27, 50, 3)
    assert (changed["portraits.path"], changed["invert.people_at_once"]) == ("my/photos", 2)
    comments = [line.split("#")[1] for line in (ROOT / "params.yaml").read_text().splitlines() if "#" in line]
    assert all(f"#{comment}" in (tmp_path / "params.yaml").read_text() for comment in comments)
    # Stages that the profile has no use for are not to run anew.
    for key in ("seed", "portraits.size", "base.people", "base.photos", "probe.steps", "arcface.dim"):
        assert key not in changed


def test_an_empty_profile_changes_no_byte(tmp_path):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "none.yaml").write_text("space: vae\n")
    apply_profile(tmp_path / "none.yaml", tmp_path / "params.yaml")
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize(("profile", "setting", "words"), [
    ("vae: {latentdim: 3}", None, r"vae\.latentdim: unknown key. Did you mean latent_dim\? Known keys here: seed,"),
    ("vae: 3", None, r"vae: a section"),
    ("seed: {x: 3}", None, r"seed: a section"),
    ("vae: {lr: 1e-3x}", None, r"vae\.lr: "),
    ("[1]", None, "not a mapping"),
    ("a: [", None, "not readable YAML"),
    ("space: vae", "vae.latent_dim", "no setting. Write section.key=value"),
    ("space: vae", "vae.latent_dim=[", r"vae\.latent_dim: '\[' is not valid YAML"),
    ("portraits: {source: folder}", None, r"portraits: .*needs portraits\.path"),
    ("portraits: {source: folder, path: x}", None, r"collect\.source must be w2w or folder"),
    ("base: {source: pretrained}", None, r"base: .*needs base\.model"),
])
def test_wrong_profiles_change_nothing(tmp_path, profile, setting, words):
    shutil.copy(ROOT / "params.yaml", tmp_path)
    (tmp_path / "profile.yaml").write_text(profile)
    with pytest.raises(InputError, match=words) as caught:
        apply_profile(tmp_path / "profile.yaml", tmp_path / "params.yaml", [setting] if setting else [])
    assert caught.value.where == str(tmp_path / "profile.yaml")
    assert (tmp_path / "params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()
