"""Of a folder of LoRAs each readable one is read once; there is a reason for each other file."""

import os
import shutil

import fuzz_loras as fuzz
import pytest
import torch
from safetensors.torch import save_file
from toy_loras import LAYOUT, write, write_config

from w2wpp.files.errors import InputError
from w2wpp.ingest import folder as lora_folder
from w2wpp.ingest import names as lora_files
from w2wpp.ingest.folder import Other, find_duplicates, scan_folder


def test_mixed_folder(tmp_path, capsys):
    for number, naming in enumerate(fuzz.NAMINGS):
        write(tmp_path / f"person {number}" / "pytorch_lora_weights.safetensors", naming, 2, 3.0, seed=number)
    (tmp_path / "README.md").write_text("x")
    (tmp_path / "broken.safetensors").write_bytes(b"x")
    (tmp_path / "old.pt").write_bytes(b"x")
    scan = scan_folder(tmp_path, LAYOUT)
    assert list(scan.accepted) == [
        f"person {number}/pytorch_lora_weights.safetensors" for number in sorted(range(len(fuzz.NAMINGS)), key=str)
    ]
    assert scan.vectors().shape == (len(fuzz.NAMINGS), LAYOUT.dimension)
    assert [(each.name, each.key) for each in scan.rejected] == [("broken.safetensors", None), ("old.pt", None)]
    assert all(each.reason and each.remedy for each in scan.rejected)
    assert scan.others == (Other("README.md", "a text"),)
    assert scan.duplicates == ()
    assert scan_folder(tmp_path / "person 0", LAYOUT).vectors().shape == (1, LAYOUT.dimension)


def test_empty_and_absent_folders(tmp_path):
    assert scan_folder(tmp_path, LAYOUT).vectors().shape == (0, LAYOUT.dimension)
    for path in (tmp_path / "absent", tmp_path / "file"):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match="cannot be read"):
            scan_folder(path, LAYOUT)


def test_duplicates_are_found_whatever_the_naming_and_the_precision(tmp_path):
    tensors = write(tmp_path / "a.safetensors", "diffusers", 2)
    shutil.copy(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    write(tmp_path / "c.safetensors", "kohya", 2)
    write(tmp_path / "d.safetensors", "peft", 2, dtype=torch.bfloat16)
    scaled = {key: tensor * (4.0 if "lora_A" in key else -0.25) for key, tensor in tensors.items()}
    save_file({key: tensor * (1 - 2 * ("lora_A" in key)) for key, tensor in scaled.items()}, tmp_path / "e.safetensors")
    save_file(scaled, tmp_path / "negative.safetensors")
    write(tmp_path / "other.safetensors", "kohya", 2, seed=1)
    write(tmp_path / "stronger.safetensors", "diffusers", 2, 2.1)
    scan = scan_folder(tmp_path, LAYOUT)
    assert list(scan.accepted) == [f"{name}.safetensors" for name in ("a", "negative", "other", "stronger")]
    assert [(each.name[0], each.original, each.match) for each in scan.duplicates] == [
        ("b", "a.safetensors", "identical file"),
        ("c", "a.safetensors", "equal weights"),
        ("d", "a.safetensors", "equal weights"),
        ("e", "a.safetensors", "equal weights"),
    ]
    assert [each.distance < 1e-6 for each in scan.duplicates] == [True, True, False, True]
    assert scan.duplicates[2].distance < lora_folder.SAME


def test_the_same_bytes_beside_another_alpha_are_another_lora(tmp_path):
    for alpha in (1, 2):
        write(tmp_path / str(alpha) / "adapter_model.safetensors", "peft")
        write_config(tmp_path / str(alpha), r=2, lora_alpha=alpha)
    scan = scan_folder(tmp_path, LAYOUT)
    assert len(scan.accepted) == 2
    assert len({lora.digest for lora in scan.accepted.values()}) == 2


def test_untrained_loras_are_duplicates_of_each_other(tmp_path):
    for name in "ab":
        tensors = write(tmp_path / f"{name}.safetensors", seed=ord(name))
        untrained = {key: tensor * ("lora_A" in key) for key, tensor in tensors.items()}
        save_file(untrained, tmp_path / f"{name}.safetensors")
    scan = scan_folder(tmp_path, LAYOUT)
    lora = scan.accepted["a.safetensors"]
    assert not lora.vector.any()
    assert (lora.energy, lora.worst_energy) == (1.0, 1.0)
    assert [(each.name, each.distance) for each in scan.duplicates] == [("b.safetensors", 0.0)]
    assert find_duplicates({}, LAYOUT) == ()


def test_tricks_of_the_file_system(tmp_path):
    folder = tmp_path / "folder"
    write(tmp_path / "secret.safetensors")
    write(folder / "good.safetensors", seed=1)
    write(folder / "..hidden.safetensors", seed=2)
    write(folder / ".cache" / "x.safetensors", seed=3)
    write(folder / "tab\t.safetensors", seed=4)
    write(folder / "locked.safetensors", seed=5)
    (folder / "outside.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "relative.safetensors").symlink_to("../secret.safetensors")
    (folder / "inside.safetensors").symlink_to("good.safetensors")
    (folder / "dangling.safetensors").symlink_to("nowhere")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "linked.safetensors").symlink_to(folder / ".cache")
    (folder / "folder.safetensors").mkdir()
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "/".join("d" * (lora_files.MAX_DEPTH + 2))).mkdir(parents=True)
    opener = os.open

    def refuse(path, *args, **kwargs):
        if "locked" in str(path):
            raise PermissionError(13, "Permission denied")
        return opener(path, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        scan = scan_folder(folder, LAYOUT)
    assert list(scan.accepted) == ["good.safetensors"]
    assert [each.name for each in scan.duplicates] == ["inside.safetensors"]
    reasons = {each.name: each.reason for each in scan.rejected}
    assert {name: reason.split(" (")[0] for name, reason in reasons.items()} == {
        "tab\\t.safetensors": "an unprintable or overlong name",
        "locked.safetensors": "cannot be read",
        "outside.safetensors": "a symbolic link out of the folder",
        "relative.safetensors": "a symbolic link out of the folder",
        "dangling.safetensors": "a symbolic link that leads nowhere",
        "loop.safetensors": "a symbolic link that leads nowhere",
        "pipe.safetensors": "not a regular file",
    }
    deep = "/".join("d" * (lora_files.MAX_DEPTH + 1))
    assert {each.name: each.reason for each in scan.others} == {
        "..hidden.safetensors": "a hidden file",
        ".cache": "a hidden folder",
        "linked": "a symbolic link to a folder, which is not followed",
        "linked.safetensors": "a symbolic link to a folder, which is not followed",
        deep: f"a folder more than {lora_files.MAX_DEPTH} deep",
    }


def test_a_bad_configuration_is_named_in_the_list(tmp_path):
    write(tmp_path / "x.safetensors", "peft")
    (tmp_path / "adapter_config.json").write_text("{}")
    (rejected,) = scan_folder(tmp_path, LAYOUT).rejected
    assert (rejected.name, rejected.key) == ("x.safetensors", "r")
    assert rejected.reason.startswith("adapter_config.json: None, expected")
