"""Inversion of one photo per person into a weight space: only z is optimised, through the frozen decoder and UNet."""

import time
from functools import partial
from typing import Literal

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.denoising import denoising_loss, region_weights, training_schedule
from w2wpp.files.settings import Count, Positive, Prompt, Region, Section, Shift, Weight
from w2wpp.inversion.photo_encoder import LatentPrior
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


def invert(pipe: StableDiffusionPipeline, space: WeightSpace, prior: LatentPrior, latents: Tensor, text: Tensor,
           params: InvertParams, seed: int, what: str, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Maximum a posteriori z of each person: denoising loss of the photo minus a weighted log prior.

    The search starts at the prior's mean and looks at the region that `params` name: what surrounds a face is no part
    of the person (weights2weights masks it, too). It moves u, where z = mean + spread * u, so that it goes furthest
    where least is known; or, unless `params.whitened`, z in units of the space's scales, as weights2weights does. Like
    in `train_loras`, noise and timesteps are shared by all people.

    Args:
        prior: of each person's z.
        latents: scaled latents [n, c, h, w] of ONE photo per person.
        text: text embeddings [n, length, hidden] of the prompts of these photos.
        mask: how much of each latent pixel of the region counts, [n, h, w] in [0, 1]; None for all of it.

    Returns:
        z [n, k], and the denoising loss of every step [steps, n].
    """
    schedule, pixel_weights = training_schedule(pipe), region_weights(pipe, params.region)
    if mask is not None:
        shown = pixel_weights * mask.to(pixel_weights)
        pixel_weights = (shown / shown.mean((1, 2), keepdim=True).clamp_min(1e-6))[:, None]
    text = text.expand(params.timesteps_per_step, *text.shape)
    rows = latents.expand(params.timesteps_per_step, *latents.shape)
    unit = prior.spread if params.whitened else 1 / space.scales
    searched = torch.zeros_like(prior.mean, requires_grad=True)
    optimizer = torch.optim.Adam([searched], params.lr, eps=params.adam_epsilon)
    history = []

    def losses_of(step: int) -> Tensor:
        z = prior.mean + unit * searched
        losses = denoising_loss(pipe, schedule, space.layout, space.decode(z), rows, text,
                                params.timestep_shift, step_generator(seed, step), pixel_weights).mean(0)
        history.append(losses.detach())
        return losses - params.prior_weight * space.prior.log_prob((z - prior.mean) / prior.spread)

    train(what, losses_of, optimizer, partial(cosine_rate, steps=params.steps, lr=params.lr, warmup=5), params.steps)
    return (prior.mean + unit * searched).detach(), torch.stack(history)


def invert_batch(pipe: StableDiffusionPipeline, space: WeightSpace, params: InvertParams, seed: int,
                 prior: LatentPrior, latents: Tensor, text: Tensor, mask: Tensor | None, what: str
                 ) -> dict[str, Tensor]:
    """What `invert` finds, a row per person: "z" [n, k], "losses" [n, steps] and each one's share of "seconds" [n]."""
    started = time.perf_counter()
    z, losses = invert(pipe, space, prior, latents, text, params, seed, what, mask)
    seconds = (time.perf_counter() - started) / len(latents)
    return {"z": z, "losses": losses.T, "seconds": torch.full((len(latents),), seconds, dtype=torch.float64)}
