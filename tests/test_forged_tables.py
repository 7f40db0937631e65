"""Pickles made by hand to do harm are refused, in bounded memory."""

import struct
import sys
import tracemalloc

import pytest
from forged import DTYPE, EIGHT, ENCODE, FORGED, HUGE, PAIRS, SIXTEEN, STRUCT, TWO_ROWS, array, g, table, text
from pickled import refused

from w2wpp.ingest.pickled_frame import read_frame


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
