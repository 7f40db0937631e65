"""Pickled tables of every pandas version are read without loss on any other version."""

import io
import os
import pickle
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_pickled_tables import TABLES
from pickled import CONTAINERS, LATEST, PICKLES, SOUND, assert_same, expected, in_zip, refused

from w2wpp.files.errors import InputError
from w2wpp.ingest import torch_files
from w2wpp.ingest.pickled_frame import read_frame


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("name", PICKLES)
def test_tables_of_every_pandas(tmp_path, name, container):
    (tmp_path / "x.pt").write_bytes(CONTAINERS[container](PICKLES[name]))
    assert_same(read_frame(tmp_path / "x.pt", ""), expected(TABLES[name.split("-")[0]]))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_what_torch_saves_and_loads(tmp_path, table, zipped):
    torch.save(table, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    assert_same(read_frame(tmp_path / "x.pt", ""), expected(torch.load(tmp_path / "x.pt", weights_only=False)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": [1, 2], "b": [None, "x"], "c": ["", "ü"]}),
        pd.DataFrame({"a": []}),
        pd.DataFrame(),
        pd.DataFrame({"a": np.array([1, 2], ">i2"), "b": np.array([1.5, -0.0], "f4"), "c": np.array([0, 2**64 - 1])}),
        pd.DataFrame({"a": np.arange(6), "b": np.arange(6) / 3})[::2],
        pd.DataFrame({"a": np.zeros(0), "b": range(0)}),
        pd.DataFrame({"b": [1, 2], "a": [3, 4], "c": [0.5, 1]}, index=pd.Index(["q", "r"]))[["c", "a", "b"]],
        pd.DataFrame({"a": pd.Series([np.int64(3), np.float32(0.5), np.True_], dtype=object)}),
        pd.DataFrame(np.asfortranarray(np.arange(12).reshape(3, 4)), columns=list("abcd")),
        pd.DataFrame({"a": range(300)}),
    ],
)
def test_other_tables(tmp_path, table, protocol):
    (tmp_path / "x").write_bytes(pickle.dumps(table, protocol=protocol))
    read = read_frame(tmp_path / "x", "")
    assert_same(read, expected(table))
    for name in table.select_dtypes("number"):
        assert read[name].dtype == table[name].dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"a": pd.Categorical(["x", "y"])}),
        pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}),
        pd.DataFrame({"a": [{}]}),
        pd.DataFrame({"a": [2**70]}),
        pd.DataFrame({"a": ["line\nbreak"]}),
        pd.DataFrame({1: [2]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.Series([1]),
        [1],
        None,
        {"a": [1]},
        pd.DataFrame({"a": [1]}, index=pd.MultiIndex.from_tuples([("x", 1)])),
        pd.DataFrame({"a": [1j]}),
        pd.DataFrame({"a": pd.array([1, None], dtype="Int64")}),
        np.zeros(3),
        torch.zeros(3),
    ],
)
@pytest.mark.parametrize("save", [torch.save, lambda table, path: path.write_bytes(pickle.dumps(table))])
def test_what_is_no_plain_table_is_refused_with_the_way_to_convert_it(tmp_path, table, save):
    save(table, tmp_path / "x")
    assert refused(tmp_path / "x").remedy == "Convert it"


@pytest.mark.parametrize("size", [0, 1, 2, 10, 100])
@pytest.mark.parametrize("container", CONTAINERS)
def test_truncated(tmp_path, container, size):
    content = CONTAINERS[container](SOUND)
    for kept in (size, len(content) - size - 1):
        refused(tmp_path / "x.pt", content[:kept])


def assert_sound_or_refused(path):
    try:
        frame = read_frame(path, "Convert it")
    except InputError as error:
        assert "\n" not in str(error) and str(error).isprintable()
    else:
        assert isinstance(frame.index, pd.RangeIndex) and len(frame) * len(frame.columns) < 10**5
        assert all(type(name) is str for name in frame.columns)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(sorted(PICKLES)),
    st.sampled_from(sorted(CONTAINERS)),
    st.lists(
        st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255) | st.sampled_from(b"tRb.(}]NK)")),
        min_size=1,
        max_size=4,
    ),
    st.floats(0, 1),
    st.booleans(),
)
def test_damaged_tables(tmp_path, name, container, changes, kept, truncate):
    content = bytearray(PICKLES[name])
    for place, value in changes:
        content[int(place * len(content))] = value
    content = CONTAINERS[container](bytes(content))
    (tmp_path / "x").write_bytes(content[: int(kept * len(content))] if truncate else content)
    assert_sound_or_refused(tmp_path / "x")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8))
def test_damaged_archives(tmp_path, changes):
    content = bytearray(in_zip(LATEST))
    for place, value in changes:
        content[int(place * len(content))] = value
    (tmp_path / "x").write_bytes(content)
    assert_sound_or_refused(tmp_path / "x")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=100), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04"]))
def test_any_bytes(tmp_path, content, start):
    (tmp_path / "x").write_bytes(start + content)
    assert_sound_or_refused(tmp_path / "x")


def test_limits(tmp_path, monkeypatch):
    for container in CONTAINERS.values():
        (tmp_path / "x").write_bytes(container(SOUND))
        read_frame(tmp_path / "x", "")
        with monkeypatch.context() as patch:
            patch.setattr(torch_files, "MAX_PICKLE_BYTES", 1000)
            assert "more than the 1000 allowed" in refused(tmp_path / "x").reason
    (tmp_path / "x").write_bytes(in_zip(SOUND))
    monkeypatch.setattr(torch_files, "MAX_DIRECTORY_BYTES", 100)
    assert "not a sound zip archive" in refused(tmp_path / "x").reason


def rewritten(change):
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(in_zip(SOUND))) as old, zipfile.ZipFile(file, "w") as new:
        change(new, {name: old.read(name) for name in old.namelist()})
    return file.getvalue()


def put(archive, contents, compression=zipfile.ZIP_STORED):
    for name, content in contents.items():
        archive.writestr(name, content, compression)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda new, old: put(new, old, zipfile.ZIP_DEFLATED), "not stored as torch.save stores it"),
        (lambda new, old: put(new, {"x/version": b"3\n"}), "data.pkl: missing"),
        (lambda new, old: put(new, old | {"archive/byteorder": b"big"}), "another byte order"),
        (lambda new, old: put(new, {}), "data.pkl: missing"),
        (
            lambda new, old: (
                put(new, old),
                put(new, {name.replace("archive", "b"): each for name, each in old.items()}),
            ),
            "not stored as torch.save stores it",
        ),
    ],
)
def test_other_archives_are_refused(tmp_path, change, reason):
    content = rewritten(change)
    if content[:4] != b"PK\x03\x04":
        content = rewritten(lambda new, old: put(new, {"x/version": b"3\n"}))
    assert reason in str(refused(tmp_path / "x", content))


def test_a_table_changed_within_its_archive_is_refused(tmp_path):
    content = in_zip(SOUND)
    assert "checksum" in refused(tmp_path / "x", content.replace(b"000004.jpg", b"000005.jpg")).reason


def test_impossible_paths(tmp_path):
    for name in ("absent", "a\0b", "x" * 300):
        with pytest.raises(InputError, match="cannot be read"):
            read_frame(tmp_path / name, "")
    os.mkfifo(tmp_path / "pipe")
    assert refused(tmp_path / "pipe").reason == "not a regular file"
