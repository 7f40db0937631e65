"""The table people.csv, which assigns files of LoRAs to people."""

import csv
import io
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.folders import normal_form
from w2wpp.files.tensor_files import opened, printable

MAX_BYTES = 64 * 2**20
_DELIMITERS = ",;\t|"
_REMEDY = "Give it the columns file and person, in UTF-8, separated by commas, semicolons or tabs"


def read_listed(path: str | Path) -> dict[str, str]:
    """The person of each file that a table lists, both in Unicode's normal form C.

    The table may come from a spreadsheet: commas, semicolons, tabs or bars, UTF-8 or UTF-16 with a byte order mark, a
    first line "sep=;", quoted values, columns in any order and further ones, Windows' backslashes in paths.

    Raises:
        InputError: naming the column: the table cannot be read or lacks a column. Or a row lacks a name, has an
            unprintable one, or repeats a file.
    """
    path, where = Path(path), printable(path)
    with opened(path) as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise InputError(where, None, f"more than {MAX_BYTES} bytes", _REMEDY)
    try:
        text = content.decode("utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
        skipped = int(text.lower().startswith("sep="))
        text = text.partition("\n")[2] if skipped else text
        columns, delimiter = _header(text.partition("\n")[0])
        for column in ("file", "person"):
            if column not in columns:
                raise InputError(where, column, "column missing", _REMEDY)
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        listed: dict[str, str] = {}
        lines: dict[str, int] = {}
        for row in rows:
            line = rows.line_num + skipped
            if not any(map(str.strip, row)) or rows.line_num == 1:
                continue
            values = [normal_form(value.strip()) for value in row] + [""] * len(columns)
            name, person = (values[columns.index(column)] for column in ("file", "person"))
            name = name.replace("\\", "/").removeprefix("./")
            for column, value in (("file", name), ("person", person)):
                if not value or printable(value) != value:
                    raise InputError(where, column, f"{printable(value)!r} in line {line}, expected a name", _REMEDY)
            if name in listed:
                raise InputError(
                    where,
                    "file",
                    f"{name!r} is in line {lines[name]}, of {listed[name]!r}, and in line {line}, of {person!r}",
                    "Keep one of them",
                )
            listed[name], lines[name] = person, line
    except UnicodeDecodeError as error:
        raise InputError(where, None, "not in UTF-8", _REMEDY) from error
    except csv.Error as error:
        raise InputError(where, None, f"not a sound CSV ({printable(str(error))})", _REMEDY) from error
    return listed


def _header(line: str) -> tuple[list[str], str]:
    """The columns in the first line, split by the delimiter that gives most of the required ones."""
    choices = [
        ([name.strip().casefold() for name in next(csv.reader([line], delimiter=delimiter), [])], delimiter)
        for delimiter in _DELIMITERS
    ]
    return max(choices, key=lambda choice: len({"file", "person"} & set(choice[0])))
