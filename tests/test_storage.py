"""Writes are atomic, equal content gives equal bytes, and an unreadable file is an InputError."""

import resource
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from w2wpp.files import storage
from w2wpp.files.errors import InputError
from w2wpp.files.storage import (
    META_KEY,
    file_hash,
    folder_hash,
    read_csv,
    read_json,
    read_pack,
    write_atomically,
    write_csv,
    write_json,
    write_pack,
)

TENSORS = {
    "b": torch.arange(6.0).reshape(2, 3),
    "a": torch.tensor([1, 2], dtype=torch.uint8),
    "c": torch.tensor([-0.0, 1e-7], dtype=torch.float16),
}
META = {"layout": {"rank": 1, "keys": ["x", "y"]}, "alpha": 0.5, "name": "ü", "kind": "pca"}


def test_pack_round_trip(tmp_path):
    write_pack(tmp_path / "new/folder/pack.safetensors", TENSORS, META)
    tensors, meta = read_pack(tmp_path / "new/folder/pack.safetensors")
    assert meta == META
    assert tensors.keys() == TENSORS.keys()
    for key, tensor in TENSORS.items():
        assert tensors[key].dtype == tensor.dtype
        assert torch.equal(tensors[key], tensor)
    assert str(tensors["c"][0].item()) == "-0.0"


def test_pack_without_meta(tmp_path):
    write_pack(tmp_path / "pack", {"a": torch.ones(2, requires_grad=True)})
    assert read_pack(tmp_path / "pack")[1] == {}


def test_equal_content_gives_equal_bytes(tmp_path):
    orders = [(TENSORS, META), (dict(reversed(TENSORS.items())), dict(reversed(META.items())))] * 4
    for number, (tensors, meta) in enumerate(orders):
        tensors = tensors | {"b": tensors["b"].T.contiguous().T}  # same numbers, another memory order
        write_pack(tmp_path / str(number), tensors, meta)
    assert len({(tmp_path / str(number)).read_bytes() for number in range(len(orders))}) == 1
    assert len({file_hash(tmp_path / str(number)) for number in range(len(orders))}) == 1


def test_other_content_gives_another_hash(tmp_path):
    write_pack(tmp_path / "a", TENSORS, META)
    write_pack(tmp_path / "b", TENSORS | {"b": TENSORS["b"] + 1}, META)
    write_pack(tmp_path / "c", TENSORS, META | {"alpha": 0.25})
    assert len({file_hash(tmp_path / name) for name in "abc"}) == 3


def test_json_and_csv_round_trip(tmp_path):
    write_json(tmp_path / "x.json", {"b": 1.5, "a": [1, None]})
    assert read_json(tmp_path / "x.json") == {"a": [1, None], "b": 1.5}
    assert (tmp_path / "x.json").read_text().index('"a"') < (tmp_path / "x.json").read_text().index('"b"')
    rows = [{"person": "zoo-00001", "loss": 0.125, "style": "NA"}, {"person": "zoo-00002", "loss": 2.0, "style": ""}]
    write_csv(tmp_path / "x.csv", rows)
    assert read_csv(tmp_path / "x.csv", ["person"]).to_dict("records") == rows
    write_csv(tmp_path / "y.csv", pd.DataFrame(rows))
    assert (tmp_path / "x.csv").read_bytes() == (tmp_path / "y.csv").read_bytes()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_json_refuses_what_is_not_finite(tmp_path, bad):
    write_json(tmp_path / "x.json", {"a": 1})
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"a": bad})
    assert read_json(tmp_path / "x.json") == {"a": 1}


def test_failed_write_keeps_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda temporary: temporary.write_text("old"))

    def fail(temporary):
        temporary.write_text("half")
        Path("/dev/full").write_text("the other half")

    with pytest.raises(InputError) as caught:
        write_atomically(path, fail)
    assert str(caught.value) == f"{path}: cannot be written (No space left on device). Make room there, and run again"
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_pack_that_the_system_refuses(tmp_path):
    path = tmp_path / "pack"
    write_pack(path, TENSORS, META)
    written, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError) as caught:
            write_pack(path, {"a": torch.ones(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (caught.value.where, caught.value.reason) == (str(path), "cannot be written (File too large)")
    assert path.read_bytes() == written
    assert [each.name for each in tmp_path.iterdir()] == ["pack"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written \(Not a directory\)\. Make it writable, or give another"):
        write_json(tmp_path / "file/folder/x.json", {})


def test_failed_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_pack(tmp_path / "pack", {"a": torch.ones(1), "b": torch.ones(1).to("meta")})
    assert list(tmp_path.iterdir()) == []


def test_successful_write_replaces_and_leaves_no_temporary_file(tmp_path):
    write_pack(tmp_path / "pack", {"a": torch.zeros(3)})
    write_pack(tmp_path / "pack", {"a": torch.ones(3)})
    assert torch.equal(read_pack(tmp_path / "pack")[0]["a"], torch.ones(3))
    assert [each.name for each in tmp_path.iterdir()] == ["pack"]


def test_write_that_does_not_replace(tmp_path, monkeypatch):
    write_pack(tmp_path / "pack", {"a": torch.zeros(3)}, replace=False)
    write_pack(tmp_path / "pack", {"a": torch.ones(3)}, replace=False)
    assert torch.equal(read_pack(tmp_path / "pack")[0]["a"], torch.zeros(3))

    def no_hard_links(*_):
        raise PermissionError

    monkeypatch.setattr(storage.os, "link", no_hard_links)
    write_pack(tmp_path / "pack", {"a": torch.ones(3)}, replace=False)
    assert torch.equal(read_pack(tmp_path / "pack")[0]["a"], torch.ones(3))
    assert [each.name for each in tmp_path.iterdir()] == ["pack"]


@pytest.mark.parametrize("read", [read_pack, read_json, read_csv])
def test_missing_file(tmp_path, read):
    with pytest.raises(InputError, match="no such file") as caught:
        read(tmp_path / "absent")
    assert caught.value.where == str(tmp_path / "absent")
    assert "dvc repro" in caught.value.remedy


@pytest.mark.parametrize("keep", [0, 4, 20, -1])
def test_truncated_pack(tmp_path, keep):
    write_pack(tmp_path / "pack", TENSORS, META)
    (tmp_path / "pack").write_bytes((tmp_path / "pack").read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable safetensors file") as caught:
        read_pack(tmp_path / "pack")
    assert caught.value.where == str(tmp_path / "pack")


def test_garbage(tmp_path):
    (tmp_path / "x").write_bytes(bytes(range(256)) * 8)
    for read in (read_pack, read_json, read_csv):
        with pytest.raises(InputError, match=r"not a readable|not valid"):
            read(tmp_path / "x")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {META_KEY: "{half"}, {META_KEY: "[1]"}])
def test_foreign_metadata(tmp_path, metadata):
    save_file({"a": torch.ones(2)}, tmp_path / "pack", metadata=metadata)
    with pytest.raises(InputError) as caught:
        read_pack(tmp_path / "pack")
    assert caught.value.key == META_KEY
    assert caught.value.remedy


def test_csv_without_column(tmp_path):
    write_csv(tmp_path / "x.csv", [{"person": "a"}])
    with pytest.raises(InputError, match="column missing") as caught:
        read_csv(tmp_path / "x.csv", ["person", "split"])
    assert caught.value.key == "split"


def test_folder_hash_follows_names_and_bytes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"1")
    first = folder_hash(tmp_path)
    assert folder_hash(tmp_path) == first
    (tmp_path / "a/x").rename(tmp_path / "a/y")
    second = folder_hash(tmp_path)
    (tmp_path / "a/y").write_bytes(b"2")
    assert len({first, second, folder_hash(tmp_path)}) == 3
