"""How a person came about, told so that the same can be done in another space."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from PIL import Image


@dataclass(frozen=True)
class Sampled:
    """Drawn by a seed: around a space's donors, see `w2wpp.sample`, or from its prior."""

    seed: int


@dataclass(frozen=True, eq=False)
class Inverted:
    """Found from photos of one person.

    Attributes:
        photos: RGB.
        number: which of a visitor's inversions it is, from 1.
        refined: whether the search went on beyond the space.
    """

    photos: tuple[Image.Image, ...] = field(repr=False)
    number: int
    refined: bool = False


@dataclass(frozen=True)
class Blended:
    """On the line between two people; `share` is that of the second."""

    first: Recipe
    second: Recipe
    share: float


@dataclass(frozen=True)
class Edited:
    """A person with attributes changed.

    Attributes:
        of: the person before.
        changes: labels and strengths, in standard deviations of the zoo.
        hold_others: whether all other labels stay.
    """

    of: Recipe
    changes: tuple[tuple[str, float], ...]
    hold_others: bool


Recipe: TypeAlias = Sampled | Inverted | Blended | Edited


def title(recipe: Recipe) -> str:
    """A few words for a person, which also name their files."""
    match recipe:
        case Sampled(seed):
            return f"sample {seed}"
        case Inverted(_, number, refined):
            return f"photo {number}, refined" if refined else f"photo {number}"
        case Blended(first, second, share):
            return f"{title(first)} and {share:.0%} of {title(second)}"
        case Edited(of, changes, _):
            return f"{title(of)}, {', '.join(f'{label} {by:+g}' for label, by in changes)}" if changes else title(of)


def told(recipe: Recipe) -> dict:
    """A recipe for JSON; photos themselves are left out."""
    match recipe:
        case Sampled(seed):
            return {"sampled": {"seed": seed}}
        case Inverted(photos, _, refined):
            return {"inverted": {"photos": len(photos), "refined": refined}}
        case Blended(first, second, share):
            return {"blended": {"first": told(first), "second": told(second), "share": share}}
        case Edited(of, changes, hold_others):
            return {"edited": {"of": told(of), "changes": dict(changes), "hold_others": hold_others}}
