"""Beyond the space: from the LoRA of a latent on, a short search in all weights.

Pivotal tuning (Roich et al. 2021, arXiv 2106.05744) does this for generators of faces, and fast finetuning of
HyperDreamBooth (Ruiz et al. 2023, arXiv 2307.06949) for LoRAs that a network guesses.
"""

import time
from dataclasses import replace
from functools import partial

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.inversion.photo_encoder import LatentPrior
from w2wpp.inversion.search import EncodedPhotos, SearchOptions, invert, photo_loss
from w2wpp.spaces.base import WeightSpace


def refine(
    pipe: StableDiffusionPipeline, space: WeightSpace, start: Tensor, photos: EncodedPhotos, options: SearchOptions
) -> tuple[Tensor, Tensor]:
    """Weights near `start` that explain people's photos better than the space can.

    The search moves each weight in units of what people of the space differ by there (`WeightSpace.weight_spread`), so
    that weights which all of them share, such as a frozen A, stay. The prior pulls back to the start; `params.refine`
    has its weight, rate and steps. Noise and timesteps are shared by all people, as in `invert`.

    Args:
        start: float32 [n, d], where the search starts: the LoRAs of people of the space.

    Returns:
        Weights [n, d], and the denoising loss of every step, averaged over photos and timesteps, [steps, n].
    """
    params = options.params.refine
    loss = photo_loss(pipe, space.layout, photos, options.params, params.timesteps_per_step)
    unit = space.weight_spread()
    trained = int(unit.count_nonzero())
    residual = torch.zeros_like(start, requires_grad=True)
    optimizer = torch.optim.Adam([residual], params.lr, eps=params.adam_epsilon)
    history = torch.zeros(params.steps, len(start))

    def losses_of(step: int) -> Tensor:
        # The numbers after those of `invert` and of `photo_losses`, lest the search sees the same noise again.
        losses = loss(start + unit * residual, step_generator(options.seed, options.params.steps + 1 + step))
        history[step] = losses.detach()
        return losses + params.prior_weight * residual.square().sum(1) / trained

    rate = partial(cosine_rate, steps=params.steps, lr=params.lr, warmup=5)
    train(options.label, losses_of, optimizer, rate, params.steps)
    return (start + unit * residual).detach(), history


def invert_batch(
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    options: SearchOptions,
    prior: LatentPrior,
    photos: EncodedPhotos,
    label: str,
) -> dict[str, Tensor]:
    """What `invert` and then `refine` find, a row per person.

    Returns:
        "z" [n, k], "losses" [n, steps] of both searches, each one's share of "seconds" [n], and, where people are
        refined, their "weights" [n, d].
    """
    started, options = time.perf_counter(), replace(options, label=label)
    z, losses = invert(pipe, space, prior, photos, options)
    refined = {}
    if options.params.refine.steps:
        refined["weights"], further = refine(pipe, space, space.decode(z), photos, options)
        losses = torch.cat([losses, further])
    seconds = (time.perf_counter() - started) / len(z)
    return {"z": z, "losses": losses.T, "seconds": torch.full((len(z),), seconds, dtype=torch.float64)} | refined


def found_weights(space: WeightSpace, found: dict[str, Tensor]) -> Tensor:
    """The weights [n, d] of what `invert_batch` found: the refined ones, where there are any."""
    return found["weights"] if "weights" in found else space.decode(found["z"])
