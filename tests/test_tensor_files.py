"""Headers of safetensors files: every fault gives one error, whether the safetensors library finds it or not."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import Entry, opened, read_header, read_tensor

MISFIT = "dtypes, shapes and offsets of the tensors do not fit each other or the file"
NOT_DESCRIBED = "not described by dtype, shape and data_offsets"


def entry(dtype="F32", shape=(2,), offsets=(0, 8), **more):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}


def write(path, header, data=bytes(8)):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return 8 + len(header)


def read(path):
    with opened(path) as file:
        return read_header(file, str(path))


ONE = json.dumps(entry()).encode()


@pytest.mark.parametrize(
    ("header", "data", "key", "reason"),
    [
        # Faults that the library finds.
        ({"a": entry(), "b": entry(offsets=(9, 17))}, bytes(17), "header", MISFIT),
        ({"a": entry(offsets=(1, 9))}, bytes(9), "header", MISFIT),
        ({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12), "header", MISFIT),
        ({"a": entry(), "b": entry()}, bytes(8), "header", MISFIT),
        ({"a": entry(shape=(3,))}, bytes(8), "header", MISFIT),
        ({"a": entry(shape=(2**62, 8))}, bytes(8), "header", MISFIT),
        ({"a": entry(shape=(2**32, 2**32))}, bytes(8), "header", MISFIT),
        ({"a": entry(offsets=(8, 0))}, bytes(8), "header", MISFIT),
        ({"a": entry("F4", (3,), (0, 2))}, bytes(2), "header", MISFIT),
        ({"a": entry()}, bytes(9), "header", "the tensors end at byte 77 of 78"),
        ({"a": entry()}, bytes(7), None, "76 bytes of 77: the end of the file is missing"),
        ({}, b"x", "header", "the tensors end at byte 10 of 11"),
        ({"a": entry("X9")}, bytes(8), "header", "not valid JSON (unknown variant `X9`, expected one of `BOOL`, "),
        (
            {"a": entry(shape=(2.0,))},
            bytes(8),
            "header",
            "not valid JSON (invalid type: floating point `2.0`, expected ",
        ),
        (
            {"a": entry(shape=(True,), offsets=(0, 4))},
            bytes(4),
            "header",
            "not valid JSON (invalid type: boolean `true`",
        ),
        ({"a": entry(shape=(-2,))}, bytes(8), "header", "not valid JSON (invalid value: integer `-2`"),
        ({"a": entry(offsets=(0, 8, 8))}, bytes(8), "header", "not valid JSON (invalid length 3"),
        ({"a": entry(), "__metadata__": {"x": 1}}, bytes(8), "header", "not valid JSON (invalid type: integer `1`"),
        ({"a": entry(), "__metadata__": {"x": None}}, bytes(8), "header", "not valid JSON (invalid type: null"),
        ({"a": entry(), "__metadata__": []}, bytes(8), "header", "not valid JSON (invalid type: sequence"),
        (b'{"__metadata__": {"x": "\\ud800"}, "a": %s}' % ONE, bytes(8), "header", "not valid JSON ("),
        # Faults that it accepts.
        (b'{"a": %s, "a": %s}' % (ONE, ONE), bytes(8), "header", "not valid JSON (a key is given twice)"),
        (
            b'{"__metadata__": {"x": "1", "x": "2"}, "a": %s}' % ONE,
            bytes(8),
            "header",
            "not valid JSON (a key is given tw",
        ),
        (b'{"a": ["F32", [2], [0, 8]]}', bytes(8), "a", NOT_DESCRIBED),
        ({"a": entry(more=1)}, bytes(8), "a", NOT_DESCRIBED),
        ({"\x1b[2J": entry()}, bytes(8), r"\x1b[2J", "unprintable or overlong key"),
        ({"a" * 301: entry()}, bytes(8), "a" * 300, "unprintable or overlong key"),
    ],
)
def test_unsound_headers(tmp_path, header, data, key, reason):
    write(tmp_path / "x", header, data)
    errors = set()
    for _ in range(5):
        with pytest.raises(InputError) as caught:
            read(tmp_path / "x")
        assert (caught.value.where, caught.value.key) == (str(tmp_path / "x"), key)
        assert caught.value.reason.startswith(reason) and caught.value.remedy
        errors.add(str(caught.value))
    (error,) = errors
    assert error.isprintable()


def test_what_the_library_lets_pass_is_worth_a_look(tmp_path):
    for header in (b'{"a": %s, "a": %s}' % (ONE, ONE), b'{"a": ["F32", [2], [0, 8]]}', {"\x1b[2J": entry()}):
        write(tmp_path / "x", header)
        with safe_open(tmp_path / "x", framework="pt") as file:
            assert len(file.keys()) == 1


@pytest.mark.parametrize("metadata", [None, {}, {"x": "1", "y": "é"}])
def test_metadata(tmp_path, metadata):
    start = write(tmp_path / "x", {"__metadata__": metadata, "a": entry()})
    assert read(tmp_path / "x") == ({"a": Entry("a", "F32", (2,), start, start + 8)}, metadata or {})


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [
        ("F4", 4),
        ("F6_E2M3", 6),
        ("F6_E3M2", 6),
        ("F8_E4M3", 8),
        ("F8_E5M2", 8),
        ("F8_E8M0", 8),
        ("F8_E4M3FNUZ", 8),
        ("BOOL", 8),
        ("U16", 16),
        ("C64", 64),
        ("U64", 64),
    ],
)
def test_a_tensor_of_any_dtype_may_lie_beside_those_that_are_read(tmp_path, dtype, bits):
    wanted = torch.tensor([1.5, -2.0]).numpy().tobytes()
    start = write(
        tmp_path / "x",
        {"odd": entry(dtype, (8,), (0, bits)), "a": entry(offsets=(bits, bits + 8))},
        b"\xff" * bits + wanted,
    )
    with opened(tmp_path / "x") as file:
        entries, _ = read_header(file, "x")
        assert read_tensor(file, entries["a"], "x").tolist() == [1.5, -2.0]
        assert entries["odd"] == Entry("odd", dtype, (8,), start, start + bits)
        with pytest.raises(InputError, match=rf"odd: dtype {dtype}"):
            read_tensor(file, entries["odd"], "x")


def test_entries_are_those_of_the_library(tmp_path, normal):
    tensors = {
        f"layer.{i}": normal(i, 3).to(dtype)
        for i, dtype in enumerate((torch.float16, torch.bfloat16, torch.float32, torch.float64), 1)
    }
    (tmp_path / "x").write_bytes(save(tensors, {"made": "here"}))
    with opened(tmp_path / "x") as file, safe_open(tmp_path / "x", framework="pt") as library:
        entries, metadata = read_header(file, "x")
        assert metadata == library.metadata()
        for key in library.keys():  # noqa: SIM118
            part = library.get_slice(key)
            assert (entries[key].dtype, list(entries[key].shape)) == (part.get_dtype(), part.get_shape())
            assert torch.equal(read_tensor(file, entries.pop(key), "x"), library.get_tensor(key))
    assert not entries


def test_the_open_file_is_checked_whatever_lies_at_its_path_by_then(tmp_path):
    write(tmp_path / "x", {"a": entry()})
    with opened(tmp_path / "x") as file:
        (tmp_path / "x").unlink()
        write(tmp_path / "x", {"b": entry()}, bytes(9))
        assert list(read_header(file, "x")[0]) == ["a"]
