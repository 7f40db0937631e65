"""The content of the report: words, numbers and the choice of people."""

import base64
from collections.abc import Mapping
from importlib import resources
from typing import Any, TypeVar

import jinja2
import numpy as np
import pandas as pd
import torch

from w2wpp.files.errors import InputError
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import METHODS

Items = TypeVar("Items", list[str], np.ndarray)
# Rows of the table: path in metrics/<space>.json, name, better direction, decimals.
MEASURES = (
    ("inversion.id_score", "ID score, inverted from one photo", "higher", 3),
    ("inversion.id_score_normalised", "the same: a stranger is 0, own photos are 1", "higher", 3),
    ("inversion.tar_at_far1", "verified as the person (TAR at FAR 1 %)", "higher", 3),
    ("inversion.face_found", "pictures with a face", "higher", 3),
    ("reconstruction.id_score", "ID score of the true LoRA through the space", "higher", 3),
    ("reconstruction.rel_mse", "error of the true LoRA through the space", "lower", 3),
    ("sampling.face_found", "pictures of sampled people with a face", "higher", 3),
    ("sampling.diversity", "difference between sampled people", "higher", 3),
    ("sampling.novelty", "distance of sampled people from the zoo", "higher", 3),
    ("interpolation.evenness", "evenness of blends", "higher", 3),
    ("inversion.prompt_alignment", "pictures of inverted people show what the prompt says (CLIP)", "higher", 3),
    ("sampling.prompt_alignment", "pictures of sampled people show what their prompts say (CLIP)", "higher", 3),
    ("inversion.seconds_per_person", "seconds to invert one photo", "lower", 1),
)
# Measured only if people with photos have true LoRAs, or if CLIP is used.
OPTIONAL = {"reconstruction.id_score", "inversion.prompt_alignment", "sampling.prompt_alignment"}


def headline(comparison: Mapping) -> tuple[str, str]:
    """The verdict in a few words, and one sentence that supports it.

    Args:
        comparison: metrics/comparison.json.

    Returns:
        "VAE ahead" if both recognisers' intervals of the paired gain lie above zero, and "PCA ahead" if below. If one
        interval contains zero, "according to one recogniser of two" is added. Otherwise "No difference is sure". The
        sentence has the numbers.
    """
    gain, second = comparison["gain"], comparison["second_opinion"]["gain"]
    above, below = sum(each["low"] > 0 for each in (gain, second)), sum(each["high"] < 0 for each in (gain, second))
    verdict = "No difference is sure"
    if bool(above) != bool(below):
        verdict = f"{'VAE' if above else 'PCA'} ahead"
        verdict += " according to one recogniser of two" if above + below == 1 else ""
    people, share = comparison["people"], comparison["people_better_with_vae"]
    return verdict, (
        f"On {people} people whom no space has seen, inversion from one photo gains {gain['mean']:+.3f} in ID score "
        f"with the VAE over PCA (paired; 95 % interval {gain['low']:+.3f} to {gain['high']:+.3f}). "
        f"{100 * share:.0f} % of them score higher with the VAE. A second recogniser, which chose no setting, measures "
        f"a gain of {second['mean']:+.3f} ({second['low']:+.3f} to {second['high']:+.3f})."
    )


def measure_rows(spaces: Mapping[str, Mapping]) -> list[dict]:
    """Rows of the headline table: name, better, and one text per space, without `OPTIONAL` rows that no space has.

    Args:
        spaces: metrics/<space>.json by space.

    Raises:
        InputError: a metric is missing.
    """
    rows = []
    for path, name, better, digits in MEASURES:
        group, key = path.split(".")
        if path in OPTIONAL and not any(key in metrics.get(group, {}) for metrics in spaces.values()):
            continue
        values = {}
        for space, metrics in spaces.items():
            try:
                values[space] = f"{metrics[group][key]:.{digits}f}"
                if path == "inversion.id_score":
                    low, high = metrics[group]["id_score_low"], metrics[group]["id_score_high"]
                    values[space] += f" ({low:.{digits}f} to {high:.{digits}f})"
            except KeyError as error:
                raise InputError(
                    f"metrics/{space}.json", path, "metric missing", "Run `dvc repro -f evaluate`"
                ) from error
        rows.append({"name": name, "better": better, **values})
    return rows


# Facts of the world, the base model and the zoo: path in metrics/, name, decimals.
FACTS = (
    ("world.face_found", "real photos on which the recogniser finds a face", 3),
    ("world.verification_auc", "same person or not, told from two real photos (AUC)", 3),
    ("world.diversity", "difference between test people", 3),
    ("world.novelty", "distance of test people from the zoo", 3),
    ("base.codec_psnr_db", "codec on held-out people (dB)", 1),
    ("base.face_found", "class-prompt samples with a face", 3),
    ("base.embedding_frechet", "Fréchet distance of class samples to real photos, in the recogniser's space", 3),
    ("base.embedding_frechet_floor", "the same between two sets of real photos", 3),
    *(
        (f"base.prompt_accuracy.{factor}", f"prompts obeyed by the base model: {factor}", 2)
        for factor in ("sex", "age", "hair", "expression", "background")
    ),
    *(
        (f"zoo.prompt_accuracy_relative.{factor}", f"prompts obeyed by true LoRAs, as a share of that: {factor}", 2)
        for factor in ("expression", "background")
    ),
    ("zoo.people", "zoo people", 0),
    ("zoo.dimension", "numbers in a LoRA", 0),
    ("zoo.id_score_normalised", "true LoRA of test people (a stranger is 0, own photos are 1)", 3),
    ("zoo.tar_at_far1", "true LoRA verified as the person (TAR at FAR 1 %)", 3),
    ("second_opinion.verification_auc", "the second recogniser tells two real photos (AUC)", 3),
    ("second_opinion.true.id_score_normalised", "true LoRA, as the second recogniser sees it", 3),
    *(
        (
            f"second_opinion.{name}_inversion.id_score_normalised",
            f"{method.title} inversion, as the second recogniser sees it",
            3,
        )
        for name, method in METHODS.items()
    ),
    ("zoo.variance.within", "share of the zoo's variance that is chance: within a person", 3),
    ("zoo.variance.between", "share that is between people", 3),
    ("throughput.steps", "steps per LoRA in benchmarks/batched_training.md, which measures how fast they train", 0),
    ("throughput.threads", "threads there", 0),
    ("throughput.people_per_minute.one at a time", "LoRAs trained per minute there: one at a time, with peft", 0),
    *((f"throughput.people_per_minute.{count} together", f"the same, {count} together", 0) for count in (8, 32, 64)),
)


def side_by_side(items: Items, single: int) -> list[Items]:
    """`items` in two halves of equal length, without an odd one; unchanged if there are at most `single`."""
    half = len(items) // 2
    return [items] if len(items) <= single else [items[:half], items[half : 2 * half]]


def world_rows(metrics: Mapping[str, Mapping]) -> list[dict[str, str]]:
    """Name and formatted value of every measured one of `FACTS`.

    Args:
        metrics: as in metrics/, by file; "throughput" as in benchmarks/batched_training.json.
    """
    rows = []
    for path, name, digits in FACTS:
        value: Any = metrics
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is not None:
            rows.append({"name": name, "value": f"{value:,.{digits}f}"})
    return rows


def markdown(comparison: Mapping, spaces: Mapping[str, Mapping]) -> str:
    """The verdict and the headline table as Markdown, as the README shows them; arguments as above."""
    verdict, sentence = headline(comparison)
    labels = [METHODS[name].label for name in spaces]
    rows = [["test people", *labels], ["---"] * (1 + len(labels))]
    rows += [
        [f"{row['name']} ({row['better']} is better)", *(row[name] for name in spaces)] for row in measure_rows(spaces)
    ]
    return "\n".join([f"**{verdict}.** {sentence}", "", *(f"| {' | '.join(row)} |" for row in rows)])


def spread(values: pd.Series, count: int) -> list[str]:
    """`count` names, evenly spaced over the sorted values from the lowest to the highest, so that none is hand-picked.

    NaN values are left out; fewer values give fewer names.
    """
    ranked = values.dropna().sort_values(kind="stable")
    places = np.unique(np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int))
    return ranked.index[places].tolist() if len(ranked) else []


def score_text(score: float, floor: float) -> str:
    """A score as shown under pictures: a dash if unknown, "no face" if every picture scored the floor."""
    if not np.isfinite(score):
        return "\N{EN DASH}"
    return "no face" if np.isclose(score, floor, atol=1e-9) else f"{score:.2f}"


def latent_effects(space: WeightSpace, std: torch.Tensor) -> np.ndarray:
    """Change of the weights, z-scored by `std` [d], per unit of each latent around z = 0: [k, d]."""
    units = torch.eye(space.latent_dim)
    return ((space.decode(units) - space.decode(-units)) / 2 / std).numpy()


def people_factors(people: pd.DataFrame) -> dict[str, np.ndarray]:
    """Known factors of people, by name: numbers in [0, 1] (sex, age, skin lightness) or strings (hair).

    Args:
        people: a row per person with the columns person_* of a portraits manifest.

    Raises:
        InputError: a column is missing.
    """
    needed = [
        "person_gender",
        "person_age",
        "person_skin_r",
        "person_skin_g",
        "person_skin_b",
        "person_hair_color",
        "person_hair_style",
    ]
    for column in needed:
        if column not in people:
            raise InputError("manifest.csv", column, "column missing", "Run `dvc repro` to make it anew")
    skin = people[needed[2:5]].to_numpy(float) @ [0.2126, 0.7152, 0.0722]  # luma
    return {
        "sex": people["person_gender"].to_numpy(float),
        "age": people["person_age"].to_numpy(float),
        "skin": skin,
        "hair colour": people["person_hair_color"].to_numpy(str),
        "hair style": people["person_hair_style"].to_numpy(str),
    }


def render_html(figures: Mapping[str, bytes], **content) -> str:
    """The report as one HTML page that needs no other file.

    Args:
        figures: PNG bytes by name, embedded.
        content: the other variables of the template.

    Raises:
        jinja2.UndefinedError: a variable of the template is not given.
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    template = environment.from_string(resources.files("w2wpp.report").joinpath("page.html.jinja").read_text("utf-8"))
    pictures = {name: "data:image/png;base64," + base64.b64encode(png).decode() for name, png in figures.items()}
    return template.render(figures=pictures, **content)
