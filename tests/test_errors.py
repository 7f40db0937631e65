"""Errors are one line, the same in every run."""

import io
import pickle

from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.run.params import Params


def test_reasons_hold_no_address():
    reason = f"cannot identify {io.BytesIO()!r} by {object()!r}"
    assert " at 0x" in reason
    for error in (InputError("a.png", None, reason, "Take it away"), ArgumentError(Params, "faces", reason)):
        assert error.reason == "cannot identify <_io.BytesIO object> by <object object>"
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert InputError("a", None, "byte 3 is 0xff").reason == "byte 3 is 0xff"
