"""Whether pictures show what their prompts request, as the probe reads them."""

from collections.abc import Mapping, Sequence

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.prompts import IDENTITY_TOKEN, Request, described
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.factors import FACTORS, PHOTO_FACTORS, PROMPTED_FACTORS
from w2wpp.world.probes import Probe, obedience

PROMPTS = 8  # that contradict a person's input photo
# Expressions that the probe reads as people do (docs/protocol.md), and those of a photo that they do not contradict.
EXPRESSIONS = {"smiling": ("smiling", "laughing"), "surprised": ("surprised",)}


def contradictions(photo: Mapping[str, str], number: int) -> list[Request]:
    """The `PROMPTS` prompts that request of a photo of somebody what the input photo does not show.

    They name each other background, each other one of `EXPRESSIONS`, and, for the rest, such an expression with such a
    background; the backgrounds of these take turns over people, so that each is requested equally often.

    Args:
        photo: row of the input photo in a portraits manifest, with photo_expression and photo_background.
        number: of the person, 0 for the first.
    """
    backgrounds = [value for value in PHOTO_FACTORS["background"].choices if value != photo["photo_background"]]
    expressions = [value for value, shown in EXPRESSIONS.items() if photo["photo_expression"] not in shown]
    wanted = [{"background": value} for value in backgrounds] + [{"expression": value} for value in expressions]
    for place in range(PROMPTS - len(wanted)):
        wanted.append(
            {
                "expression": expressions[place % len(expressions)],
                "background": backgrounds[(number + place) % len(backgrounds)],
            }
        )
    subject = f"a photo of {IDENTITY_TOKEN} person"
    return [Request(each, described(subject, each.get("expression"), None, each.get("background"))) for each in wanted]


def obeyed(probe: Probe, requests: Sequence[Sequence[Request]], pictures: Tensor) -> Tensor:
    """Which pictures show everything that their prompt requests, bool [n, p, seeds].

    Args:
        requests: p of each person.
        pictures: uint8 [n, p, seeds, h, w, 3].
    """
    read = probe.read_all(pictures.flatten(0, 2))
    shown = torch.ones(pictures.shape[:3], dtype=torch.bool)
    for name in {name for some in requests for request in some for name in request.values}:
        values = read[name].unflatten(0, pictures.shape[:3])
        for person, some in enumerate(requests):
            for place, request in enumerate(some):
                if name in request.values:
                    shown[person, place] &= values[person, place] == FACTORS[name].choices.index(request.values[name])
    return shown


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
        base_weights: of a LoRA without effect, [1, d].
        samples: pictures per prompt.
        drawing: settings for prompts that request more than a person.
    """
    return obedience(
        probe,
        PROMPTED_FACTORS,
        lambda prompts: generate(pipe, layout, base_weights, prompts, samples, drawing, "prompts to the base model")[0],
        "a",
    )
