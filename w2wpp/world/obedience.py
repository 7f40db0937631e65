"""Whether pictures show what their prompts ask for, as the probe reads them off."""

from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.probes import FACTORS, PHOTO_FACTORS, Probe, obedience

LEAST_SHARE = 0.01  # of prompts that the base model obeys, which other shares are divided by


def base_obedience(
    probe: Probe,
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    base_weights: Tensor,
    samples: int,
    drawing: GenerateParams,
) -> dict[str, float]:
    """Share of the base model's pictures that show what their prompt asks of anybody, by factor.

    Args:
        base_weights: of the LoRA that does nothing, [1, d].
        samples: pictures per prompt.
        drawing: settings for prompts that ask for more than a person.
    """
    return obedience(
        probe,
        FACTORS,
        lambda prompts: generate(pipe, layout, base_weights, prompts, samples, drawing, "prompts to the base model")[0],
        "a",
    )


def lora_obedience(
    probe: Probe,
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    seeds: int,
    drawing: GenerateParams,
) -> dict[str, float]:
    """Share of people's pictures that show what their prompt asks of the photo, by factor.

    Args:
        weights: of the people's LoRAs, [n, d].
        seeds: pictures per person and prompt.
        drawing: settings for prompts that ask for more than a person.
    """
    return obedience(
        probe,
        PHOTO_FACTORS,
        lambda prompts: (
            generate(pipe, layout, weights, prompts, seeds, drawing, "prompts to true LoRAs")
            .transpose(0, 1)
            .flatten(1, 2)
        ),
        IDENTITY_TOKEN,
    )


def relative_obedience(shares: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Shares of obeyed prompts in units of the base model's, by factor."""
    return {name: share / max(base[name], LEAST_SHARE) for name, share in shares.items()}
