"""Pickled tables of every pandas version are read without loss on any other version; code in a pickle never runs."""

import io
import os
import pickle
import struct
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_pickled_tables import TABLES

from w2wpp.files.errors import InputError
from w2wpp.ingest import pickles, torch_files
from w2wpp.ingest.pickled_frame import NAMES, read_frame
from w2wpp.ingest.pickles import Call, Global, Persistent, read_pickle

with zipfile.ZipFile(Path(__file__).with_name("pickled_tables.zip")) as archive:
    PICKLES = {name: archive.read(name) for name in archive.namelist()}
SOUND = PICKLES["published-pandas-2.0.3-numpy-1.24.4-protocol-2.pickle"]
LATEST = PICKLES["mixed-pandas-3.1.1-numpy-2.4.6-protocol-5.pickle"]


def expected(table):
    """The result of `read_frame` for a table: row labels become the first column, unless they only count."""
    return table if isinstance(table.index, pd.RangeIndex) else table.reset_index()


def assert_same(actual, wanted):
    assert list(actual.columns) == list(wanted.columns)
    assert isinstance(actual.index, pd.RangeIndex)
    for name in wanted:
        values = [value.item() if isinstance(value, np.generic) else value for value in wanted[name]]
        assert repr(actual[name].tolist()) == repr(values), name


def in_zip(pickled):
    """torch.save's file of an object with this pickle."""
    template, file = io.BytesIO(), io.BytesIO()
    torch.save(0, template)
    with zipfile.ZipFile(template) as old, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            new.writestr(name, pickled if name.endswith("/data.pkl") else old.read(name))
    return file.getvalue()


def in_legacy(pickled):
    """The same, of torch's older format."""
    file = io.BytesIO()
    torch.save(0, file, _use_new_zipfile_serialization=False)
    return file.getvalue().replace(pickle.dumps(0, 2), pickled, 1)


CONTAINERS = {"plain": bytes, "zip": in_zip, "legacy": in_legacy}


def refused(path, content=None):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_frame(path, "Convert it")
    assert caught.value.where == str(path)
    assert caught.value.remedy
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return caught.value


# Sound tables


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


# Payloads


class Bomb:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def shell(trap):
    return Bomb(os.system, f"touch {trap}")


def evaluated(trap):
    return Bomb(eval, f"open({str(trap)!r}, 'w')")


class Stateful:
    """Runs a function when its state is set, though nothing but its class is named first."""

    def __init__(self, trap):
        self.trap = trap

    def __reduce__(self):
        return pd.DataFrame, (), {"_mgr": evaluated(self.trap), "_typ": "dataframe"}


PAYLOADS = {
    "os.system": shell,
    "eval": evaluated,
    "exec": lambda trap: Bomb(exec, f"open({str(trap)!r}, 'w')"),
    "open": lambda trap: Bomb(open, str(trap), "w"),
    "list": lambda trap: [1, {"a": (shell(trap),)}],
    "inner argument": lambda trap: Bomb(pd.DataFrame, {"a": [shell(trap)]}),
    "state": Stateful,
    "element": lambda trap: pd.DataFrame({"a": [1, shell(trap)]}),
    "label": lambda trap: pd.DataFrame({"a": [1]}, index=[shell(trap)]),
    "attrs": lambda trap: with_attrs(evaluated(trap)),
    "getattr": lambda trap: Bomb(getattr, Bomb(__import__, "os"), "system"),
    "read_pickle": lambda trap: Bomb(pd.read_pickle, str(other_pickle(trap))),
    "read_csv": lambda trap: Bomb(pd.read_csv, "/etc/hostname"),
    "read_table": lambda trap: Bomb(pd.read_table, str(trap)),
    "eval of pandas": lambda trap: Bomb(pd.eval, f"@open({str(trap)!r}, 'w')"),
    "numpy.load": lambda trap: Bomb(np.load, str(other_pickle(trap)), None, True),
    "numpy.fromfile": lambda trap: Bomb(np.fromfile, "/etc/hostname"),
    "numpy.memmap": lambda trap: Bomb(np.memmap, str(trap), "u1", "w+", 0, (1,)),
    "numpy.savetxt": lambda trap: Bomb(np.savetxt, str(trap), []),
    "torch.load": lambda trap: Bomb(torch.load, str(trap)),
    "to_pickle": lambda trap: Bomb(pd.to_pickle, 1, str(trap)),
}


def with_attrs(value):
    table = pd.DataFrame()
    table.attrs = {"a": value}
    return table


def other_pickle(trap):
    path = trap.with_name("other")
    path.write_bytes(pickle.dumps(shell(trap)))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("payload", PAYLOADS)
def test_payloads_never_run(tmp_path, payload, protocol):
    trap = tmp_path / "trap"
    pickled = pickle.dumps(PAYLOADS[payload](trap), protocol=protocol)
    for container in CONTAINERS.values():
        refused(tmp_path / "x.pt", container(pickled))
        assert not trap.exists()


def test_the_payloads_would_run(tmp_path):
    for payload in ("os.system", "eval", "exec", "open", "element", "attrs", "state", "read_pickle", "numpy.memmap"):
        trap = tmp_path / payload
        try:
            pickle.loads(pickle.dumps(PAYLOADS[payload](trap), protocol=2))
        except Exception:
            assert payload in ("state", "open")
        assert trap.exists(), payload


def g(module, name):
    return f"c{module}\n{name}\n".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


NP, DTYPE = "numpy.core.multiarray", g("numpy", "dtype") + text("i8") + b"\x89\x88\x87R"
STRUCT = (
    g("numpy", "dtype")
    + text("V8")
    + b"\x89\x88\x87R(K\x03"
    + text("|")
    + b"N"
    + text("a")
    + b"\x85}"
    + text("a")
    + g("numpy", "dtype")
    + text("O8")
    + b"\x89\x88\x87RK\x00\x86sK\x08K\x01K\x00tb"
)

# The flags, at the end, deny that these are objects.
FORGED = (
    g("numpy", "dtype")
    + text("O8")
    + b"\x89\x88\x87R(K\x03"
    + text("|")
    + b"NNNJ"
    + b"\xff" * 4
    + b"J"
    + b"\xff" * 4
    + b"K\x00tb"
)


def array(dtype, shape, content):
    """An array pickled by hand, with arbitrary metadata."""
    return (
        g(NP, "_reconstruct")
        + g("numpy", "ndarray")
        + b"K\x00\x85"
        + text("b")
        + b"\x87R(K\x01"
        + shape
        + dtype
        + b"\x89"
        + content
        + b"tb"
    )


def table(values, labels=b"K\x00K\x02K\x01", places=b"K\x00K\x01K\x01", columns=1):
    """A table pickled by hand: one block of `values`, range and slice as given, columns named a, b ..."""
    names = b"".join(text(chr(97 + i if i < 26 else 0x4E00 + i)) for i in range(columns))
    objects = g("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    index = g("pandas.core.indexes.base", "_new_Index")
    return (
        b"\x80\x02"
        + g("pandas.core.frame", "DataFrame")
        + b")\x81}"
        + text("_mgr")
        + g("pandas.core.internals.managers", "BlockManager")
        + g("pandas._libs.internals", "_unpickle_block")
        + values
        + g("__builtin__", "slice")
        + places
        + b"\x87RK\x02\x87R\x85]("
        + index
        + g("pandas.core.indexes.base", "Index")
        + b"}"
        + text("data")
        + array(objects, b"K" + bytes([columns]) + b"\x85", b"](" + names + b"e")
        + b"s\x86R"
        + index
        + g("pandas.core.indexes.range", "RangeIndex")
        + b"}("
        + text("start")
        + labels[:2]
        + text("stop")
        + labels[2:-2]
        + text("step")
        + labels[-2:]
        + b"u\x86Re\x86Rsb."
    )


ENCODE = g("_codecs", "encode")
EIGHT = b"C\x08" + bytes(range(8))
SIXTEEN = b"C\x10" + bytes(range(16))
TWO_ROWS = array(DTYPE, b"K\x01K\x02\x86", SIXTEEN)
HUGE = b"\x8a\x06" + (2**40).to_bytes(6, "little")
# Each tuple holds the previous one twice; hashing the last takes 2^60 steps.
PAIRS = b")" + b"".join(b"q" + bytes([i]) + b"h" + bytes([i]) + b"\x86" for i in range(60))


def test_tables_made_by_hand_can_be_read(tmp_path):
    (tmp_path / "x").write_bytes(table(TWO_ROWS))
    assert read_frame(tmp_path / "x", "")["a"].tolist() == [0x0706050403020100, 0x0F0E0D0C0B0A0908]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x80\x02" + g("os", "system") + b".", "os.system: named in this pickle"),
        (b"\x80\x02" + g("antigravity", "geohash") + b".", "antigravity.geohash: named"),
        (b"\x80\x02(" + text("x") + b"ios\nsystem\n.", "opcode INST"),
        (b"\x80\x02(" + g("numpy", "dtype") + b"o.", "opcode OBJ"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02Pos\n.", "opcode PERSID"),
        (b"I1\n.", "opcode INT"),
        (b"\x80\x02" + g("numpy", "dtype") + b")}\x92.", "opcode NEWOBJ_EX"),
        (b"\x80\x05\x97.", "opcode NEXT_BUFFER"),
        (b"\x80\x04" + text("numpy") + text("load") + b"\x93.", "numpy.load: named"),
        (b"\x80\x04" + text("os") + text("path.join") + b"\x93.", "os.path.join: named"),
        (b"\x80\x04K\x01K\x02\x93.", "a name that is no text"),
        (b"\x80\x02" + text("a") + b")R.", "what is no function"),
        (b"\x80\x02" + g("numpy", "dtype") + b"]R.", "what are no arguments"),
        (b"\x80\x02)}b.", "no Call where"),
        (DTYPE + b"K\x01bK\x01b.", "a state is given twice"),
        (b"\x80\x02}K\x01K\x02s.", "keys other than text"),
        (b"\x80\x02}(K\x01u.", "keys other than text"),
        (b"\x80\x02)K\x01a.", "no list where"),
        (b"\x80\x02R.", "pop from empty"),
        (b"\x80\x02e.", "pop from empty"),
        (b"\x80\x02h\x05.", "not a sound pickle (5)"),
        (b"\x80\x02K\x01", "pickle exhausted"),
        (b"", "an empty file"),
        (b"\xff", "not a sound pickle"),
        (b"<!doctype html>", "a web page"),
        (b".", "pop from empty"),
        # Memory outside the pickle: a record of an object whose address is in the file.
        (table(array(STRUCT, b"K\x01K\x02\x86", SIXTEEN)), "neither numbers nor text"),
        (table(array(FORGED, b"K\x01K\x02\x86", SIXTEEN)), "another size"),
        (table(array(DTYPE, b"K\x01K\x02\x86", EIGHT)), "another size"),
        (table(array(DTYPE, HUGE + b"\x85", EIGHT)), "shape"),
        (table(array(DTYPE, b"K\x01" + HUGE + b"\x86", EIGHT)), "shape"),
        (table(array(DTYPE, b")", EIGHT)), "shape"),
        (table(array(DTYPE, b"K\x01\x85", b"]")), "bytes"),
        (table(array(DTYPE, b"J\xff\xff\xff\xff\x85", b"C\x00")), "shape"),
        (
            table(array(DTYPE, b"K\x02\x85", SIXTEEN), places=b"K\x00K\x02K\x01", columns=2),
            "a block of shape [1, 2] for 2",
        ),
        (table(TWO_ROWS, labels=b"K\x00K\x03K\x01"), "a block of shape [1, 2] for 1 columns of 3 rows"),
        (table(TWO_ROWS, places=b"K\x00K\x01K\x00"), "slice"),
        (table(TWO_ROWS, places=b"K\x00" + text("x") + b"K\x01"), "slice"),
        (table(TWO_ROWS, places=b"K\x01K\x02K\x01", columns=2), "a column without values"),
        (table(TWO_ROWS, labels=b"K\x00K\x02K\x00"), "range"),
        (table(TWO_ROWS, labels=b"K\x00NK\x01"), "range"),
        (table(TWO_ROWS, labels=b"K\x00" + HUGE + b"K\x01"), "rows in"),
        (
            table(TWO_ROWS, labels=b"K\x00\x8a\x0c" + (2**90).to_bytes(12, "little") + b"K\x01"),
            "not a plain pandas table",
        ),
        (table(array(DTYPE, b"K\x01K\x02\x86", ENCODE + text("x" * 16) + text("rot13") + b"\x86R")), "bytes"),
        (
            table(array(DTYPE, b"K\x01K\x02\x86", ENCODE + text("€" * 16) + text("latin1") + b"\x86R")),
            "codec can't encode",
        ),
        (table(array(DTYPE, b"K\x01K\x02\x86", g("__builtin__", "bytes") + HUGE + b"\x85R")), "arguments"),
        (
            table(g("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked") + g("numpy", "ndarray") + b"NN\x87R"),
            "of text",
        ),
        (table(g("pandas.core.frame", "DataFrame") + b")\x81"), "no array where"),
    ],
)
def test_made_by_hand_to_do_harm(tmp_path, content, reason):
    assert reason in str(refused(tmp_path / "x", content))
    assert "antigravity" not in sys.modules


def test_an_array_that_holds_itself(tmp_path):
    objects = g("numpy", "dtype") + text("O8") + b"\x89\x88\x87R"
    itself = array(objects, b"K\x01K\x02\x86", b"]q\x07(h\x07h\x07e")
    assert "no number or text" in refused(tmp_path / "x", table(itself)).reason


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02K\x01r\xff\xff\xff\xff.",
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"K\x01.",
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        b"\x80\x02)" + b"\x85" * 50_000 + b"q\x00}h\x00h\x00s.",
        b"\x80\x02]q\x00" + b"(h\x00h\x00h\x00e" * 10_000 + b".",
        b"\x80\x02" + b"(" * 50_000 + b".",
        b"\x80\x02)" + b"\x85" * 50_000 + b".",
        b"\x80\x02(" + text("x" * 1000) + b"2" * 10 + b"t.",
        b"\x80\x02" + g("numpy", "x" * 10**6) + b".",
        table(b"N" * 50_000),
        b"\x80\x02}" + PAIRS + b"K\x01s.",
        b"\x80\x02}" + PAIRS + b"K\x01K\x01K\x01u.",
        b"\x80\x02" + g("__builtin__", "bytearray") + HUGE + b"\x85R.",
        b"\x80\x02"
        + ENCODE * 60
        + ENCODE
        + text("x")
        + text("latin1")
        + b"\x86R"
        + (text("hex") + b"\x86R") * 60
        + b".",
    ],
    ids=range(16),
)
def test_bombs_take_no_more_memory_than_their_size(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    tracemalloc.start()
    refused(tmp_path / "x")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20 + 300 * len(content)


def test_a_column_used_many_times_is_refused(tmp_path):
    rows, columns = 2000, 120
    block, remember, recall = g("pandas._libs.internals", "_unpickle_block"), b"q\x00", b"h\x00"
    content = b"B" + struct.pack("<I", 8 * rows) + bytes(8 * rows)
    values = array(DTYPE, b"K\x01M\xd0\x07\x86", content) + remember
    places = b"".join(
        g("__builtin__", "slice") + b"K" + bytes([i]) + b"K" + bytes([i + 1]) + b"K\x01\x87RK\x02\x87R" + block + recall
        for i in range(columns - 1)
    )
    content = table(
        values + places,
        labels=b"K\x00M\xd0\x07K\x01",
        columns=columns,
        places=b"K" + bytes([columns - 1]) + b"K" + bytes([columns]) + b"K\x01",
    )
    content = content.replace(b"K\x02\x87R\x85](", b"K\x02\x87Rt](").replace(block, b"(" + block, 1)
    assert f"{columns} columns of {rows} rows in {len(content)} bytes" in refused(tmp_path / "x", content).reason


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


# Archives


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


# Inert data


def test_inert_data():
    content = pickle.dumps(
        (
            None,
            True,
            False,
            7,
            -1,
            2**40,
            1.5,
            "ü",
            b"x",
            bytearray(b"y"),
            (),
            (1,),
            (1, 2),
            (1, 2, 3),
            (1, 2, 3, 4),
            [],
            [1],
            [1, 2],
            {},
            {"a": 1},
            {"a": 1, "b": [2]},
        ),
        protocol=5,
    )
    assert read_pickle(io.BytesIO(content), (), "x", "") == pickle.loads(content)


def test_calls_are_noted():
    content = pickle.dumps(np.arange(2), protocol=2)
    value = read_pickle(io.BytesIO(content + b"left"), NAMES, "x", "")
    assert isinstance(value, Call)
    assert (value.function, value.arguments[0]) == ("numpy._core.multiarray._reconstruct", Global("numpy.ndarray"))
    assert value.state[1] == (2,)
    reference = read_pickle(io.BytesIO(b"\x80\x02K\x07Q."), (), "x", "")
    assert isinstance(reference, Persistent) and reference.key == 7


def test_the_file_is_left_behind_the_pickle():
    file = io.BytesIO(pickle.dumps([1], 4) + pickle.dumps("b", 2) + b"rest")
    assert [read_pickle(file, (), "x", "") for _ in range(2)] == [[1], "b"]
    assert file.read() == b"rest"


def test_nothing_is_imported_from_pickle():
    assert not hasattr(pickles, "pickle")
