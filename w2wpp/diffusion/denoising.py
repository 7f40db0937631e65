"""The diffusion loss of many adapted models at once, and the pictures that they draw."""

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from pydantic import Field
from torch import Tensor

from w2wpp.compute.runtime import progress
from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.pipeline import encode_prompts, to_images
from w2wpp.files.settings import Count, Section
from w2wpp.lora.adapters import Early, adapted
from w2wpp.lora.layout import WeightLayout


class GenerateParams(Section):
    """How every picture of a model is drawn."""

    inference_steps: Count = 10
    """Denoising steps of a picture."""
    guidance: Annotated[float, Field(ge=1)] = 1.0
    """Classifier-free guidance where the prompt asks for a person alone; 1 turns it off."""
    prompted_guidance: Annotated[float, Field(ge=1)] = 3.0
    """Guidance where the prompt asks for more than a person: smiles, backgrounds, hair."""
    negative_prompt: str = ""
    """The negative prompt of guidance."""
    batch: Count = 64
    """Pictures drawn at once."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the base model in drawing and inversion; a CPU always computes in float32."""

    @property
    def prompted(self) -> "GenerateParams":
        """The same for prompts that ask for more than a person."""
        return self.model_copy(update={"guidance": self.prompted_guidance})


def training_schedule(pipe: StableDiffusionPipeline) -> DDPMScheduler:
    """The noise schedule that the pipeline's UNet was trained with."""
    return DDPMScheduler.from_config(pipe.scheduler.config)


def draw_timesteps(shape: tuple[int, ...], shift: float, schedule: DDPMScheduler, generator: torch.Generator) -> Tensor:
    """Random timesteps int64, uniform for `shift` 1; a larger shift draws more of the noisy ones.

    The identity affects the prediction at high noise alone: at low noise the noisy picture itself shows the person. The
    shift is that of Esser et al. 2024 (arXiv 2403.03206, sec. 5.3.2): half of the timesteps lie above shift / (1 +
    shift).
    """
    uniform = torch.rand(shape, generator=generator)
    shifted = shift * uniform / (1 + (shift - 1) * uniform)
    return (shifted * schedule.config.num_train_timesteps).long().clamp(max=schedule.config.num_train_timesteps - 1)


def prediction_target(schedule: DDPMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """The target of the UNet with this schedule [b, c, h, w]: velocity (Salimans and Ho 2022, arXiv 2202.00512) or
    noise.
    """
    if schedule.config.prediction_type == "v_prediction":
        return schedule.get_velocity(clean, noise, timesteps)
    return noise


def region_weights(pipe: StableDiffusionPipeline, region: tuple[float, float, float, float]) -> Tensor:
    """Loss weights of latent pixels, float32 [h, w] of mean 1, proportional to each pixel's overlap with a region.

    Args:
        region: left, top, right and bottom, in shares of the picture.
    """
    edges = torch.linspace(0, 1, pipe.unet.config.sample_size + 1)
    left, top, right, bottom = region
    across = (edges[1:].clamp(max=right) - edges[:-1].clamp(min=left)).clamp(min=0)
    down = (edges[1:].clamp(max=bottom) - edges[:-1].clamp(min=top)).clamp(min=0)
    weights = down[:, None] * across
    return (weights / weights.mean()).to(pipe.unet.device)


def prediction_loss(
    pipe: StableDiffusionPipeline,
    schedule: DDPMScheduler,
    latents: Tensor,
    text: Tensor,
    timestep_shift: float,
    generator: torch.Generator,
    pixel_weights: Tensor | float = 1.0,
) -> Tensor:
    """Mean squared error of the UNet's prediction, per sample [m, n].

    Noise and timesteps are drawn once per row of m and shared by its n people. So a person's loss does not depend on
    the rest of the batch, and sampling noise does not mask differences between people.

    Args:
        latents: scaled latents [m, n, c, h, w].
        text: text embeddings [m, n, length, hidden], or [m, 1, length, hidden] of prompts that all n share.
        timestep_shift: see `draw_timesteps`.
        pixel_weights: [h, w], see `region_weights`, or [m, n, 1, h, w] of each sample's own.
    """
    rows, people = latents.shape[:2]
    noise = torch.randn(rows, 1, *latents.shape[2:], generator=generator).expand_as(latents)
    timesteps = draw_timesteps((rows, 1), timestep_shift, schedule, generator).expand(rows, people)
    latents, noise, timesteps = (each.flatten(0, 1).to(pipe.unet.device) for each in (latents, noise, timesteps))
    noisy = schedule.add_noise(latents, noise, timesteps)
    dtype = pipe.unet.dtype
    output = pipe.unet(noisy.to(dtype), timesteps, text.expand(-1, people, -1, -1).flatten(0, 1).to(dtype)).sample
    target = prediction_target(schedule, latents, noise, timesteps)
    return ((output.float() - target).square().unflatten(0, (rows, people)) * pixel_weights).mean((2, 3, 4))


def denoising_loss(
    pipe: StableDiffusionPipeline,
    schedule: DDPMScheduler,
    layout: WeightLayout,
    weights: Tensor,
    latents: Tensor,
    text: Tensor,
    timestep_shift: float,
    generator: torch.Generator,
    pixel_weights: Tensor | float = 1.0,
) -> Tensor:
    """`prediction_loss` of UNets adapted by the weight vectors [n, d] of n people."""
    with adapted(pipe.unet, layout, weights):
        return prediction_loss(pipe, schedule, latents, text, timestep_shift, generator, pixel_weights)


@torch.no_grad()
def generate(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    prompts: list[str] | list[list[str]],
    seeds: int | Sequence[int] | Sequence[Sequence[int]],
    params: GenerateParams,
    label: str | None,
    early: Early | None = None,
) -> Tensor:
    """Pictures of many models, through the pipeline's own `__call__`.

    Args:
        weights: weight vectors [n, d].
        prompts: every model answers them; or n lists of equal length, for each model its own.
        seeds: of the pictures per prompt, the same for every model; a number n means 0 .. n - 1. Or n lists of equal
            length, for each model its own: models that share noise share pose and background, too.
        params: of which `batch` is pictures per call at most; the result does not depend on it beyond rounding.
        label: label of the progress bar; None for no bar.
        early: the models, [n, d] likewise, that draw at noisy timesteps, where a picture's layout is decided: with the
            unedited ones there, an edit changes details alone (weights2weights, sec. 4.3).

    Returns:
        uint8 [n, prompts, seeds, h, w, 3].
    """
    device, dtype = pipe.unet.device, pipe.unet.dtype
    numbers = _seeds_of_each(seeds, len(weights))
    own = [[each] if isinstance(each, str) else each for each in prompts]
    different = sorted({prompt for some in own for prompt in some})
    places = torch.tensor([[different.index(prompt) for prompt in some] for some in own])
    if isinstance(prompts[0], str):
        places = places.T.expand(len(weights), -1)
    requests = torch.tensor([(prompt, place) for prompt in range(places.shape[1]) for place in range(len(numbers[0]))])
    text, negative = encode_prompts(pipe, different), encode_prompts(pipe, [params.negative_prompt])
    shape = (pipe.unet.config.in_channels, pipe.unet.config.sample_size, pipe.unet.config.sample_size)
    start = {
        seed: torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for some in numbers for seed in some
    }
    at_once = max(1, params.batch // len(requests))
    out = []
    with progress(None, label, total=len(weights) * len(requests), unit="picture") as bar:
        for first, count in chunks(len(weights), at_once):
            drawn = []
            for some in requests.split(params.batch):
                rows = some.repeat_interleave(count, 0)
                models = torch.arange(first, first + count).repeat(len(some))
                places_of_seeds = zip(models.tolist(), rows[:, 1].tolist(), strict=True)
                noise = torch.stack([start[numbers[model][place]] for model, place in places_of_seeds])
                late, noisy = weights[first : first + count].float().to(device), None
                if early is not None:
                    noisy = Early(early.weights[first : first + count].float().to(device), early.timestep)
                with adapted(pipe.unet, layout, late, noisy):
                    latents = pipe(
                        prompt_embeds=text[places[models, rows[:, 0]]],
                        negative_prompt_embeds=negative.expand(len(rows), -1, -1),
                        latents=noise.to(device, dtype),
                        num_inference_steps=params.inference_steps,
                        guidance_scale=params.guidance,
                        output_type="latent",
                    ).images
                pixels = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
                drawn.append(to_images(pixels.float()).cpu())
                bar.update(len(rows))
            out.append(torch.cat(drawn).unflatten(0, (places.shape[1], len(numbers[0]), count)).movedim(2, 0))
    return torch.cat(out)


def _seeds_of_each(seeds: int | Sequence[int] | Sequence[Sequence[int]], models: int) -> list[list[int]]:
    """The seeds of each model, of what `generate` takes."""
    if isinstance(seeds, int):
        return [list(range(seeds))] * models
    shared = [seed for seed in seeds if isinstance(seed, int)]
    return [shared] * models if shared else [list(own) for own in seeds if not isinstance(own, int)]
