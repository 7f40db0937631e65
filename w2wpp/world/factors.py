"""Factors of a picture: what a prompt can request, what people differ by, and the pose and light of a photo."""

from collections.abc import Callable
from dataclasses import dataclass

from w2wpp.diffusion.prompts import described
from w2wpp.world.people import BACKGROUNDS, EXPRESSIONS, HAIR_COLORS, HAIR_STYLES, Identity, Nuisance


@dataclass(frozen=True)
class Factor:
    """Something that a prompt can request and a picture can show.

    Attributes:
        choices: values that the probe tells apart.
        requests: values that prompts request. The rest are there so that no picture is read as one of these for want
            of another word.
        label: value that a person in a photo has; another text than any of `choices` where none fits.
        prompt: the prompt that requests a value of a subject, "a" (person, or a man where the value asks for one) or
            "sks".
    """

    choices: tuple[str, ...]
    requests: tuple[str, ...]
    label: Callable[[Identity, Nuisance], str]
    prompt: Callable[[str, str], str]


@dataclass(frozen=True)
class Quantity:
    """Something continuous of a photo, that the probe measures in units of its `scale` in degrees."""

    scale: float
    value: Callable[[Nuisance], float]


def _sex(identity: Identity, _: Nuisance) -> str:
    return "man" if identity.gender < 0.35 else "woman" if identity.gender > 0.65 else "between"


def _age(identity: Identity, _: Nuisance) -> str:
    limits = (("young", 0, 0.3), ("middle-aged", 0.4, 0.7), ("old", 0.82, 1.01))
    return next((name for name, low, high in limits if low <= identity.age < high), "between")


def _weight(identity: Identity, _: Nuisance) -> str:
    return "thin" if identity.weight < 0.35 else "heavy" if identity.weight > 0.65 else "between"


def _skin(identity: Identity, _: Nuisance) -> str:
    lightness = sum(identity.skin_rgb) / 3
    return "dark" if lightness < 0.47 else "light" if lightness > 0.62 else "between"


def _person(subject: str, words: str, noun: str = "man") -> str:
    """Such as "a photo of a man with red hair" or "a photo of sks person with red hair"."""
    return f"a photo of {subject} {noun if subject == 'a' else 'person'} {words}"


def _adjective(subject: str, value: str) -> str:
    if subject != "a":
        return f"a photo of {subject} person, {value}"
    return f"a photo of {'an' if value[0] in 'aeiou' else 'a'} {value} man"


_BEARD_WORDS = {"stubble": "with stubble", "full": "with a beard"}
_STYLE_WORDS = {"side-parted": "side-parted", "bob": "chin-length", "tied": "tied-back"}

PERSON_FACTORS = {
    "sex": Factor(
        ("man", "woman"),
        ("man", "woman"),
        _sex,
        lambda value, subject: f"a photo of a {value}" if subject == "a" else f"a photo of {subject} person, a {value}",
    ),
    "age": Factor(
        ("young", "middle-aged", "old"), ("young", "old"), _age, lambda value, subject: _adjective(subject, value)
    ),
    "hair": Factor(
        (*HAIR_COLORS, "bald"),
        tuple(HAIR_COLORS),
        lambda i, _: "bald" if i.hair_style == "bald" else i.hair_color,
        lambda value, subject: _person(subject, f"with {value} hair"),
    ),
    "style": Factor(
        HAIR_STYLES,
        ("long", "curly", "short"),
        lambda i, _: i.hair_style,
        lambda value, subject: _person(subject, f"with {_STYLE_WORDS.get(value, value)} hair", "woman"),
    ),
    "beard": Factor(
        ("none", "stubble", "full"),
        ("full",),
        lambda i, _: i.beard,
        lambda value, subject: _person(subject, _BEARD_WORDS[value]),
    ),
    "glasses": Factor(
        ("none", "thin", "thick"),
        ("thin", "thick"),
        lambda i, _: i.glasses,
        lambda value, subject: _person(subject, f"with {value} glasses"),
    ),
}
# No caption says these, so no prompt can request them.
UNNAMED_FACTORS = {
    "weight": Factor(("thin", "heavy"), (), _weight, _adjective),
    "skin": Factor(("dark", "light"), (), _skin, _adjective),
}
PHOTO_FACTORS = {
    "expression": Factor(
        EXPRESSIONS,
        ("smiling", "surprised", "frowning"),
        lambda _, n: n.expression,
        lambda value, subject: described(f"a photo of {subject} person", value, None, None),
    ),
    "background": Factor(
        tuple(BACKGROUNDS),
        tuple(BACKGROUNDS),
        lambda _, n: n.background,
        lambda value, subject: described(f"a photo of {subject} person", None, None, value),
    ),
}
PROMPTED_FACTORS = PERSON_FACTORS | PHOTO_FACTORS
FACTORS = PERSON_FACTORS | UNNAMED_FACTORS | PHOTO_FACTORS
QUANTITIES = {
    "yaw": Quantity(22.0, lambda n: n.yaw),
    "light": Quantity(60.0, lambda n: n.light_azimuth),
}
