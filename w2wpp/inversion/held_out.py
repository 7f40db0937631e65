"""Inputs of the search for held-out people: their leading photos, the prompts of these, and where the faces are."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import Batch, batches_of
from w2wpp.diffusion.dreambooth import photo_prompts
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.faces.frames import Frame, face_masks
from w2wpp.faces.portraits import Portraits
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.search import EncodedPhotos, InvertParams


def encode_held_out(
    pipe: StableDiffusionPipeline, people: Portraits, params: InvertParams, some: slice = slice(None)
) -> dict[str, Tensor]:
    """ "latents" and "text" of the first `params.photos` photos of some of the people, as of `EncodedPhotos`."""
    images = people.images[some, : params.photos]
    shown = people.manifest["person"].isin(people.names[some]) & (people.manifest["photo"] < params.photos)
    text = photo_prompts(pipe, people.manifest[shown], params.captions, params.prompt)
    latents = encode_images(pipe, images.flatten(0, 1))
    return {"latents": latents.unflatten(0, images.shape[:2]), "text": text.unflatten(0, images.shape[:2])}


def mask_held_out(
    people: Portraits, params: InvertParams, find: Callable[[np.ndarray], list[Frame]], cells: int
) -> Tensor:
    """The mask [n, photos, cells, cells] of everybody's photos; see `w2wpp.faces.frames.face_masks`."""
    images = people.images[:, : params.photos]
    return face_masks(images.flatten(0, 1), find, cells).unflatten(0, images.shape[:2])


def search_batches(
    encoder: PhotoEncoder, photos: EncodedPhotos, people_at_once: int, scratch: Path, label: str
) -> list[Batch]:
    """Batches of people for `w2wpp.inversion.refinement.invert_batch`, with files in `scratch`.

    Args:
        encoder: guesses the start of each search.
        photos: of all people.
        label: of the progress bars.
    """

    def inputs(first: int, count: int) -> tuple:
        some = slice(first, first + count)
        seen = photos.of_people(some)
        return encoder.of_photos(seen.latents), seen, f"{label} {some.stop}/{len(photos.latents)}"

    return batches_of(len(photos.latents), people_at_once, scratch, inputs)
