"""The content of a pickle is read as inert data."""

import io
import pickle

import numpy as np

from w2wpp.ingest import pickles
from w2wpp.ingest.pickled_frame import NAMES
from w2wpp.ingest.pickles import Call, Global, Persistent, read_pickle


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
