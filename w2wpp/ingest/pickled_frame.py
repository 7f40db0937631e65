"""Pickled tables of any pandas version, rebuilt from inert data: no code of the pickle runs."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import opened, printable
from w2wpp.ingest.pickles import Call, Global
from w2wpp.ingest.torch_files import read_saved

# Names by meaning; those of numpy 1 and 2, and of pandas 1, 2 and 3, differ in the module.
_FRAMES = ("pandas.core.frame.DataFrame", "pandas.DataFrame")
_MANAGERS = ("pandas.core.internals.managers.BlockManager",)
_BLOCKS = ("pandas._libs.internals._unpickle_block",)
_NEW_INDEX = ("pandas.core.indexes.base._new_Index",)
_RANGES = ("pandas.core.indexes.range.RangeIndex", "pandas.RangeIndex")
_INDEXES = (
    "pandas.core.indexes.base.Index",
    "pandas.Index",
    "pandas.core.indexes.numeric.Int64Index",
    "pandas.core.indexes.numeric.UInt64Index",
    "pandas.core.indexes.numeric.Float64Index",
)
_STRINGS = ("pandas.arrays.StringArray", "pandas.StringDtype", "pandas.core.arrays.string_.StringDtype")
_EXTENSIONS = ("pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",)
_RECONSTRUCT = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_FROM_BUFFER = ("numpy.core.numeric._frombuffer", "numpy._core.numeric._frombuffer")
_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")
_OTHERS = ("numpy.ndarray", "numpy.dtype", "builtins.slice", "builtins.bytes", "_codecs.encode")
NAMES = frozenset(
    (
        *_FRAMES,
        *_MANAGERS,
        *_BLOCKS,
        *_NEW_INDEX,
        *_RANGES,
        *_INDEXES,
        *_STRINGS,
        *_EXTENSIONS,
        *_RECONSTRUCT,
        *_FROM_BUFFER,
        *_SCALARS,
        *_OTHERS,
    )
)
_NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f4", "f8"}
MAX_COLUMNS = 10_000


class _Unfit(Exception):
    """The pickle holds no table that can be rebuilt."""


def read_frame(path: str | Path, remedy: str) -> pd.DataFrame:
    """A table of torch.save or pickle.dump: columns of numbers, booleans and printable text, named by text.

    Row labels become the first column, under the index's name or "index", unless they only count rows.

    Args:
        path: the file, of protocol 2 to 5, a zip archive of torch.save or its older format.
        remedy: how to convert a file that cannot be read here.

    Raises:
        InputError: the file cannot be read, is damaged, refers to names that tables do not need, or holds no such
            table.
    """
    where = printable(path)
    with opened(Path(path)) as file:
        value, size = read_saved(file, NAMES, where, remedy), os.fstat(file.fileno()).st_size
    try:
        return _frame(value, size)
    except (_Unfit, OverflowError, ValueError) as error:
        raise InputError(where, None, f"not a plain pandas table ({printable(str(error))})", remedy) from error


def _frame(value: object, most: int) -> pd.DataFrame:
    """The table, with at most `most` values: a small pickle could reuse its parts many times."""
    state = _call(value, _FRAMES, "table").state
    if not isinstance(state, dict):
        raise _Unfit("a table without content")
    manager = _call(state.get("_mgr", state.get("_data")), _MANAGERS, "block manager")
    axes, blocks = _axes_and_blocks(manager)
    if not isinstance(axes, list) or len(axes) != 2:
        raise _Unfit("other than two axes")
    (names, _), (labels, title) = map(_index, axes)
    if len(names) > MAX_COLUMNS or not all(type(name) is str for name in names) or len(set(names)) < len(names):
        raise _Unfit(f"columns not named by different texts, at most {MAX_COLUMNS}")
    if len(names) * len(labels) > most:
        raise _Unfit(f"{len(names)} columns of {len(labels)} rows in {most} bytes")
    columns = {}
    for values, places in blocks:
        array, places = _array(values), _places(places, len(names))
        array = array if array.ndim == 2 else array[None]
        if array.shape != (len(places), len(labels)):
            raise _Unfit(f"a block of shape {list(array.shape)} for {len(places)} columns of {len(labels)} rows")
        for place, row in zip(places, array, strict=True):
            if names[place] in columns:
                raise _Unfit("a column given twice")
            columns[names[place]] = row
    if len(columns) < len(names):
        raise _Unfit("a column without values")
    frame = pd.DataFrame({name: columns[name] for name in names}, index=range(len(labels)))
    title = title if type(title) is str else "index"
    if not isinstance(labels, range) and title not in columns:
        frame.insert(0, title, labels)
    return frame


def _axes_and_blocks(manager: Call) -> tuple[object, list[tuple[object, object]]]:
    """The two axes, and values and placement of each block, in the formats of pandas before and from 1.3."""
    if manager.arguments:
        blocks, axes = _pair(manager.arguments)
        if not isinstance(blocks, tuple):
            raise _Unfit("no blocks")
        blocks = [(*_call(block, _BLOCKS, "block").arguments, None, None)[:2] for block in blocks]
        return axes, blocks
    state = manager.state[-1] if isinstance(manager.state, tuple) and manager.state else None
    state = state.get("0.14.1") if isinstance(state, dict) else None
    state = state if isinstance(state, dict) else {}
    blocks = state.get("blocks")
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        raise _Unfit("no blocks")
    return state.get("axes"), [(block.get("values"), block.get("mgr_locs")) for block in blocks]


def _index(value: object) -> tuple[Sequence, object]:
    """Labels of an axis and its name."""
    kind, content = _pair(_call(value, _NEW_INDEX, "index").arguments)
    if not isinstance(kind, Global) or not isinstance(content, dict):
        raise _Unfit("an index that makes no sense")
    if kind.name in _RANGES:
        ends = [content.get(key) for key in ("start", "stop", "step")]
        numbers = [number for number in ends if type(number) is int]
        if len(numbers) < len(ends) or numbers[2] == 0:
            raise _Unfit("a range that makes no sense")
        start, stop, step = numbers
        return range(start, stop, step), content.get("name")
    if kind.name not in _INDEXES:
        raise _Unfit(f"{kind.name} where there must be an index")
    labels = _array(content.get("data"))
    if labels.ndim != 1:
        raise _Unfit("an index of two dimensions")
    return labels.tolist(), content.get("name")


def _places(value: object, count: int) -> Sequence[int]:
    """The numbers, all below `count`, of a block's columns."""
    if isinstance(value, Call) and value.function == "builtins.slice":
        if (
            len(value.arguments) != 3
            or not all(part is None or type(part) is int for part in value.arguments)
            or value.arguments[2] == 0
        ):
            raise _Unfit("a slice that makes no sense")
        return range(*slice(*value.arguments).indices(count))
    places = _array(value)
    if places.ndim != 1 or places.dtype.kind not in "iu" or not all(0 <= place < count for place in places):
        raise _Unfit("columns that are not there")
    return places.tolist()


def _array(value: object) -> np.ndarray:
    """An array of one or two dimensions, of numbers or Python objects."""
    call = _call(value, (*_RECONSTRUCT, *_FROM_BUFFER, *_EXTENSIONS), "array")
    if call.function in _EXTENSIONS:
        parts = call.state if isinstance(call.state, tuple) else ()
        arrays = [part for part in parts if isinstance(part, Call) and part.function not in _STRINGS]
        kind = call.arguments[0] if call.arguments else None
        if kind != Global("pandas.arrays.StringArray") or len(arrays) != 1 or arrays[0].function in _EXTENSIONS:
            raise _Unfit("an array that is neither of numbers nor of text")
        return _array(arrays[0])
    if call.function in _FROM_BUFFER:
        content, dtype, shape, order = call.arguments if len(call.arguments) == 4 else (None,) * 4
    else:
        state = call.state if isinstance(call.state, tuple) and len(call.state) == 5 else (None,) * 5
        _, shape, dtype, fortran, content = state
        order = "F" if fortran is True else "C"
    if (
        not isinstance(shape, tuple)
        or not 1 <= len(shape) <= 2
        or order not in ("C", "F")
        or not all(type(size) is int and 0 <= size < 2**40 for size in shape)
    ):
        raise _Unfit("an array of impossible shape")
    code = _dtype(dtype)
    if code == "object":
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise _Unfit("an array of another size than its shape")
        array = np.empty(len(content), dtype=object)
        array[:] = [_element(element) for element in content]
        return array.reshape(shape)
    content = _bytes(content)
    if len(content) != math.prod(shape) * np.dtype(code).itemsize:
        raise _Unfit("an array of another size than its shape")
    return np.frombuffer(content, dtype=code).astype(np.dtype(code).newbyteorder("=")).reshape(shape, order=order)


def _dtype(value: object) -> str:
    """A numpy dtype's name: "object", or of numbers of either byte order."""
    call = _call(value, ("numpy.dtype",), "dtype")
    code = call.arguments[0] if call.arguments else None
    order = call.state[1] if isinstance(call.state, tuple) and len(call.state) > 1 else "|"
    if type(code) is str and code in ("O8", "O4", "O"):
        return "object"
    if type(code) is not str or code not in _NUMBERS or type(order) is not str or order not in ("<", ">", "|", "="):
        raise _Unfit("an array of neither numbers nor text")
    return order + code


def _element(value: object) -> object:
    """One value of an object array."""
    if value is None or type(value) in (float, bool):
        return value
    if type(value) is str:
        if not value.isprintable():
            raise _Unfit("text that cannot be printed")
        return value
    if type(value) is int:
        if abs(value) >= 2**63:
            raise _Unfit("a number of more than 64 bits")
        return value
    call = _call(value, _SCALARS, "number or text")
    dtype, content = _pair(call.arguments)
    code, content = _dtype(dtype), _bytes(content)
    if code == "object" or len(content) != np.dtype(code).itemsize:
        raise _Unfit("a number of impossible size")
    return np.frombuffer(content, dtype=code)[0].item()


def _bytes(value: object) -> bytes:
    """Bytes, which protocol 2 stores as text to encode."""
    if isinstance(value, (bytes, bytearray)):
        return bytes(value)
    call = _call(value, ("_codecs.encode", "builtins.bytes"), "bytes")
    if call.arguments == () and call.function == "builtins.bytes":
        return b""
    text, coding = _pair(call.arguments)
    if type(text) is not str or coding != "latin1" or call.function != "_codecs.encode":
        raise _Unfit("bytes that make no sense")
    return text.encode("latin-1")


def _call(value: object, functions: tuple[str, ...], expected: str) -> Call:
    if not isinstance(value, Call) or value.function not in functions:
        raise _Unfit(f"no {expected} where there must be one")
    return value


def _pair(arguments: tuple) -> tuple:
    if len(arguments) != 2:
        raise _Unfit("another number of arguments than two")
    return arguments
