"""Captions of rendered photos: some of what a picture shows, in words that are always true of it."""

import numpy as np

from w2wpp.diffusion.prompts import described
from w2wpp.world.people import BACKGROUNDS, EXPRESSIONS, EYE_COLORS, GLASSES, HAIR_COLORS, SHIRTS, Identity, Nuisance

_STYLE_WORDS = {"bald": "bald", "cropped": "cropped", "short": "short", "side-parted": "side-parted", "curly": "curly",
                "long": "long", "bob": "chin-length", "tied": "tied-back"}  # fmt: skip
_BEARD_WORDS = {"stubble": "stubble", "full": "a beard"}
CAPTION_WORDS: tuple[str, ...] = tuple(sorted({
    ",", "a", "an", "photo", "of", "young", "middle-aged", "older", "old", "man", "woman", "person", "with", "and",
    "hair", "beard", "stubble", "bald", "eyes", "glasses", "neutral", "face", "on", "background", "in", "shirt",
    *_STYLE_WORDS.values(), *GLASSES[1:], *HAIR_COLORS, *EYE_COLORS, *EXPRESSIONS, *BACKGROUNDS, *SHIRTS,
}))  # fmt: skip


def caption(identity: Identity, nuisance: Nuisance, rng: np.random.Generator) -> str:
    """Say some of the factors in lower-case words.

    Args:
        rng: decides which factors are named; the words themselves are always true of the picture.

    Returns:
        A text such as ``a photo of an older man with short red hair and a beard, smiling, on a blue background``;
        it begins with ``a photo of`` and every token is one of :data:`CAPTION_WORDS`.
    """
    mentioned = rng.uniform(size=9)
    noun = "woman" if identity.gender > 0.5 else "man"
    words = []
    if mentioned[0] < 0.65:
        steps = (("young", 0.3), ("middle-aged", 0.6), ("older", 0.82), ("old", np.inf))
        words.append(next(word for word, limit in steps if identity.age < limit))
    if identity.hair_style == "bald" and mentioned[1] < 0.75:
        words.append("bald")
    first = (words or [noun])[0]
    text = f"a photo of {'an' if first[0] in 'aeiou' else 'a'} {' '.join([*words, noun])}"
    traits = []
    if identity.hair_style != "bald" and mentioned[1] < 0.85:
        style = f"{_STYLE_WORDS[identity.hair_style]} " if mentioned[2] < 0.75 else ""
        color = f"{identity.hair_color} " if mentioned[3] < 0.8 or not style else ""
        traits.append(f"{style}{color}hair")
    if identity.beard != "none" and mentioned[4] < 0.8:
        traits.append(_BEARD_WORDS[identity.beard])
    if mentioned[5] < 0.35:
        traits.append(f"{identity.eye_color} eyes")
    if identity.glasses != "none" and mentioned[8] < 0.8:
        traits.append(f"{identity.glasses} glasses" if mentioned[8] < 0.4 else "glasses")
    if traits:
        text += " with " + (", ".join(traits[:-1]) + " and " if len(traits) > 1 else "") + traits[-1]
    return _described_in_part(text, nuisance, mentioned[6], mentioned[7])


def class_caption(nuisance: Nuisance, rng: np.random.Generator, token: str | None = None) -> str:
    """Say some of a photo's circumstances and nothing of the person but the class: ``a photo of a person, smiling``.

    Args:
        rng: decides what is named.
        token: an identity token to put in place of the article: ``a photo of sks person``.
    """
    mentioned = rng.uniform(size=2)
    return _described_in_part(f"a photo of {token or 'a'} person", nuisance, *mentioned)


def _described_in_part(prompt: str, nuisance: Nuisance, say_expression: float, say_surroundings: float) -> str:
    """`prompt` followed by the circumstances that two random numbers in [0, 1] choose."""
    mentioned = say_expression < (0.8 if nuisance.expression != "neutral" else 0.3)
    return described(
        prompt,
        nuisance.expression if mentioned else None,
        nuisance.shirt if say_surroundings < 0.3 else None,
        nuisance.background if 0.15 < say_surroundings < 0.7 else None,
    )
