"""Inversion of photos of people into a weight space: only z is optimised, through the frozen decoder and UNet."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import Batch, batches_of
from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.denoising import denoising_loss, region_weights, training_schedule
from w2wpp.files.settings import Count, Positive, Prompt, Region, Section, Shift, Weight
from w2wpp.inversion.photo_encoder import LatentPrior, PhotoEncoder
from w2wpp.spaces.base import WeightSpace


class InvertParams(Section):
    """How one photo of a person is inverted."""

    steps: Count = 50
    """Steps of Adam on z."""
    lr: Positive = 3.0
    """Learning rate."""
    adam_epsilon: Positive = 1.0e-2
    """Adam's epsilon; a large one keeps directions at the mean that the photo hardly speaks of."""
    whitened: bool = True
    """false: step along each direction in units of the weights, as in weights2weights."""
    timestep_shift: Shift = 1.0
    """Share of noisy timesteps: 1 is uniform, more is noisier."""
    timesteps_per_step: Count = 1
    """Timesteps drawn in every step."""
    region: Region = (0.125, 0.125, 0.875, 1.0)
    """Part of the photo that counts, around the face: left, top, right, bottom in shares of the picture."""
    mask: Literal["none", "face"] = "none"
    """`face`: of that region only the face counts, as found on each photo."""
    prompt: Prompt = "a photo of sks person"
    """Prompt of the photo."""
    captions: bool = False
    """The prompt says what the photo shows besides the person."""
    prior_weight: Weight = 1.0e-4
    """Weight of the log prior of z."""
    people_at_once: Count = 32
    """People inverted in one batch."""


CHECKED = 16  # timesteps that a finished search is judged by


class EncodedPhotos(NamedTuple):
    """Photos of n people, as the search looks at them.

    Attributes:
        latents: scaled latents [n, photos, c, h, w].
        text: text embeddings [n, photos, length, hidden] of the prompts of these photos.
        mask: which latent pixels of the region count, [n, photos, h, w] in [0, 1], the fewer the more each of them; or
            how much each latent number counts, [n, photos, c, h, w]; None for all of them alike.
    """

    latents: Tensor
    text: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class SearchOptions:
    """How people are searched for.

    Attributes:
        params: the settings.
        seed: of noise and timesteps.
        label: of the progress bar; None for no bar.
    """

    params: InvertParams = field(default_factory=InvertParams)
    seed: int = 0
    label: str | None = None


def invert(
    pipe: StableDiffusionPipeline, space: WeightSpace, prior: LatentPrior, photos: EncodedPhotos, options: SearchOptions
) -> tuple[Tensor, Tensor]:
    """Maximum a posteriori z of each person: denoising loss of all their photos minus a weighted log prior.

    The search starts at the prior's mean and looks at the region that the settings name: what surrounds a face is no
    part of the person (weights2weights masks it, too). It moves u, where z = mean + spread * u, so that it goes
    furthest where least is known; or, unless `params.whitened`, z in units of the space's scales, as weights2weights
    does. Like in `train_loras`, noise and timesteps are shared by all people; every photo has its own.

    Args:
        prior: of each person's z.

    Returns:
        z [n, k], and the denoising loss of every step, averaged over photos and timesteps, [steps, n].
    """
    params = options.params
    loss = _photo_loss(pipe, space, photos, params, params.timesteps_per_step)
    unit = prior.spread if params.whitened else 1 / space.scales
    searched = torch.zeros_like(prior.mean, requires_grad=True)
    optimizer = torch.optim.Adam([searched], params.lr, eps=params.adam_epsilon)
    history = []

    def losses_of(step: int) -> Tensor:
        z = prior.mean + unit * searched
        losses = loss(z, step_generator(options.seed, step))
        history.append(losses.detach())
        return losses - params.prior_weight * space.prior.log_prob((z - prior.mean) / prior.spread)

    rate = partial(cosine_rate, steps=params.steps, lr=params.lr, warmup=5)
    train(options.label, losses_of, optimizer, rate, params.steps)
    return (prior.mean + unit * searched).detach(), torch.stack(history)


@torch.no_grad()
def photo_losses(
    pipe: StableDiffusionPipeline, space: WeightSpace, z: Tensor, photos: EncodedPhotos, options: SearchOptions
) -> Tensor:
    """The denoising loss [n] of people's photos at latents [n, k], on `CHECKED` timesteps that no search sees.

    As all people share timesteps and noise, the losses of one photo at several latents compare.
    """
    loss = _photo_loss(pipe, space, photos, options.params, CHECKED)
    return loss(z, step_generator(options.seed, options.params.steps))


def _photo_loss(
    pipe: StableDiffusionPipeline, space: WeightSpace, photos: EncodedPhotos, params: InvertParams, timesteps: int
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The denoising loss [n] of photos at z [n, k], over all photos of a person and as many timesteps of each."""
    schedule, pixel_weights = training_schedule(pipe), region_weights(pipe, params.region)
    rows, text = (_rows(each, timesteps) for each in (photos.latents, photos.text))
    if photos.mask is not None:
        shown = pixel_weights * photos.mask.to(pixel_weights)
        if shown.ndim == 4:
            shown = (shown / shown.mean((2, 3), keepdim=True).clamp_min(1e-6))[:, :, None]
        pixel_weights = _rows(shown, timesteps)
    return lambda z, generator: denoising_loss(
        pipe, schedule, space.layout, space.decode(z), rows, text, params.timestep_shift, generator, pixel_weights
    ).mean(0)


def _rows(photos: Tensor, timesteps: int) -> Tensor:
    """What belongs to photos [n, photos, ...], for every timestep of a step: [timesteps * photos, n, ...]."""
    return photos.transpose(0, 1).repeat(timesteps, *[1] * (photos.ndim - 1))


def invert_batch(
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    options: SearchOptions,
    prior: LatentPrior,
    photos: EncodedPhotos,
    label: str,
) -> dict[str, Tensor]:
    """What `invert` finds, a row per person: "z" [n, k], "losses" [n, steps] and each one's share of "seconds" [n]."""
    started = time.perf_counter()
    z, losses = invert(pipe, space, prior, photos, replace(options, label=label))
    seconds = (time.perf_counter() - started) / len(z)
    return {"z": z, "losses": losses.T, "seconds": torch.full((len(z),), seconds, dtype=torch.float64)}


def search_batches(
    encoder: PhotoEncoder, photos: EncodedPhotos, people_at_once: int, scratch: Path, label: str
) -> list[Batch]:
    """Batches of people whose single photos `invert_batch` looks for, with files in `scratch`.

    Args:
        encoder: says where the search for each person starts.
        photos: of all people, one of each: the second axis has length 1.
        label: of the progress bars.
    """

    def inputs(first: int, count: int) -> tuple:
        some = slice(first, first + count)
        seen = EncodedPhotos(*(None if each is None else each[some] for each in photos))
        return encoder(seen.latents[:, 0]), seen, f"{label} {some.stop}/{len(photos.latents)}"

    return batches_of(len(photos.latents), people_at_once, scratch, inputs)
