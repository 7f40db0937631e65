"""Typed, range-checked settings: the base class of all sections and the shared types of fields."""

import os
from collections.abc import Mapping
from functools import reduce
from operator import getitem
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1)]
Shift = Annotated[float, Field(ge=0.1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Ridge = Annotated[float, Field(gt=0)] | None
Prompt = Annotated[str, Field(min_length=1)]
Path = Annotated[str, Field(min_length=1), AfterValidator(os.path.expanduser)]


def _not_empty(region: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        raise ValueError("a region is left, top, right, bottom, and must not be empty")
    return region


# Left, top, right and bottom, in shares of the picture. YAML has lists instead of tuples.
Region = Annotated[tuple[Share, Share, Share, Share], Field(strict=False), AfterValidator(_not_empty)]


class Section(BaseModel):
    """A section of settings: frozen, strictly typed, with defaults; an unknown field is an error.

    The string under a field is its description, in error messages and in the reference of parameters.
    """

    # Strict, because the string "1" and `true`, which equals 1, would otherwise pass as numbers.
    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True, validate_default=True
    )


AnySection = TypeVar("AnySection", bound=Section)


def with_changes(settings: AnySection, changes: Mapping[str, object]) -> AnySection:
    """The settings with some values replaced, by dotted key such as "vae.kl.weight".

    Raises:
        KeyError: there is no such section. pydantic.ValidationError: a key is unknown, or a value of the wrong type or
            out of range.
    """
    tree = settings.model_dump(mode="json")
    for key, value in changes.items():
        *sections, last = key.split(".")
        reduce(getitem, sections, tree)[last] = value
    return type(settings).model_validate(tree)
