"""One visitor's people, and what each act of the page does. Nothing here is shared or written to a disk."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import monotonic

from PIL import Image

from w2wpp.api.from_photo import Inversion
from w2wpp.api.person import Lora, Person
from w2wpp.explore.recipes import Blended, Edited, Inverted, Recipe, Sampled, title
from w2wpp.explore.studio import Likeness, Request, Studio
from w2wpp.files.errors import ArgumentError, InputError

GRID = 12  # people sampled at once
WAY = 7  # pictures on the strip from one person to another
WALK = 24  # pictures of a walk, there and back
MOST_KEPT = 24  # people on a shelf; those who came first leave first
MOST_PHOTOS = 8
PAUSE = 0.25  # seconds without a move after which a slider rests


@dataclass(frozen=True)
class Face:
    """Pictures under a title.

    Attributes:
        title: who, or what.
        pictures: one or several.
        note: a line below, such as an ID score.
        recipe: of the person; None for a photo.
    """

    title: str
    pictures: list[Image.Image]
    note: str = ""
    recipe: Recipe | None = None


@dataclass(frozen=True)
class Shown:
    """The person in hand, as on the page.

    Attributes:
        person: with the LoRA that drew.
        space: its name.
        request: what was drawn.
        pictures: one for each seed of the request.
        draft: whether they were drawn in few steps.
    """

    recipe: Recipe
    person: Person
    space: str
    request: Request
    pictures: list[Image.Image]
    draft: bool = False


@dataclass(eq=False)
class Visit:
    """The state of one open page.

    Attributes:
        space: the space in use, by name.
        request: what pictures shall show.
        shelf: people to blend and edit, by title.
        grid: people sampled last.
        photos: of the person to be found.
        shown: the person in hand; None before the first.
        known: people found from photos, by recipe and space.
        moved: when a slider moved last, in seconds of a clock.
        unedited: who was drawn last before an edit, and how.
    """

    space: str
    request: Request = field(default_factory=Request)
    shelf: dict[str, Recipe] = field(default_factory=dict)
    grid: list[Sampled] = field(default_factory=list)
    photos: list[Image.Image] = field(default_factory=list)
    shown: Shown | None = None
    known: dict[tuple[Recipe, str], Person] = field(default_factory=dict)
    inversions: int = 0
    moved: float = 0.0
    unedited: tuple[tuple, Face] | None = None

    def kept(self, name: str | None) -> Recipe:
        """A person of the shelf.

        Raises:
            ArgumentError: there is nobody of this name.
        """
        if name not in self.shelf:
            raise ArgumentError(None, "person", f"nobody called {name!r} here" if name else "nobody chosen", "Take one")
        return self.shelf[name]

    def keep(self, recipe: Recipe) -> str:
        """Put a person on the shelf; returns the name."""
        name = title(recipe)
        self.shelf[name] = recipe
        while len(self.shelf) > MOST_KEPT:
            del self.shelf[next(iter(self.shelf))]
        return name

    @property
    def resting(self) -> bool:
        """Whether no slider has moved for a moment, so that a picture is worth all its steps."""
        return monotonic() - self.moved >= PAUSE


def sample(studio: Studio, visit: Visit, first: int, count: int = GRID) -> list[Face]:
    """People who never existed, of consecutive seeds, a picture each.

    Raises:
        ArgumentError: naming `seed`.
    """
    recipes = [Sampled(first + number) for number in range(count)]
    faces = _drawn(studio, visit, recipes, visit.request.draft)
    visit.grid = recipes
    return faces


def again(studio: Studio, visit: Visit) -> list[Face]:
    """The people of the grid in the space in use."""
    return _drawn(studio, visit, visit.grid, visit.request.draft)


def take(studio: Studio, visit: Visit, number: int) -> Shown:
    """Take a person of the grid in hand, and put them on the shelf.

    Raises:
        ArgumentError: naming `person`: there is no such place.
    """
    if not 0 <= number < len(visit.grid):
        raise ArgumentError(None, "person", f"no number {number} in the grid", "Sample people first")
    visit.keep(visit.grid[number])
    return show(studio, visit, visit.grid[number])


def show(studio: Studio, visit: Visit, recipe: Recipe, draft: bool = False) -> Shown:
    """Draw a person and take them in hand.

    Args:
        draft: one picture in few steps.

    Raises:
        InputError: see `Studio.make`.
    """
    person = studio.make(recipe, visit.space, visit.known)
    request = visit.request.draft if draft else visit.request
    pictures = studio.draw([person], request, draft)[0]
    if draft:
        visit.moved = monotonic()
    visit.shown = Shown(recipe, person, visit.space, request, pictures, draft)
    return visit.shown


def finished(studio: Studio, visit: Visit) -> Shown:
    """The person in hand in all steps and pictures, as asked for and in the space in use.

    Raises:
        ArgumentError: nobody is in hand.
    """
    shown = visit.shown
    if shown is None:
        raise ArgumentError(None, "person", "nobody in hand", "Take one from the tab Sample")
    if shown.draft or shown.request != visit.request or shown.space != visit.space:
        return show(studio, visit, shown.recipe)
    return shown


def blended(visit: Visit, names: Sequence[str | None], shares: Sequence[float]) -> Blended:
    """The recipe of a blend of two people of the shelf, or of three.

    Args:
        names: of the first, second and, if there is one, third person.
        shares: of the second in the blend with the first, and of the third in the blend with these two.

    Raises:
        ArgumentError: nobody chosen.
    """
    recipe = Blended(visit.kept(names[0]), visit.kept(names[1]), float(shares[0]))
    third = names[2] if len(names) > 2 else None
    return Blended(recipe, visit.kept(third), float(shares[1])) if third else recipe


def way(studio: Studio, visit: Visit, recipe: Blended, count: int = WAY) -> list[Face]:
    """People on the line between the two whom a recipe blends, at equal steps."""
    steps: list[Recipe] = [Blended(recipe.first, recipe.second, number / (count - 1)) for number in range(count)]
    faces = _drawn(studio, visit, steps, visit.request.draft)
    return [Face(f"{number / (count - 1):.2f}", face.pictures, recipe=face.recipe) for number, face in enumerate(faces)]


def walk(studio: Studio, visit: Visit, recipe: Blended) -> list[Image.Image]:
    """The pictures of a walk from the first person of a blend to the second and back."""
    there = [face.pictures[0] for face in way(studio, visit, recipe, WALK // 2 + 1)]
    return there + there[-2:0:-1]


def edited(visit: Visit, name: str | None, changes: dict[str, float], hold_others: bool) -> Recipe:
    """The recipe of a person of the shelf with attributes changed; zeros change nothing.

    Raises:
        ArgumentError: nobody chosen.
    """
    moved = tuple((label, float(by)) for label, by in changes.items() if by)
    return Edited(visit.kept(name), moved, hold_others) if moved else visit.kept(name)


def before(studio: Studio, visit: Visit, name: str | None) -> Face:
    """A person of the shelf as they are, one picture, which is kept until another is asked for."""
    key = visit.kept(name), visit.space, visit.request.draft
    if visit.unedited is None or visit.unedited[0] != key:
        visit.unedited = key, _drawn(studio, visit, [key[0]], key[2])[0]
    return visit.unedited[1]


def bring(visit: Visit, photos: Sequence[Image.Image]) -> list[Face]:
    """Photos of the person to be found, in place of those brought before.

    Raises:
        ArgumentError: naming `photo`: too many.
    """
    if len(photos) > MOST_PHOTOS:
        raise ArgumentError(None, "photo", f"{len(photos)} photos", f"Give {MOST_PHOTOS} at most, of one person")
    visit.photos = list(photos)
    return [Face(f"photo {number}", [photo]) for number, photo in enumerate(photos, 1)]


def invert(studio: Studio, visit: Visit, refined: bool, label: str | None = "search") -> list[Face]:
    """Find the person of the photos: photo as aligned, guess and result. The result is taken in hand.

    Raises:
        InputError: see `w2wpp.invert`; or there is no photo.
    """
    if not visit.photos:
        raise ArgumentError(None, "photo", "none given", "Drop one here, or choose an example")
    recipe = Inverted(tuple(visit.photos), visit.inversions + 1, refined)
    found = studio.make(recipe, visit.space, visit.known, label)
    assert isinstance(found, Inversion)
    visit.inversions += 1
    visit.keep(recipe)
    shown = show(studio, visit, recipe)
    photos = [each.pixels for each in found.record.photos]
    guess = studio.draw([found.guess], visit.request)[0]
    return [
        Face("photo, as aligned", [Image.fromarray(each) for each in photos]),
        Face("guess", guess, likeness(studio.likeness(photos, guess))),
        Face("result", shown.pictures, likeness(studio.likeness(photos, shown.pictures)), recipe),
    ]


def compare(studio: Studio, visit: Visit, label: str | None = "spaces") -> list[Face]:
    """The person in hand, made alike in every space: same seeds, same photos, same changes.

    A space that cannot, such as one without directions, says so in its note.
    """
    shown = finished(studio, visit)
    faces = []
    for space in studio.spaces:
        try:
            person = studio.make(shown.recipe, space, visit.known, label)
        except ArgumentError as error:
            faces.append(Face(space, [], said(error)))
            continue
        pictures = studio.draw([person], visit.request)[0]
        note = ""
        if isinstance(person, Inversion):
            note = likeness(studio.likeness([each.pixels for each in person.record.photos], pictures))
        faces.append(Face(space, pictures, note, shown.recipe))
    return faces


def likeness(found: Likeness | None) -> str:
    """An ID score in words; nothing where there is none."""
    if found is None:
        return ""
    return f"ID {found.score:.2f} (a stranger {found.floor:.2f}, own photos {found.ceiling:.2f})"


def said(error: InputError) -> str:
    """An error in one line for the page, which has neither arguments nor options."""
    line = (
        InputError(error.key or "input", None, error.reason, error.remedy)
        if isinstance(error, ArgumentError)
        else error
    )
    return re.sub(r" \(--[^)]*\)", "", str(line))


def _drawn(studio: Studio, visit: Visit, recipes: Sequence[Recipe], request: Request) -> list[Face]:
    """People of the space in use, drawn together."""
    people: list[Lora] = [studio.make(each, visit.space, visit.known) for each in recipes]
    return [
        Face(title(recipe), pictures, recipe=recipe)
        for recipe, pictures in zip(recipes, studio.draw(people, request), strict=True)
    ]


def examples(studio: Studio) -> list[Face]:
    """Photos that can be tried."""
    return [Face(name, [Image.fromarray(photo)]) for name, photo in studio.examples.items()]


def example(studio: Studio, visit: Visit, name: str) -> list[Face]:
    """Bring an example's photo.

    Raises:
        ArgumentError: naming `photo`: there is no such example.
    """
    if name not in studio.examples:
        raise ArgumentError(None, "photo", f"no example {name!r}", f"Choose one of {', '.join(studio.examples)}")
    return bring(visit, [Image.fromarray(studio.examples[name])])
