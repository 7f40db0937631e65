"""Labels of rendered people, and the edits that are measured on them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.inversion.editing import Directions, EditParams, edit, unedited_early
from w2wpp.spaces.base import WeightSpace
from w2wpp.world.factors import FACTORS
from w2wpp.world.people import sample_nuisance
from w2wpp.world.rows import identity_from_row

_SHOWN = {"none": 0.0, "stubble": 0.5, "full": 1.0, "thin": 1.0, "thick": 1.0}


def people_labels(manifest: pd.DataFrame) -> pd.DataFrame:
    """Labels of rendered people, a row each: numbers, and words for colour (of those with hair) and style of hair.

    Args:
        manifest: a row per photo with person and the columns person_* of a portraits manifest.
    """
    rows = manifest.drop_duplicates("person").reset_index(drop=True)
    return pd.DataFrame(
        {
            "person": rows["person"],
            "sex": rows["person_gender"].astype(float),
            "age": rows["person_age"].astype(float),
            "weight": rows["person_weight"].astype(float),
            "skin": rows[["person_skin_r", "person_skin_g", "person_skin_b"]].astype(float).mean(axis=1),
            "glasses": rows["person_glasses"].map(_SHOWN),
            "beard": rows["person_beard"].map(_SHOWN),
            "hair": rows["person_hair_color"].where(rows["person_hair_style"] != "bald", ""),
            "style": rows["person_hair_style"],
        }
    )


@dataclass(frozen=True)
class Edit:
    """An edit whose success the probe can see.

    Attributes:
        label: along whose direction; sign: which way.
        factor: what the probe reads; values: those of its choices that show the edit.
        of: factors and values that a person needs, so that the edited one is a person of this world.
    """

    label: str
    sign: int
    factor: str
    values: tuple[str, ...]
    of: tuple[tuple[str, str], ...] = ()

    @property
    def target(self) -> tuple[str, list[int]]:
        """The factor, and the numbers of its choices that show the edit."""
        return self.factor, [FACTORS[self.factor].choices.index(value) for value in self.values]

    @property
    def prompt(self) -> str | None:
        """The prompt that asks for the same; None if no caption of the base model says it."""
        factor, value = FACTORS[self.factor], self.values[-1]
        return factor.prompt(value, IDENTITY_TOKEN) if value in factor.requests else None

    def fits(self, row: Mapping) -> bool:
        """Whether a person, a row of a portraits manifest, can be edited so and is not like that already."""
        identity, nuisance = identity_from_row(row), sample_nuisance(0)

        def is_value(factor: str, value: str) -> bool:
            return FACTORS[factor].label(identity, nuisance) == value

        return all(is_value(*each) for each in self.of) and not any(is_value(self.factor, v) for v in self.values)


EDITS = {
    "woman": Edit("sex", 1, "sex", ("woman",), (("sex", "man"),)),
    "man": Edit("sex", -1, "sex", ("man",), (("sex", "woman"),)),
    "old": Edit("age", 1, "age", ("old",)),
    "young": Edit("age", -1, "age", ("young",)),
    "glasses": Edit("glasses", 1, "glasses", ("thin", "thick")),
    "beard": Edit("beard", 1, "beard", ("full",), (("sex", "man"),)),
    "black_hair": Edit("hair_black", 1, "hair", ("black",)),
    "blond_hair": Edit("hair_blond", 1, "hair", ("blond",)),
    "red_hair": Edit("hair_red", 1, "hair", ("red",)),
    "long_hair": Edit("style_long", 1, "style", ("long",), (("sex", "woman"),)),
    "heavy": Edit("weight", 1, "weight", ("heavy",)),
    "dark_skin": Edit("skin", -1, "skin", ("dark",)),
}
"""Edits by name."""
SHOWN = ("sex", "age", "glasses", "beard", "hair_black", "style_long", "weight", "skin")
"""Labels on sheets."""


def draw_edits(
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    directions: Directions,
    models: Mapping[str, Tensor],
    people: Sequence[Mapping],
    params: EditParams,
    prompt: str,
    drawing: GenerateParams,
) -> tuple[pd.DataFrame, Tensor]:
    """Pictures of people before and after every edit that fits them, at all strengths, and asked for by a prompt.

    Args:
        models: weight vectors [n, d] of n people, by the name of what they are.
        people: their rows in a portraits manifest.
        prompt: of a person and no more.

    Returns:
        A table as `w2wpp.evaluation.editing` describes it, and the pictures uint8 [m, seeds, h, w, 3].
    """
    edits = {name: each for name, each in EDITS.items() if each.label in directions.names}
    fitting = {name: [n for n, row in enumerate(people) if each.fits(row)] for name, each in edits.items()}
    steps = {name: each.sign * directions.step(each.label, params.disentangle) for name, each in edits.items()}
    wanted = [(name, strength) for strength in params.strengths for name in edits]
    rows: list[tuple] = []
    pictures: list[torch.Tensor] = []
    for model, weights in models.items():
        first = sum(len(each) for each in pictures)
        edited = [edit(space, weights[fitting[name]], strength * steps[name]) for name, strength in wanted]
        whom = list(range(len(weights))) + [n for name, _ in wanted for n in fitting[name]]
        rows += [(model, n, name, 0.0, False, first + n) for name in edits for n in fitting[name]]
        rows += [
            (model, n, name, strength, False, first + len(weights) + place)
            for place, (n, name, strength) in enumerate(
                (n, name, strength) for name, strength in wanted for n in fitting[name]
            )
        ]
        drawn = generate(
            pipe,
            space.layout,
            torch.cat([weights, *edited]),
            [prompt],
            params.seeds,
            drawing,
            f"edits of {model}",
            unedited_early(weights[whom], params),
        )
        pictures.append(drawn[:, 0])

        asked = [(n, name, each.prompt) for name, each in edits.items() if each.prompt for n in fitting[name]]
        first += len(drawn)
        rows += [(model, n, name, 0.0, True, first + n) for n, name, _ in asked]
        rows += [(model, n, name, 1.0, True, first + len(weights) + place) for place, (n, name, _) in enumerate(asked)]
        drawn = generate(
            pipe,
            space.layout,
            torch.cat([weights, weights[[n for n, _, _ in asked]]]),
            [[prompt]] * len(weights) + [[words] for _, _, words in asked],
            params.seeds,
            drawing.prompted,
            f"prompts to {model}",
        )
        pictures.append(drawn[:, 0])
    table = pd.DataFrame(rows, columns=["model", "person", "edit", "strength", "prompted", "picture"])
    return table, torch.cat(pictures)
