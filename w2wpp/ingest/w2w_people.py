"""The people of the weights2weights data set's rows, and their splits: zoo, validation and test."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from w2wpp.files.errors import InputError
from w2wpp.files.splits import drawn_order
from w2wpp.files.tensor_files import opened, printable
from w2wpp.ingest.pickled_frame import read_frame
from w2wpp.ingest.w2w_source import CONVERTED, IDENTITIES

SPLITS = ("zoo", "validation", "test")
MAX_CSV_BYTES = 64 * 2**20
ATTRIBUTES = (
    "5_o_Clock_Shadow",
    "Arched_Eyebrows",
    "Attractive",
    "Bags_Under_Eyes",
    "Bald",
    "Bangs",
    "Big_Lips",
    "Big_Nose",
    "Black_Hair",
    "Blond_Hair",
    "Blurry",
    "Brown_Hair",
    "Bushy_Eyebrows",
    "Chubby",
    "Double_Chin",
    "Eyeglasses",
    "Goatee",
    "Gray_Hair",
    "Heavy_Makeup",
    "High_Cheekbones",
    "Male",
    "Mouth_Slightly_Open",
    "Mustache",
    "Narrow_Eyes",
    "No_Beard",
    "Oval_Face",
    "Pale_Skin",
    "Pointy_Nose",
    "Receding_Hairline",
    "Rosy_Cheeks",
    "Sideburns",
    "Smiling",
    "Straight_Hair",
    "Wavy_Hair",
    "Wearing_Earrings",
    "Wearing_Hat",
    "Wearing_Lipstick",
    "Wearing_Necklace",
    "Wearing_Necktie",
    "Young",
)
_CONVERT = (
    f"If you trust the file, run `python -c \"import torch; torch.load('{IDENTITIES}', weights_only=False)"
    f".to_csv('{CONVERTED}', index_label='index')\"` where torch and pandas can read it, and put {CONVERTED} "
    "beside it"
)
_COLUMNS = f"Give {IDENTITIES} as it was published, or the {CONVERTED} that its to_csv writes"


def read_people(path: str | Path) -> pd.DataFrame:
    """The person of each row of weights: "person" ("" if unknown), "file" if rows have names, `ATTRIBUTES` as -1 or 1.

    Other columns are left out.

    Args:
        path: identity_df.pt as published (see `read_frame`), or a CSV of it.

    Raises:
        InputError: the file cannot be read; or naming the column that is missing or holds other values.
    """
    path, where = Path(path), printable(path)
    table = _read_csv(path, where) if path.suffix.lower() == ".csv" else read_frame(path, _CONVERT)
    for column in ("identity", *ATTRIBUTES):
        if column not in table:
            raise InputError(where, column, "column missing", _COLUMNS)
    people = {"person": [_text(value, where, "identity") for value in table["identity"]]}
    name = next((name for name in ("file", "index") if name in table), None)
    if name:
        people["file"] = [_text(value, where, name) for value in table[name]]
    for column in ATTRIBUTES:
        numbers = pd.to_numeric(table[column], errors="coerce")
        sound = ((numbers == 1) | (numbers == -1)).to_numpy(dtype=bool)
        if not sound.all():
            row = int((~sound).argmax())
            value = printable(repr(table[column].iloc[row]))
            raise InputError(where, column, f"{value} in row {row}, expected -1 or 1", _COLUMNS)
        people[column] = numbers.astype("int8")
    return pd.DataFrame(people)


def assign_splits(people: Sequence[str], seed: int, validation: float, test: float) -> list[str]:
    """The split of every row, "" for rows of nobody; all rows of a person are in one split.

    The first people in `drawn_order` go to test, the next to validation.

    Args:
        people: the person of each row, "" if unknown.
        seed: other seeds give other splits.
        validation, test: the shares of the people, together below 1. A share above 0 is at least one person.
    """
    if not (validation >= 0 and test >= 0 and validation + test < 1):
        raise ValueError(f"shares {validation} and {test}, expected at least 0 and together below 1")
    names = drawn_order(set(people) - {""}, seed, ":")
    split, start = {"": ""}, 0
    for name, share in (("test", test), ("validation", validation)):
        count = max(1, round(share * len(names))) if share else 0
        split |= dict.fromkeys(names[start : start + count], name)
        start += count
    return [split.get(name, "zoo") for name in people]


def _text(value: object, where: str, column: str) -> str:
    """A name as text; whole numbers have no decimal places, and a missing name is ""."""
    text = "" if value is None or value != value else re.sub(r"^(-?\d+)\.0$", r"\1", str(value).strip())
    if printable(text) != text:
        raise InputError(where, column, f"unprintable or overlong name {printable(text)}", _COLUMNS)
    return text


def _read_csv(path: Path, where: str) -> pd.DataFrame:
    """A CSV's columns as text."""
    with opened(path) as file:
        content = file.read(MAX_CSV_BYTES + 1)
    if len(content) > MAX_CSV_BYTES:
        raise InputError(where, None, f"more than {MAX_CSV_BYTES} bytes", _COLUMNS)
    wanted = {"identity", "file", "index", *ATTRIBUTES}
    try:
        lines = csv.reader(io.StringIO(content.decode("utf-8-sig"), newline=""), strict=True)
        header = next(lines, [])
        places = [place for place, name in enumerate(header) if name in wanted]
        names = [header[place] for place in places]
        if len(set(names)) < len(names):
            raise ValueError("a column is given twice")
        rows = []
        for line in lines:
            if len(line) != len(header):
                raise ValueError(f"{len(line)} values for {len(header)} columns in line {lines.line_num}")
            rows.append([line[place] for place in places])
    except (ValueError, csv.Error) as error:
        raise InputError(where, None, f"not a sound CSV ({printable(str(error))})", _COLUMNS) from error
    return pd.DataFrame(rows, columns=names, dtype=str)
