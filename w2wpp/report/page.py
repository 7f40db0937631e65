"""The content of the report: words, numbers and the choice of people."""

import base64
from collections.abc import Mapping, Sequence
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
    ("inversion.id_obeyed", "ID score where prompts that contradict the photo are obeyed", "higher", 3),
    ("inversion.prompt_accuracy", "these prompts obeyed", "higher", 3),
    ("inversion.copying", "copying of the photo: another photo is 0, the photo itself 1", "lower", 3),
    ("inversion.variety", "variety of a model's pictures: real photos are 1", "higher", 3),
    ("inversion.id_score", "ID score of the plain prompt", "higher", 3),
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
# Measured only where true LoRAs are of people with photos, and where CLIP is asked.
OPTIONAL = {
    "inversion.id_obeyed",
    "inversion.prompt_accuracy",
    "reconstruction.id_score",
    "inversion.prompt_alignment",
    "sampling.prompt_alignment",
}


def headline(comparison: Mapping, split: str, unequal: str = "") -> tuple[str, str]:
    """The verdict in a few words, and one or two sentences that support it.

    Args:
        comparison: metrics/comparison.json.
        split: of the held-out people, "validation" or "test".
        unequal: why the spaces cannot be compared; empty where they can.

    Returns:
        "VAE ahead" if both recognisers' intervals of the paired gain lie above zero, "PCA ahead" if below; "according
        to one recogniser of two" where the other's has zero in it; else "No difference is sure"; "Not compared" where
        spaces are unequal. The gain is that of the ID score where prompts are obeyed, or of the plain one where nobody
        knows which are.
    """
    if unequal:
        return "Not compared", f"The spaces are unequal, so there is no gain: {unequal}."
    obeyed = "id_obeyed" in comparison
    first, second = ((each["id_obeyed"] if obeyed else each) for each in (comparison, comparison["second_opinion"]))
    gains = first["gain"], second["gain"]
    above, below = sum(each["low"] > 0 for each in gains), sum(each["high"] < 0 for each in gains)
    verdict = "No difference is sure"
    if bool(above) != bool(below):
        verdict = f"{'VAE' if above else 'PCA'} ahead"
        verdict += " according to one recogniser of two" if above + below == 1 else ""
    measure = "ID score where prompts that contradict the photo are obeyed" if obeyed else "ID score"
    people = f"{comparison['people']} {'unseen ' if split == 'test' else ''}{split} people"
    copied = comparison.get("copying", {}).get("gain", {"low": 0, "high": 0})
    more = "more" if copied["low"] > 0 else "less" if copied["high"] < 0 else ""
    interval = f"{copied['low']:+.3f} to {copied['high']:+.3f}"
    copying = f" The VAE copies the photo {more} than PCA ({interval})." if more else ""
    mean, opinion = (f"{each['mean']:+.3f} ({each['low']:+.3f} to {each['high']:+.3f})" for each in gains)
    return verdict, (
        f"On {people}, inversion from one photo gains {mean} with the VAE over PCA "
        f"({measure}; paired, 95 % interval). {100 * first['people_better_with_vae']:.0f} % of them score higher with "
        f"the VAE. A second recogniser, which chose no setting, measures a gain of {opinion}.{copying}"
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
                if f"{key}_low" in metrics[group]:
                    low, high = metrics[group][f"{key}_low"], metrics[group][f"{key}_high"]
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
    ("world.diversity", "difference between held-out people", 3),
    ("world.novelty", "distance of held-out people from the zoo", 3),
    ("base.codec_psnr_db", "codec on held-out people (dB)", 1),
    ("base.face_found", "class-prompt samples with a face", 3),
    ("base.embedding_frechet", "Fréchet distance of class samples to real photos, in the recogniser's space", 3),
    ("base.embedding_frechet_floor", "the same between two sets of real photos", 3),
    *(
        (f"base.prompt_accuracy.{factor}", f"prompts obeyed by the base model: {factor}", 2)
        for factor in ("sex", "age", "hair", "style", "beard", "glasses", "expression", "background")
    ),
    ("zoo.id_obeyed", "true LoRA: ID score where prompts that contradict the photo are obeyed", 3),
    ("zoo.prompt_accuracy", "these prompts obeyed by true LoRAs", 3),
    ("zoo.copying", "true LoRA: copying of the photo", 3),
    ("zoo.people", "zoo people", 0),
    ("zoo.dimension", "numbers in a LoRA", 0),
    ("zoo.id_score_normalised", "true LoRA of held-out people (a stranger is 0, own photos are 1)", 3),
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


# What is told of samples: key below `sampling` in metrics/, name, which way is better.
SAMPLING = (
    ("frechet", "Fréchet distance to real people, in the recogniser's space", "lower"),
    ("precision", "people who lie among real ones (precision)", "higher"),
    ("recall", "real people who lie among them (recall)", "higher"),
    ("attribute_error", "deviation of attributes' shares, relative to the population's", "lower"),
    ("kinship", "people who pass for the nearest zoo person", "lower"),
)


def sampling_rows(metrics: Mapping[str, Mapping], spaces: Sequence[str]) -> list[dict[str, str]]:
    """Rows of the table of samples: name, better, and a text each for "world", "zoo" and the spaces.

    A dash stands where nothing was measured; a measure that nobody has is left out.

    Args:
        metrics: as in metrics/, by file.
    """
    rows = []
    for key, name, better in SAMPLING:
        values = {who: metrics.get(who, {}).get("sampling", {}).get(key) for who in ("world", "zoo", *spaces)}
        if any(value is not None for value in values.values()):
            texts = {who: "\N{EN DASH}" if value is None else f"{value:.3f}" for who, value in values.items()}
            rows.append({"name": name, "better": better, **texts})
    return rows


def outside_rows(metrics: Mapping[str, Mapping]) -> list[dict]:
    """Of every style, the rungs with ID score, its interval, faces, pictures taken for photos, and copying.

    Args:
        metrics: as in metrics/, by file.

    Returns:
        Rows with "style", "name", "values", and whether it is the "first" of its style.
    """
    rows = []
    for style in metrics["outside"]["dreambooth"]:
        rungs = {f"{METHODS[name].label} inversion": metrics[name]["outside"][style] for name in METHODS}
        rungs = {
            "guess of the photo encoder": metrics["vae"]["outside"][style]["encoder"],
            **rungs,
            "DreamBooth, stopped in time": metrics["outside"]["dreambooth"][style],
        }
        for number, (name, found) in enumerate(rungs.items()):
            low, high = found["id_score_low"], found["id_score_high"]
            values = [f"{found['id_score']:.3f} ({low:.3f} to {high:.3f})"]
            values += [f"{found[key]:.2f}" for key in ("face_found", "photo_share", "copying")]
            values += [f"{found['photo_frechet']:.0f}"]
            rows.append({"style": style, "name": name, "values": values, "first": number == 0})
    return rows


def markdown(comparison: Mapping, spaces: Mapping[str, Mapping], split: str) -> str:
    """The verdict and the headline table as Markdown, as the README shows them; arguments as above."""
    verdict, sentence = headline(comparison, split)
    labels = [METHODS[name].label for name in spaces]
    rows = [[f"{split} people", *labels], ["---"] * (1 + len(labels))]
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
