"""People from photos: what `w2wpp.invert` does."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from diffusers import StableDiffusionPipeline

from w2wpp.api import artifacts
from w2wpp.api.person import Base, Person, Space, check_fit, check_seed, the_base, the_space
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.settings import with_changes
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.restoration import Restorer, load_restorer
from w2wpp.inversion.search import InvertParams, SearchOptions
from w2wpp.spaces.base import WeightSpace

if TYPE_CHECKING:
    from w2wpp.inversion.own_photo import Photo, SearchRecord


@dataclass(frozen=True, eq=False)
class Inversion(Person):
    """A person found from photos, see `invert`.

    Attributes:
        record: where the search started, its losses, the photos as it saw them, and seconds.
    """

    record: "SearchRecord"

    @property
    def guess(self) -> Person:
        """The person at whom the search started: the photo encoder's, or the mean of the space."""
        return Person.at(self.record.guess, self.space)


@dataclass(frozen=True)
class PhotoOptions:
    """How photos are read.

    Attributes:
        framing: how training photos are framed. "rendered": as those of the world that is rendered here; "ffhq": as
            those of all other base models; None: as the base model needs; "none": the photos are framed so already,
            and nobody looks for faces.
        faces: who finds faces, see `w2wpp.faces.finders.load_face_finder`.
        largest: take the largest of several faces also where others are about as large.
        restorer: for pictures that are no photos, such as drawings, paintings and covered faces: a restorer's file, or
            True for the one that the pipeline left. Guess and search go by what it says photos would show.
    """

    framing: Literal["rendered", "ffhq", "none"] | None = None
    faces: str = "dlib"
    largest: bool = False
    restorer: str | Path | bool = False


def invert(
    photos: "Photo | Sequence[Photo]",
    space: Space = "vae",
    base: Base = artifacts.BASE,
    encoder: PhotoEncoder | str | Path | None = "auto",
    settings: InvertParams | None = None,
    options: PhotoOptions | None = None,
    seed: int = 0,
    label: str | None = None,
    refine: int | None = None,
) -> Inversion:
    """The person of one photo, or of several: the point of the space whose LoRA explains them best.

    The face is found and framed as the base model's training photos are; the photo encoder guesses where it lies in the
    space; a search, which moves z alone, minimises the diffusion loss of all photos from there on. Refined, the search
    goes on in all weights: `weights` are then those of no point of the space, and `z` is where they were left.

    Args:
        photos: of one person: the path of a JPEG, PNG or WebP, a PIL image, or uint8 [h, w, 3]; or several of these.
        space: a space, or see `load_space`.
        base: a pipeline, or see `load_base`.
        encoder: a photo encoder, its file, or the name of the space that it was fitted for; None starts the search at
            the mean of the space; "auto" is the encoder that the pipeline left for the space, if there is one.
        settings: of the search; by default those of the shipped world.
        options: how photos are read; by default as the base model needs, with dlib.
        seed: of noise and timesteps.
        label: of a progress bar; None for no bar.
        refine: steps of the search in all weights; None: as many as `settings.refine` says, 0 if not given.

    Raises:
        ArgumentError: naming `refine`: no whole number from 0 on.
        InputError: a photo cannot be read, or has no face or several; a package that finds faces is missing; or space,
            base and encoder do not fit one another.
    """
    photos = check_photos(photos)
    from w2wpp.faces.finders import load_face_finder
    from w2wpp.faces.frames import FFHQ
    from w2wpp.inversion.own_photo import FRAMINGS, align_photo, framing_of, invert_photos

    check_seed(seed)
    options, settings = options or PhotoOptions(), settings or InvertParams()
    if refine is not None:
        check_seed(refine, "refine")
        settings = with_changes(settings, {"refine.steps": refine})
    named = isinstance(space, str) and artifacts.is_name(space)
    if encoder == "auto" and named:
        encoder = str(space)
    space, pipe = the_space(space), the_base(base)
    if encoder == "auto":
        encoder = artifacts.encoder_beside(space.file) if space.file else None
    check_fit(space.layout, pipe.unet)
    if isinstance(encoder, (str, Path)):
        encoder = PhotoEncoder.load(artifacts.encoder_file(encoder))
    size = pipe.unet.config.sample_size
    if encoder and encoder.matrix.shape != (pipe.unet.config.in_channels * size * size, space.latent_dim):
        raise ArgumentError(
            None,
            "encoder",
            "of another space or base model",
            "Give the one that was fitted for them, or none, and the search starts at the mean",
        )
    restorer = _restorer(options.restorer, pipe) if options.restorer else None
    framing = options.framing or framing_of(pipe)
    if framing not in FRAMINGS:
        raise ArgumentError(None, "framing", f"unknown framing {framing!r}", f"Use {', '.join(FRAMINGS)}")
    find = None
    if framing != "none" or settings.mask == "face":
        find = load_face_finder(options.faces, FRAMINGS[framing] or FFHQ)
    aligned = [
        align_photo(each, size * pipe.vae_scale_factor, FRAMINGS[framing], find, options.largest) for each in photos
    ]
    search = SearchOptions(settings, seed, label)
    record = invert_photos(pipe, _on(space, pipe), encoder, aligned, search, find, restorer)
    return Inversion(record.weights, space.layout, record.z, space, record)


def _restorer(where: str | Path | bool, pipe: StableDiffusionPipeline) -> Restorer:
    """A restorer where the base model is.

    Raises:
        ArgumentError: naming `restorer`: there is none, or it is of another base model.
    """
    restorer = load_restorer(artifacts.restorer_file(artifacts.RESTORER if where is True else str(where)))
    size = pipe.unet.config.sample_size
    if restorer.mean.shape != (pipe.unet.config.in_channels, size, size):
        raise ArgumentError(
            None, "restorer", "of another base model", "Give the one that was trained for it, or none for photos"
        )
    return restorer.to(pipe.device)


def check_photos(photos: "Photo | Sequence[Photo]") -> "list[Photo]":
    """Refuse at once what `invert` could not read; one photo or several as a list.

    Raises:
        InputError: a photo cannot be read, there is none, or a package that finds faces is missing.
    """
    try:
        import w2wpp.faces.finders  # noqa: F401  its packages are what may be missing
        from w2wpp.inversion.own_photo import open_photo
    except ImportError as error:
        raise InputError(
            "faces", None, f"{error.name} is not installed, and finds them", "Run `pip install 'w2wpp[faces]'`"
        ) from error
    several = list(photos) if isinstance(photos, (list, tuple)) else [cast("Photo", photos)]
    if not several:
        raise ArgumentError(None, "photo", "none given", "Give one photo or several of one person")
    for each in several:
        open_photo(each)
    return several


def _on(space: WeightSpace, pipe: StableDiffusionPipeline) -> WeightSpace:
    """A space where the base model is; the user's own stays where it is."""
    return space if pipe.device.type == "cpu" else copy.deepcopy(space).to(pipe.device)
