"""The factors of invented people as columns of a table, and as numbers."""

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, SupportsFloat

import numpy as np

from w2wpp.world.people import BEARDS, GLASSES, HAIR_STYLES, HEAD_CHANGES, Identity, Nuisance


def identity_row(identity: Identity) -> dict[str, float | str]:
    """Flat columns of a person, each named ``person_...``: numbers as floats, names as text."""
    return _row("person_", identity)


def nuisance_row(nuisance: Nuisance) -> dict[str, float | str]:
    """Flat columns of a photo's circumstances, each named ``photo_...``."""
    return _row("photo_", nuisance)


def identity_from_row(row: Mapping[str, str | SupportsFloat]) -> Identity:
    """Undo :func:`identity_row`; values may be text (as ``csv`` gives them) and other columns are ignored.

    Raises:
        ValueError: a column is missing, is no number where one is due, or holds a value no person can have.
    """

    def number(column: str) -> float:
        if column not in row:
            raise ValueError(f"no column {column!r} in the row of a person")
        try:
            return float(row[column])
        except (TypeError, ValueError):
            raise ValueError(f"column {column!r} must hold a number, got {row[column]!r}") from None

    values: dict[str, Any] = {}
    for field in fields(Identity):
        column = "person_" + field.name
        if field.name == "changes":
            values["changes"] = tuple(number("person_change_" + name.replace("-", "_")) for name in HEAD_CHANGES)
        elif field.name.endswith("_rgb"):
            values[field.name] = tuple(number(f"{column[:-4]}_{channel}") for channel in "rgb")
        elif field.type == "str":
            if column not in row:
                raise ValueError(f"no column {column!r} in the row of a person")
            values[field.name] = str(row[column])
        else:
            values[field.name] = int(number(column)) if field.type == "int" else number(column)
    return Identity(**values)


def identity_factors(identity: Identity) -> np.ndarray:
    """Every factor of a person as numbers float32 [f], in the same order for everybody.

    Measures are as they are, styles one-hot, colours in sRGB without their names.
    """
    named = {"hair_style": HAIR_STYLES, "beard": BEARDS, "glasses": GLASSES}
    numbers: list[float] = []
    for name, value in _row("", identity).items():
        if name in named:
            numbers += [float(value == choice) for choice in named[name]]
        elif not isinstance(value, str):
            numbers.append(float(value))
    return np.array(numbers, np.float32)


def _row(prefix: str, value: Identity | Nuisance) -> dict[str, float | str]:
    row: dict[str, float | str] = {}
    for field in fields(value):
        item = getattr(value, field.name)
        if field.name == "changes":
            row |= {f"{prefix}change_{re.sub('-', '_', n)}": v for n, v in zip(HEAD_CHANGES, item, strict=True)}
        elif field.name.endswith("_rgb"):
            row |= {f"{prefix}{field.name[:-4]}_{c}": v for c, v in zip("rgb", item, strict=True)}
        else:
            row[prefix + field.name] = item
    return row
