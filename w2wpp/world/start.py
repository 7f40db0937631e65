"""The initial weights of all LoRAs of the zoo; A may span the directions in which base people's gradients differ."""

from pathlib import Path

import pandas as pd
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.dreambooth import prompted_latents
from w2wpp.diffusion.starts import gradient_start, person_gradients
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.layout import WeightLayout
from w2wpp.world.drawing import draw_resumably
from w2wpp.world.populations import manifest_rows, person_names, sample_people
from w2wpp.world.zoo import ZooParams


def shared_start(
    pipe: StableDiffusionPipeline, layout: WeightLayout, size: int, params: ZooParams, seed: int, drawn: Path
) -> Tensor:
    """The initial weight vector [d] of every LoRA, by `params.start`.

    Args:
        size: pixels of the photos of base people for the gradients.
        drawn: scratch folder of these photos.
    """
    if params.start == "kaiming":
        return initial_weights(layout, seed)
    people = sample_people(seed, "base", params.start_people, params.start_photos)
    photos = draw_resumably(people, size, drawn)
    rows = pd.DataFrame(manifest_rows(person_names("base", len(people)), ["base"] * len(people), people))
    return gradient_start(
        layout,
        person_gradients(
            pipe,
            layout,
            *prompted_latents(pipe, photos, rows, params),
            params.timestep_shift,
            seed,
            params.people_at_once,
        ),
    )
