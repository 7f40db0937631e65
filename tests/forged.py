"""Parts of pickles made by hand, which no library writes, for tests."""

import struct


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
