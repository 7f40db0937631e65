"""Photos of one person, of any size, to a latent: alignment as in training, guess, search."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageOps
from torch import Tensor

from w2wpp.codec import PatchCodec
from w2wpp.diffusion.pipeline import encode_images, encode_prompts
from w2wpp.faces.frames import FFHQ, RENDERED, Frame, Framing, align, face_masks, find_faces, is_framed
from w2wpp.faces.pictures import as_rgb, read_picture
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.folders import expanded
from w2wpp.files.tensor_files import printable
from w2wpp.inversion.photo_encoder import PhotoEncoder, uninformed
from w2wpp.inversion.refinement import refine
from w2wpp.inversion.restoration import Restorer
from w2wpp.inversion.search import EncodedPhotos, SearchOptions, invert, photo_losses
from w2wpp.spaces.base import WeightSpace

Photo = str | Path | Image.Image | np.ndarray
FRAMINGS: dict[str, Framing | None] = {"rendered": RENDERED, "ffhq": FFHQ, "none": None}
# Detectors miss faces of fewer than some 80 pixels, and take seconds on photos much larger than this.
LEAST_SIDE = 1024
# A person in the background is smaller than the person of the photo; people side by side are not.
CLEARLY_LARGER = 1.5


@dataclass(frozen=True)
class AlignedPhoto:
    """A photo as the base model's training photos are framed.

    Attributes:
        pixels: uint8 [side, side, 3].
        size: width and height of the given photo.
        faces: number of faces found; None if no face was searched for.
        whole: whether the whole photo was taken, without alignment.
    """

    pixels: np.ndarray
    size: tuple[int, int]
    faces: int | None
    whole: bool


@dataclass(frozen=True)
class SearchRecord:
    """The result of a search for one person.

    Attributes:
        weights: float32 [d], the LoRA; on the CPU like all that follows. Refined, it lies beyond the space.
        z: float32 [k], the point of the space that was found.
        guess: float32 [k], where the search started.
        losses: float32 [2 or 3], the denoising loss of guess and z, and of the refined LoRA, over timesteps and noise
            of which the search saw none.
        photos: as the search saw them.
        seconds: that encoding and search took.
    """

    weights: Tensor
    z: Tensor
    guess: Tensor
    losses: Tensor
    photos: list[AlignedPhoto] = field(repr=False)
    seconds: float


def framing_of(pipe: StableDiffusionPipeline) -> Literal["rendered", "ffhq"]:
    """The framing of a base model's training photos: "rendered" if the model has the codec of the world rendered here,
    else "ffhq".
    """
    return "rendered" if isinstance(pipe.vae, PatchCodec) else "ffhq"


def open_photo(photo: Photo) -> Image.Image:
    """A photo as RGB, turned the way it was taken.

    Args:
        photo: the path of a JPEG, PNG or WebP, a PIL image, or uint8 [h, w, 3].

    Raises:
        InputError: the file is no such picture, or is too small or too large (see `read_picture`).
        ArgumentError: naming `photo`: an array of another type or shape.
    """
    if isinstance(photo, (str, Path)):
        # The user named this photo, so it may be a link, unlike a photo among thousands in a folder.
        return read_picture(expanded(photo).resolve())
    if isinstance(photo, Image.Image):
        return as_rgb(photo)
    array = np.asarray(photo)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise ArgumentError(
            None,
            "photo",
            f"expected uint8 [h, w, 3], got {array.dtype} {list(array.shape)}",
            "Give a path, a PIL image, or such an array",
        )
    return Image.fromarray(array)


def align_photo(
    photo: Photo,
    side: int,
    framing: Framing | None,
    find: Callable[[np.ndarray], list[Frame]] | None,
    largest: bool = False,
) -> AlignedPhoto:
    """A photo of any size, cropped and rotated so that the face has its place in the training photos.

    Args:
        photo: see `open_photo`.
        side: pixels of the result.
        framing: of training photos; None takes the photo as a whole.
        find: see `w2wpp.faces.finders.load_face_finder`; needed where there is a framing.
        largest: take the largest of several faces also where others are about as large.

    Raises:
        InputError: see `open_photo`; or the photo has no face, or several faces of about one size.
    """
    image = open_photo(photo)
    if framing is None or find is None:
        return AlignedPhoto(_resized(image, side), image.size, None, True)
    where = printable(photo) if isinstance(photo, (str, Path)) else "photo"
    frames = find_faces(image, max(2 * side, LEAST_SIDE), find)
    if not frames:
        raise InputError(
            where,
            None,
            "no face found",
            "Give a photo of an upright face seen from the front, or one "
            "that is framed like training photos (--framing none)",
        )
    if len(frames) > 1 and not largest and abs(frames[0][0]) < CLEARLY_LARGER * abs(frames[1][0]):
        raise InputError(
            where,
            None,
            f"{len(frames)} faces, none of them clearly the largest",
            "Cut the photo to one of them, or take the largest (--largest)",
        )
    if is_framed(image.size, frames[0], framing):
        return AlignedPhoto(_resized(image, side), image.size, len(frames), True)
    return AlignedPhoto(align(image, frames[0], side, framing), image.size, len(frames), False)


def _resized(image: Image.Image, side: int) -> np.ndarray:
    if image.size == (side, side):
        return np.asarray(image)
    return np.asarray(ImageOps.fit(image, (side, side), Image.Resampling.LANCZOS))


def invert_photos(
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    encoder: PhotoEncoder | None,
    photos: Sequence[AlignedPhoto],
    options: SearchOptions,
    find: Callable[[np.ndarray], list[Frame]] | None = None,
    restorer: Restorer | None = None,
) -> SearchRecord:
    """The person of one or several photos, as `stages/invert.py` finds the held-out people: `invert`, then `refine`.

    Several photos share one search: the loss is that of all photos, and the search starts at the mean of the encoder's
    guesses.

    Args:
        space: on the device of `pipe`.
        encoder: None starts the search at the mean of the space.
        photos: of one person, in the size of the base model's pictures.
        find: required if `options.params.mask` is "face".
        restorer: tells what photos would show in place of these pictures, and replaces that mask; None for photos.
    """
    params, images = options.params, torch.from_numpy(np.stack([photo.pixels for photo in photos]))
    started = time.perf_counter()
    latents = encode_images(pipe, images)
    restored = restorer.restore(images, latents) if restorer else None
    latents = latents if restored is None else restored.latents
    prior = (encoder or uninformed(latents[0].numel(), space.latent_dim)).of_photos(latents[None])
    text = encode_prompts(pipe, [params.prompt]).expand(len(photos), -1, -1)
    mask = None if restored is None else restored.mask.movedim(1, 0)
    if mask is None and params.mask == "face" and find is not None:
        mask = face_masks(images, find, latents.shape[-1])[None]
    seen = EncodedPhotos(latents[None], text[None], mask)
    z, _ = invert(pipe, space, prior, seen, options)
    ways = [space.decode(prior.mean), space.decode(z)]
    if params.refine.steps:
        ways.append(refine(pipe, space, ways[-1], seen, options)[0])
    seconds = time.perf_counter() - started
    losses = torch.cat([photo_losses(pipe, space.layout, each, seen, options) for each in ways])
    return SearchRecord(ways[-1][0].cpu(), z[0].cpu(), prior.mean[0].cpu(), losses.cpu(), list(photos), seconds)
