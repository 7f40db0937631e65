"""What all visitors share: base model, spaces, directions, recogniser. One visitor computes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from diffusers import StableDiffusionPipeline
from PIL import Image

from w2wpp.api import artifacts, editing, from_photo, person
from w2wpp.api.person import Lora, Person
from w2wpp.api.settings import Settings
from w2wpp.diffusion.denoising import GenerateParams
from w2wpp.diffusion.prompts import IDENTITY_PROMPT, asks_for_more
from w2wpp.explore.recipes import Blended, Edited, Inverted, Recipe, Sampled
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.spaces.base import SPACE, WeightSpace

if TYPE_CHECKING:
    from w2wpp.evaluation.gallery import Gallery
    from w2wpp.faces.recognizers import Recognizer
    from w2wpp.inversion.editing import Directions

DRAFT_STEPS = 4  # of a picture while a slider moves
MOST_SEEDS = 4
REFINED = 40  # steps beyond the space, where the settings have none
EXAMPLES = 6  # people whose photos can be tried


@dataclass(frozen=True)
class Request:
    """What a picture shall show.

    Attributes:
        prompt: `sks person` in it is the person.
        seeds: one for each picture.
    """

    prompt: str = IDENTITY_PROMPT
    seeds: tuple[int, ...] = (0,)

    @property
    def draft(self) -> Request:
        """The first picture alone."""
        return Request(self.prompt, self.seeds[:1])


@dataclass(frozen=True)
class Likeness:
    """ID score of pictures against photos, with what a stranger's and the person's own further photos score."""

    score: float
    floor: float
    ceiling: float


@dataclass(eq=False)
class Studio:
    """The models that draw, and how.

    Attributes:
        pipe: the base model.
        base: where it is, for people who take a person home.
        spaces: by name; the first is shown first.
        directions: of those spaces that have any, by the name of the space.
        settings: of search and drawing.
        examples: photos to try, uint8 [h, w, 3], by the name of the person.
        gallery: centre, floor and ceiling of ID scores; None for no scores.
        grows: whether `look_again` takes in what the pipeline leaves in the current directory.
    """

    pipe: StableDiffusionPipeline
    base: str
    spaces: dict[str, WeightSpace]
    directions: dict[str, Directions] = field(default_factory=dict)
    settings: Settings = field(default_factory=Settings)
    examples: dict[str, np.ndarray] = field(default_factory=dict)
    gallery: Gallery | None = None
    grows: bool = False
    _lock: RLock = field(default_factory=RLock, repr=False)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Nobody else draws within: the adapters of a LoRA sit in the base model that all share."""
        with self._lock:
            yield

    @property
    def labels(self) -> list[str]:
        """Attributes that some space can edit, in order."""
        return list(dict.fromkeys(name for each in self.directions.values() for name in each.names))

    def look_again(self) -> None:
        """Take in what the pipeline has left since: spaces, directions, examples and gallery.

        Raises:
            InputError: as of `take_in`.
        """
        if self.grows:
            self.take_in(known_spaces())

    def take_in(self, spaces: Sequence[str]) -> None:
        """Offer spaces, and what the pipeline has left for them; what was read before is not read again.

        Args:
            spaces: names or files, see `w2wpp.load_space`; the first is shown first.

        Raises:
            InputError: see `w2wpp.load_space`; or a space has LoRAs of another base model.
        """
        with self.alone():
            found = {}
            for each in spaces:
                name = each if artifacts.is_name(each) else Path(each).stem
                space = found[name] = self.spaces.get(name) or person.load_space(each)
                person.check_fit(space.layout, self.pipe.unet)
                file = artifacts.directions_beside(space.file)
                if name not in self.directions and file is not None and file.is_file():
                    self.directions[name] = editing.the_directions(space)
            self.spaces = found
            if Path(self.base) == artifacts.BASE:  # of another base model, this folder's people are not
                self.examples = self.examples or _examples(artifacts.DATA / "portraits")
                self.gallery = self.gallery or _gallery(artifacts.DATA / "references")

    def drawing(self, prompt: str, draft: bool = False) -> GenerateParams:
        """With which settings pictures of a prompt are drawn."""
        settings = self.settings.drawing.prompted if asks_for_more(prompt) else self.settings.drawing
        steps = min(DRAFT_STEPS, settings.inference_steps) if draft else settings.inference_steps
        return settings.model_copy(update={"inference_steps": steps})

    def draw(self, people: Sequence[Lora], request: Request, draft: bool = False) -> list[list[Image.Image]]:
        """Pictures of people, as `w2wpp.Person.draw` gives them: a list for each person."""
        settings = self.drawing(request.prompt, draft)
        with self.alone():
            drawn = person.draw(people, request.prompt, request.seeds, self.pipe, settings)
        return [[Image.fromarray(picture) for picture in pictures] for pictures in drawn.numpy()]

    def make(
        self, recipe: Recipe, space: str, known: dict[tuple[Recipe, str], Person], label: str | None = None
    ) -> Person:
        """The person of a recipe, in a space.

        Args:
            space: its name.
            known: people found from photos, to which those found here are added.
            label: of the progress bar of a search; None for no bar.

        Raises:
            InputError: as of `w2wpp.sample`, `w2wpp.blend`, `w2wpp.edit` and `w2wpp.invert`.
        """
        loaded = self.spaces[space]
        match recipe:
            case Sampled(seed):
                return person.sample(loaded, seed)
            case Blended(first, second, share):
                one, other = (self.make(each, space, known, label) for each in (first, second))
                return person.blend(one, other, share)
            case Edited(of, changes, hold_others):
                if space not in self.directions:
                    raise ArgumentError(
                        None, "directions", f"none of attributes in the space {space}", "Run `dvc repro edit`"
                    )
                start = self.make(of, space, known, label)
                return start.edit(dict(changes), hold_others, self.directions[space])
            case Inverted(photos, _, refined):
                if (recipe, space) not in known:
                    known[recipe, space] = self._found(photos, loaded, refined, label)
                return known[recipe, space]

    def likeness(self, photos: Sequence[np.ndarray], pictures: Sequence[Image.Image]) -> Likeness | None:
        """How alike pictures are to photos uint8 [h, w, 3] of one size; None without a recogniser, or without a face on
        a photo.
        """
        if self.gallery is None or self._recognizer is None:
            return None
        from w2wpp.evaluation.scoring import id_scores

        with self.alone():
            real = self._recognizer.embed(np.stack(photos))
            drawn = self._recognizer.embed(np.stack([np.asarray(each) for each in pictures]))
        if not real.found.any():
            return None
        both = drawn.vectors[None], drawn.found[None], real.vectors[None], real.found[None]
        score = id_scores(*both, self.gallery.mean, self.gallery.floor)[0]
        return Likeness(float(score), self.gallery.floor, self.gallery.ceiling)

    def _found(
        self, photos: tuple[Image.Image, ...], space: WeightSpace, refined: bool, label: str | None
    ) -> from_photo.Inversion:
        search = self.settings.search
        steps = search.refine.steps or REFINED
        options = from_photo.PhotoOptions(faces=self.settings.faces)
        with self.alone():
            return from_photo.invert(
                list(photos), space, self.pipe, "auto", search, options, label=label, refine=steps if refined else 0
            )

    @cached_property
    def _recognizer(self) -> Recognizer | None:
        try:
            from w2wpp.faces.recognizers import load_recognizer

            recognizer = load_recognizer(self.settings.recognizer, workers=1)
        except (ImportError, InputError):
            return None
        return recognizer if self.gallery is not None and len(self.gallery.mean) == recognizer.dim else None


def open_studio(base: str | Path, spaces: Sequence[str] | None, settings: Settings) -> Studio:
    """Load what the page needs.

    Args:
        base: see `w2wpp.load_base`.
        spaces: names or files, see `w2wpp.load_space`; the first is shown first. None for the pipeline's, also those
            that it leaves later.
        settings: of search and drawing.

    Raises:
        InputError: see `w2wpp.load_base` and `w2wpp.load_space`; or a space has LoRAs of another base model.
    """
    pipe, grows = person.load_base(base, settings.drawing.dtype), spaces is None and Path(base) == artifacts.BASE
    studio = Studio(pipe, str(base), {}, settings=settings, grows=grows)
    studio.take_in(known_spaces() if spaces is None else spaces)
    return studio


def known_spaces() -> list[str]:
    """Names of the pipeline's spaces in the current directory, the VAE first."""
    return sorted(artifacts.names_in(artifacts.SPACES, SPACE), key=lambda name: name != "vae") or ["vae"]


def _examples(folder: Path) -> dict[str, np.ndarray]:
    """The input photos of some held-out people."""
    if not (folder / "manifest.csv").is_file():
        return {}
    from w2wpp.faces.portraits import read_portraits

    people = read_portraits(folder)
    rows = [row for row, split in enumerate(people.splits) if split == "validation"] or list(range(len(people.names)))
    return {people.names[row]: people.images[row, 0].numpy() for row in rows[:EXAMPLES]}


def _gallery(folder: Path) -> Gallery | None:
    if not (folder / "gallery.safetensors").is_file():
        return None
    from w2wpp.evaluation.gallery import Gallery

    return Gallery.load(folder / "gallery.safetensors")
