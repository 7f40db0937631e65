"""Whether pictures show what their prompts request, as the probe reads them."""

from collections.abc import Mapping, Sequence

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.prompts import IDENTITY_TOKEN, Request
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.factors import FACTORS, PHOTO_FACTORS, PROMPTED_FACTORS
from w2wpp.world.probes import Probe, obedience

LEAST_SHARE = 0.01  # of prompts that the base model obeys, which other shares are divided by
# How many prompts a person gets about each factor of a photo, all of which contradict the input photo.
CONTRADICTIONS = {"expression": 3, "background": 5}


def contradictions(photo: Mapping[str, str], number: int) -> list[Request]:
    """Prompts that request of a photo of somebody what the input photo does not show.

    The values of a factor that are left take turns over people, so that each is requested equally often.

    Args:
        photo: row of the input photo in a portraits manifest, with photo_expression and photo_background.
        number: of the person, 0 for the first.
    """
    requests = []
    for name, count in CONTRADICTIONS.items():
        factor = PHOTO_FACTORS[name]
        left = [value for value in factor.requests if value != photo[f"photo_{name}"]]
        chosen = [left[(number + place) % len(left)] for place in range(min(count, len(left)))]
        requests += [Request(name, value, factor.prompt(value, IDENTITY_TOKEN)) for value in chosen]
    return requests


def obeyed(probe: Probe, requests: Sequence[Sequence[Request]], pictures: Tensor) -> Tensor:
    """Which pictures show what their prompt requests, bool [n, p, seeds].

    Args:
        requests: p of each person.
        pictures: uint8 [n, p, seeds, h, w, 3].
    """
    read = probe.read_all(pictures.flatten(0, 2))
    shown = {name: values.unflatten(0, pictures.shape[:3]) for name, values in read.items() if name in FACTORS}
    return torch.stack(
        [
            torch.stack(
                [
                    shown[r.factor][person, place] == FACTORS[r.factor].choices.index(r.value)
                    for place, r in enumerate(some)
                ]
            )
            for person, some in enumerate(requests)
        ]
    )


def base_obedience(
    probe: Probe,
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    base_weights: Tensor,
    samples: int,
    drawing: GenerateParams,
) -> dict[str, float]:
    """Share of the base model's pictures that show what their prompt requests of anybody, by factor.

    Args:
        base_weights: of the LoRA that does nothing, [1, d].
        samples: pictures per prompt.
        drawing: settings for prompts that request more than a person.
    """
    return obedience(
        probe,
        PROMPTED_FACTORS,
        lambda prompts: generate(pipe, layout, base_weights, prompts, samples, drawing, "prompts to the base model")[0],
        "a",
    )


def relative_obedience(shares: dict[str, float], base: dict[str, float]) -> dict[str, float]:
    """Shares of obeyed prompts in units of the base model's, by factor."""
    return {name: share / max(base[name], LEAST_SHARE) for name, share in shares.items()}
