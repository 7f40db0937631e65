"""Bad LoRA files are refused by the name of what is wrong, before anything large is read."""

import json
import math
import os
import pickle

import fuzz_loras as fuzz
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save, save_file
from toy_loras import LAYOUT, OUT, QUERY, refused, write

from w2wpp.files import tensor_files
from w2wpp.files.errors import InputError
from w2wpp.ingest.folder import Other, scan_folder
from w2wpp.ingest.foreign import MAX_RANK, read_lora
from w2wpp.ingest.scale import METADATA_KEY


def keyed(part, module=OUT, naming="diffusers"):
    return fuzz.NAMINGS[naming][0](module, part)


A, B = keyed("A"), keyed("B")
ALPHA, MAGNITUDE, BIAS = (f"unet.{OUT}.{part}" for part in ("alpha", "lora_magnitude_vector", "lora_B.bias"))
A_AGAIN, A_OF_KOHYA = keyed("A", naming="diffusers down up"), keyed("A", naming="kohya")
RANKS = f"ranks 1 to {MAX_RANK} can be read"


def changed(key, change):
    return lambda tensors: tensors | {key: change(tensors[key])}


def spoiled(value):
    def change(tensor):
        tensor = tensor.clone()
        tensor[1, 0] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if key != A},
            OUT,
            "no LoRA A for this module",
        ),
        (
            lambda tensors: {key: tensor for key, tensor in tensors.items() if key != B},
            OUT,
            "no LoRA B for this module",
        ),
        (lambda tensors: {}, None, "holds no tensors"),
        (
            lambda tensors: {"model.weight": torch.ones(3)},
            "model.weight",
            "no LoRA of the UNet, or one with names that are not known here",
        ),
        (changed(A, lambda tensor: tensor[:, 1:]), A, "shape [2, 2], expected [2, 3]"),
        (changed(A, lambda tensor: tensor[1:]), B, "shape [2, 2], expected [2, 1]"),
        (changed(B, lambda tensor: tensor.T.repeat(1, 2)), B, "shape [2, 4], expected [2, 2]"),
        (changed(A, lambda tensor: tensor[..., None, None]), A, "shape [2, 3, 1, 1], expected [2, 3]"),
        (changed(A, lambda tensor: tensor[:0]), A, f"shape [0, 3]: {RANKS}"),
        (changed(A, lambda tensor: tensor[0, 0]), A, f"shape []: {RANKS}"),
        (changed(A, lambda _: torch.ones(MAX_RANK + 1, 3)), A, f"shape [{MAX_RANK + 1}, 3]: {RANKS}"),
        (changed(A, lambda tensor: tensor.double()), A, "dtype F64"),
        (changed(B, lambda tensor: tensor.to(torch.float8_e4m3fn)), B, "dtype F8_E4M3"),
        (changed(B, lambda tensor: tensor.int()), B, "dtype I32"),
        (changed(A, spoiled(math.nan)), A, "not finite"),
        (changed(B, spoiled(-math.inf)), B, "not finite"),
        (changed(B, lambda tensor: tensor.half() / 0), B, "not finite"),
        (lambda tensors: tensors | {MAGNITUDE: torch.ones(2)}, MAGNITUDE, "neither A, B nor alpha of a LoRA (DoRA)"),
        (lambda tensors: tensors | {BIAS: torch.ones(2)}, BIAS, "neither A, B nor alpha of a LoRA (a bias)"),
        (
            lambda tensors: tensors | {A_OF_KOHYA: torch.ones(2, 3)},
            keyed("A", QUERY),
            "named by diffusers in a file of kohya",
        ),
        (lambda tensors: tensors | {A_AGAIN: torch.ones(2, 3)}, A, f"the same as {A_AGAIN}"),
        (lambda tensors: tensors | {ALPHA: torch.ones(2)}, ALPHA, "shape [2], expected one number"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(-1.0)}, ALPHA, "-1.0, expected a positive number"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(math.nan)}, ALPHA, "not finite"),
        (lambda tensors: tensors | {ALPHA: torch.tensor(True)}, ALPHA, "dtype BOOL"),
    ],
)
def test_bad_tensors_are_refused_by_name(tmp_path, change, key, reason):
    tensors = write(tmp_path / "x.safetensors")
    save_file({name: tensor.contiguous() for name, tensor in change(tensors).items()}, tmp_path / "x.safetensors")
    error = refused(tmp_path / "x.safetensors")
    assert (error.where, error.key, error.reason) == (str(tmp_path / "x.safetensors"), key, reason)


def test_largest_numbers(tmp_path):
    tensors = {key: torch.full_like(tensor, 3e38) for key, tensor in write(tmp_path / "x.safetensors").items()}
    save_file(tensors, tmp_path / "x.safetensors")
    error = refused(tmp_path / "x.safetensors")
    assert (error.key, error.reason) == (QUERY, "too large for float32")


@pytest.mark.parametrize(("name", "value"), [("MAX_FILE_BYTES", 1000), ("MAX_HEADER_BYTES", 100), ("MAX_TENSORS", 3)])
def test_limits(tmp_path, monkeypatch, name, value):
    write(tmp_path / "x.safetensors", rank=20)
    read_lora(tmp_path / "x.safetensors", LAYOUT)
    monkeypatch.setattr(tensor_files, name, value)
    assert str(value) in refused(tmp_path / "x.safetensors").reason


def test_a_header_that_promises_much_allocates_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    write(path)
    header, data = fuzz.split_header(path.read_bytes())
    header[A] |= {"shape": [2**30, 3], "data_offsets": [0, 12 * 2**30]}
    path.write_bytes(fuzz.join_header(header, data))
    assert refused(path).reason == "dtypes, shapes and offsets of the tensors do not fit each other or the file"
    with path.open("wb") as file:
        file.write((2**40).to_bytes(8, "little") + b"{")
        file.truncate(2**40)
    assert refused(path).reason == f"a header of {2**40} bytes in a file of {2**40}"
    path.write_bytes((2**26).to_bytes(8, "little") + b"{")
    os.truncate(path, 2**27)
    assert refused(path).reason == f"a header of {2**26} bytes, more than the {2**25} that are read"


def test_files_too_large_to_be_loras(tmp_path, monkeypatch):
    tensors = write(tmp_path / "x.safetensors")
    path = tmp_path / "x.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    size = path.stat().st_size
    assert refused(path).reason == f"{size} bytes of {size + 9}: the end of the file is missing"
    monkeypatch.setattr(tensor_files, "MAX_FILE_BYTES", 10)
    save_file({"conv_in.weight": torch.ones(9)}, path)
    assert scan_folder(tmp_path, LAYOUT).others == (
        Other("x.safetensors", "conv_in.weight is of a whole model or a part of one, no LoRA"),
    )
    save_file(tensors, path)
    assert "more than the 10 allowed" in refused(path).reason


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("suffix", [*tensor_files.PICKLE_SUFFIXES, ".safetensors", ".PT"])
def test_pickles_never_run(tmp_path, protocol, suffix):
    trap = tmp_path / "trap"
    path = tmp_path / f"lora{suffix}"
    path.write_bytes(pickle.dumps(fuzz.Bomb(trap), protocol=protocol))
    error = refused(path)
    assert "pickle" in error.reason or protocol < 2
    torch.save({"lora": fuzz.Bomb(trap)}, path)
    assert "pickle" in refused(path).reason
    scan_folder(tmp_path, LAYOUT)
    assert not trap.exists()
    pickle.loads(pickle.dumps(fuzz.Bomb(trap)))
    assert trap.exists()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | st.binary(max_size=80).map(lambda text: fuzz.join_header(b"{" + text, b"")))
def test_any_bytes(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    refused(tmp_path / "x.safetensors")


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
anything = st.recursive(
    values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["dtype", "shape", "data_offsets", "entry", "__metadata__", "header", "config"]), anything)
def test_any_json(tmp_path, place, value):
    path = tmp_path / "x.safetensors"
    tensors, metadata = fuzz.sound_lora("diffusers", LAYOUT, 2, 2.0, 0)
    header, data = fuzz.split_header(save(tensors, metadata))
    if place == "header":
        header = value
    elif place == "entry":
        header[A] = value
    elif place == "config":
        header["__metadata__"][METADATA_KEY] = json.dumps({"unet.r": 2, "unet.lora_alpha": value})
    elif place == "__metadata__":
        header[place] = value
    else:
        header[A][place] = value
    path.write_bytes(fuzz.join_header(json.dumps(header).encode(), data))
    try:
        lora = read_lora(path, LAYOUT)
    except InputError:
        return
    assert fuzz.fault(lora, path, LAYOUT) is None


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(fuzz.DAMAGES), st.sampled_from(list(fuzz.NAMINGS)), st.randoms(use_true_random=False))
def test_damaged_files(tmp_path, damage, naming, rng):
    path = tmp_path / "x.safetensors"
    tensors, metadata = fuzz.sound_lora(naming, LAYOUT, rng.randrange(1, 5), 2.0, 0, text=True)
    path.write_bytes(damage(save(tensors, metadata or None), rng))
    try:
        lora = read_lora(path, LAYOUT)
    except InputError:
        assert damage is not fuzz.undamaged
    else:
        assert fuzz.fault(lora, path, LAYOUT) is None


def test_fuzz_run_finds_nothing_and_would_find_something(monkeypatch):
    counts, failures, _ = fuzz.fuzz(60, seed=1)
    assert failures == []
    assert sum(sum(each.values()) for each in counts.values()) == 60
    real = fuzz.read_lora

    def careless(path, layout):
        lora = real(path, layout)
        lora.vector.mul_(2)
        return lora

    monkeypatch.setattr(fuzz, "read_lora", careless)
    assert any("another product" in line for line in fuzz.fuzz(60, seed=1)[1])
    monkeypatch.setattr(fuzz, "read_lora", lambda path, layout: [].pop())
    assert any("crashed" in line for line in fuzz.fuzz(3, seed=1)[1])


@pytest.mark.parametrize("name", ["absent", "a\0b", "\ud800", "x" * 300])
def test_impossible_paths(tmp_path, name):
    assert refused(tmp_path / name).reason.startswith("cannot be read")
