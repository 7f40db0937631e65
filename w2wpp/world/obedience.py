"""Whether pictures obey their prompts, judged by the probe."""

from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.probes import FACTORS, PHOTO_FACTORS, Probe, obedience

LEAST_SHARE = 0.01  # least share of prompts that the base model obeys, as a divisor of other shares


def base_obedience(
    probe: Probe,
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    base_weights: Tensor,
    samples: int,
    drawing: GenerateParams,
) -> dict[str, float]:
    """Share of the base model's pictures that obey a prompt for anybody, by factor.

    Args:
        base_weights: of a LoRA without effect, [1, d].
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
    """Share of people's pictures that obey a prompt for the photo's circumstances, by factor.

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
