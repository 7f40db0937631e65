"""Inversion of people's photos into a space: only z is optimised, through the frozen decoder and UNet."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from diffusers import StableDiffusionPipeline
from pydantic import Field
from torch import Tensor

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.denoising import denoising_loss, region_weights, training_schedule
from w2wpp.files.settings import Count, Positive, Prompt, Region, Section, Shift, Weight, Whole
from w2wpp.inversion.photo_encoder import LatentPrior
from w2wpp.lora.layout import WeightLayout
from w2wpp.spaces.base import WeightSpace


class RefineParams(Section):
    """How the search goes on in all weights, beyond the space, once z is found."""

    steps: Whole = 0
    """Steps of Adam on the weights; 0 stays in the space."""
    lr: Positive = 2.0
    """Learning rate, in standard deviations of each weight over people of the space."""
    adam_epsilon: Positive = 1.0e-3
    """Adam's epsilon; a large one keeps weights still that the photo hardly speaks of."""
    timesteps_per_step: Count = 2
    """Timesteps drawn in every step."""
    prior_weight: Weight = 0.0
    """Weight of the mean squared distance from the point of the space, in the same units."""


class InvertParams(Section):
    """How photos of a person are inverted."""

    photos: Annotated[int, Field(ge=1, le=8)] = 1
    """Photos of each held-out person; the loss is that of all."""
    steps: Whole = 50
    """Steps of Adam on z; 0 stays at what the photo encoder makes of the photo."""
    lr: Positive = 3.0
    """Learning rate."""
    adam_epsilon: Positive = 1.0e-2
    """Adam's epsilon; a large one leaves directions unchanged that the photo hardly constrains."""
    whitened: bool = True
    """false: step along each direction in units of the weights, as in weights2weights."""
    timestep_shift: Shift = 1.0
    """Shift of the timesteps: 1 is uniform; a larger shift draws more of the noisy ones."""
    timesteps_per_step: Count = 1
    """Timesteps drawn in every step."""
    region: Region = (0.125, 0.125, 0.875, 1.0)
    """Part of the photo in the loss, around the face: left, top, right, bottom in shares of the picture."""
    mask: Literal["none", "face"] = "none"
    """`face`: only the face counts within that region, as detected on each photo."""
    prompt: Prompt = "a photo of sks person"
    """Prompt of the photo."""
    captions: bool = False
    """The prompt describes what the photo shows besides the person."""
    prior_weight: Weight = 1.0e-4
    """Weight of the log prior of z."""
    people_at_once: Count = 32
    """People inverted in one batch."""
    refine: RefineParams = RefineParams()


CHECKED = 16  # timesteps that judge a finished search


class EncodedPhotos(NamedTuple):
    """Photos of n people, as inputs of the search.

    Attributes:
        latents: scaled latents [n, photos, c, h, w].
        text: text embeddings [n, photos, length, hidden] of the prompts of these photos.
        mask: weight of each latent pixel of the region, [n, photos, h, w] in [0, 1], or of each latent number,
            [n, photos, c, h, w]; None for equal weights.
    """

    latents: Tensor
    text: Tensor
    mask: Tensor | None = None

    def of_people(self, some: slice) -> "EncodedPhotos":
        """The photos of some of the people."""
        return EncodedPhotos(self.latents[some], self.text[some], None if self.mask is None else self.mask[some])


@dataclass(frozen=True)
class SearchOptions:
    """Options of the search.

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

    The search starts at the prior's mean. Its loss covers the region of the settings, because what surrounds a face is
    no part of the person (weights2weights also masks it). It optimises u, where z = mean + spread * u, so its steps are
    longest where the prior is least certain. Without `params.whitened` it optimises z in units of the space's scales,
    as weights2weights does. As in `train_loras`, all people share noise and timesteps; every photo has its own.

    Args:
        prior: of each person's z.

    Returns:
        z [n, k], and the denoising loss of every step, averaged over photos and timesteps, [steps, n].
    """
    params = options.params
    loss = photo_loss(pipe, space.layout, photos, params, params.timesteps_per_step)
    unit = prior.spread if params.whitened else 1 / space.scales
    searched = torch.zeros_like(prior.mean, requires_grad=True)
    optimizer = torch.optim.Adam([searched], params.lr, eps=params.adam_epsilon)
    history = torch.zeros(params.steps, len(prior.mean))

    def losses_of(step: int) -> Tensor:
        z = prior.mean + unit * searched
        losses = loss(space.decode(z), step_generator(options.seed, step))
        history[step] = losses.detach()
        return losses - params.prior_weight * space.prior.log_prob((z - prior.mean) / prior.spread)

    rate = partial(cosine_rate, steps=params.steps, lr=params.lr, warmup=5)
    train(options.label, losses_of, optimizer, rate, params.steps)
    return (prior.mean + unit * searched).detach(), history


@torch.no_grad()
def photo_losses(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    photos: EncodedPhotos,
    options: SearchOptions,
) -> Tensor:
    """The denoising loss [n] of people's photos by weights [n, d], on `CHECKED` timesteps that no search sees.

    As all people share timesteps and noise, the losses of one photo by several weights compare.
    """
    loss = photo_loss(pipe, layout, photos, options.params, CHECKED)
    return loss(weights, step_generator(options.seed, options.params.steps))


def photo_loss(
    pipe: StableDiffusionPipeline, layout: WeightLayout, photos: EncodedPhotos, params: InvertParams, timesteps: int
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """The denoising loss [n] by weights [n, d], over all photos of a person and as many timesteps of each."""
    schedule, pixel_weights = training_schedule(pipe), region_weights(pipe, params.region)
    rows, text = (_rows(each, timesteps) for each in (photos.latents, photos.text))
    if photos.mask is not None:
        shown = pixel_weights * photos.mask.to(pixel_weights)
        if shown.ndim == 4:
            shown = (shown / shown.mean((2, 3), keepdim=True).clamp_min(1e-6))[:, :, None]
        pixel_weights = _rows(shown, timesteps)
    return lambda weights, generator: denoising_loss(
        pipe, schedule, layout, weights, rows, text, params.timestep_shift, generator, pixel_weights
    ).mean(0)


def _rows(photos: Tensor, timesteps: int) -> Tensor:
    """Data of photos [n, photos, ...], repeated for every timestep of a step: [timesteps * photos, n, ...]."""
    return photos.transpose(0, 1).repeat(timesteps, *[1] * (photos.ndim - 1))
