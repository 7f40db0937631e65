"""The initial weights of all LoRAs; A may span the directions in which people's gradients differ."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from w2wpp.compute.runtime import progress
from w2wpp.compute.schedules import chunks, step_generator
from w2wpp.diffusion.denoising import prediction_loss, training_schedule
from w2wpp.files.errors import ArgumentError
from w2wpp.lora.layout import LoraParams, WeightLayout
from w2wpp.lora.statistics import row_signs

DRAWS_PER_PHOTO = 2


@contextmanager
def _changeable(unet: UNet2DConditionModel, layout: WeightLayout, count: int) -> Iterator[dict[str, Tensor]]:
    """A zero change [count, fan_out, fan_in] of each adapted layer's weight per sample, to differentiate by."""
    modules = dict(unet.named_modules())
    changes = {
        layer.module: torch.zeros(count, layer.fan_out, layer.fan_in, device=unet.device, requires_grad=True)
        for layer in layout.layers
    }
    with ExitStack() as hooks:
        for name, change in changes.items():
            hooks.enter_context(
                modules[name].register_forward_hook(
                    lambda _, inputs, output, change=change: output + inputs[0] @ change.mT
                )
            )
        yield changes


def person_gradients(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    latents: Tensor,
    text: Tensor,
    shift: float,
    seed: int,
    people_at_once: int,
) -> tuple[dict[str, Tensor], ...]:
    """Each person's gradient of the diffusion loss by the adapted layers' weights W, twice, from different photos.

    Args:
        latents: scaled latents [n, photos, c, h, w], an even number of photos.
        text: text embeddings [n, photos, length, hidden].
        shift: of the timesteps, see `w2wpp.diffusion.denoising.draw_timesteps`.

    Returns:
        From the even and from the odd photos, per module [n, fan_out, fan_in], summed over the draws. Noise and
        timesteps of a draw are the same for all people.
    """
    schedule = training_schedule(pipe)
    halves = tuple(
        {layer.module: torch.zeros(len(latents), layer.fan_out, layer.fan_in) for layer in layout.layers}
        for _ in range(2)
    )
    draws = DRAWS_PER_PHOTO * latents.shape[1]
    with progress(None, "gradients", total=draws * len(latents), unit="photo") as bar:
        for draw in range(draws):
            photo = draw % latents.shape[1]
            for first, count in chunks(len(latents), people_at_once):
                some = slice(first, first + count)
                with _changeable(pipe.unet, layout, count) as changes:
                    losses = prediction_loss(
                        pipe,
                        schedule,
                        latents[None, some, photo],
                        text[None, some, photo],
                        shift,
                        step_generator(seed, draw),
                    )
                    gradients = torch.autograd.grad(losses.sum(), list(changes.values()))
                for name, gradient in zip(changes, gradients, strict=True):
                    halves[photo % 2][name][some] += gradient.cpu()
                bar.update(count)
    return halves


def spanning_rows(one: Tensor, other: Tensor, rank: int) -> Tensor:
    """Orthonormal rows [rank, fan_in]: the input directions in which people's gradients [n, fan_out, fan_in] differ.

    The rows are the leading eigenvectors of the between-people covariance of the gradients, summed over the outputs.
    The covariance is estimated across two independent halves of the photos, so differences between photos cancel.
    """
    one, other = one - one.mean(0), other - other.mean(0)
    covariance = torch.einsum("noi,noj->ij", one, other).double()
    rows = torch.linalg.eigh((covariance + covariance.T) / 2).eigenvectors.flip(1)[:, :rank].T
    return (rows * row_signs(rows)).float()


def gradient_start(layout: WeightLayout, halves: tuple[dict[str, Tensor], ...]) -> Tensor:
    """The weight vector [d] whose A spans people's gradients, with rows as long as peft's on average, and B zero.

    LoRA-GA starts A from gradients (Wang et al. 2024, arXiv 2407.05000). Here A spans the differences between the
    gradients of many people, so that one A serves all of them.

    Raises:
        InputError: the rank is more than a layer has inputs.
    """
    narrowest = min(layer.fan_in for layer in layout.layers)
    if layout.rank > narrowest:
        raise ArgumentError(
            LoraParams,
            "rank",
            f"{layout.rank}, but a layer has {narrowest} inputs",
            f"Choose 1 .. {narrowest}, or other targets",
        )
    weights = torch.zeros(1, layout.dimension)
    for name, (down, _) in layout.split(weights).items():
        down.copy_(spanning_rows(halves[0][name], halves[1][name], layout.rank) / 3**0.5)
    return weights[0]
