"""Invented people as plain data: what stays with a person and what changes per photo, drawn at random.

Nothing here draws anything; `w2wpp.world.rendering` turns an `Identity` and a `Nuisance` into a picture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

import numpy as np

RGB = tuple[float, float, float]

# Local changes of the head that may differ between people. A name without side is applied to both sides.
HEAD_CHANGES: tuple[str, ...] = (
    "cheek-trans-up", "cheek-volume-incr", "cheek-inner-incr", "cheek-bones-incr",
    "chin-jaw-drop-incr", "chin-height-incr", "chin-prominent-incr", "chin-bones-incr", "chin-width-incr",
    "chin-cleft-incr", "chin-prognathism-incr",
    "ear-lobe-incr", "ear-shape-round", "ear-scale-vert-incr", "ear-scale-incr", "ear-wing-incr", "ear-trans-up",
    "eyebrows-angle-up", "eyebrows-trans-up", "eyebrows-trans-forward",
    "eye-corner1-up", "eye-height1-incr", "eye-height2-incr", "eye-height3-incr", "eye-scale-incr",
    "eye-push1-out", "eye-push2-out", "eye-eyefold-up", "eye-bag-incr", "eye-bag-out", "eye-epicanthus-out",
    "eye-corner2-up", "eye-trans-up", "eye-trans-out",
    "forehead-temple-incr", "forehead-trans-forward", "forehead-scale-vert-incr", "forehead-nubian-incr",
    "head-fat-incr", "head-age-incr", "head-scale-vert-incr", "head-scale-horiz-incr", "head-angle-out",
    "mouth-scale-horiz-incr", "mouth-scale-vert-incr", "mouth-lowerlip-height-incr", "mouth-upperlip-height-incr",
    "mouth-lowerlip-volume-incr", "mouth-upperlip-volume-incr", "mouth-cupidsbow-incr", "mouth-angles-up",
    "mouth-laugh-lines-out", "mouth-trans-up", "mouth-trans-forward", "mouth-philtrum-volume-incr",
    "mouth-dimples-out",
    "nose-nostrils-angle-up", "nose-flaring-incr", "nose-curve-convex", "nose-scale-depth-incr",
    "nose-scale-vert-incr", "nose-point-width-incr", "nose-scale-horiz-incr", "nose-trans-up", "nose-hump-incr",
    "nose-nostrils-width-incr", "nose-greek-incr", "nose-point-up", "nose-width1-incr", "nose-width2-incr",
    "nose-width3-incr", "nose-base-up", "nose-volume-incr",
)  # fmt: skip

HAIR_COLORS: dict[str, RGB] = {
    "black": (0.085, 0.075, 0.075),
    "brown": (0.27, 0.165, 0.10),
    "blond": (0.66, 0.53, 0.35),
    "red": (0.47, 0.215, 0.11),
    "grey": (0.60, 0.60, 0.61),
    "white": (0.88, 0.87, 0.85),
}
HAIR_STYLES: tuple[str, ...] = ("bald", "cropped", "short", "side-parted", "curly", "long", "bob", "tied")
BEARDS: tuple[str, ...] = ("none", "stubble", "full")
EYE_COLORS: dict[str, RGB] = {
    "brown": (0.24, 0.13, 0.07),
    "blue": (0.33, 0.50, 0.66),
    "green": (0.33, 0.44, 0.27),
    "hazel": (0.40, 0.29, 0.14),
    "grey": (0.45, 0.49, 0.52),
}
GLASSES: tuple[str, ...] = ("none", "thin", "thick")
GLASSES_COLORS: dict[str, RGB] = {
    "black": (0.06, 0.06, 0.065),
    "brown": (0.20, 0.115, 0.075),
    "silver": (0.46, 0.47, 0.49),
    "red": (0.50, 0.08, 0.09),
    "blue": (0.10, 0.19, 0.46),
}
EXPRESSIONS: tuple[str, ...] = ("neutral", "smiling", "laughing", "surprised", "frowning", "pouting")
BACKGROUNDS: dict[str, RGB] = {
    "white": (0.90, 0.89, 0.87),
    "grey": (0.56, 0.56, 0.56),
    "dark": (0.17, 0.17, 0.19),
    "blue": (0.42, 0.55, 0.70),
    "green": (0.40, 0.51, 0.38),
    "brown": (0.50, 0.40, 0.31),
}
SHIRTS: dict[str, RGB] = {
    "white": (0.88, 0.87, 0.85),
    "black": (0.10, 0.10, 0.11),
    "grey": (0.45, 0.46, 0.48),
    "blue": (0.18, 0.28, 0.50),
    "red": (0.58, 0.15, 0.15),
    "green": (0.19, 0.36, 0.24),
    "yellow": (0.80, 0.66, 0.28),
}

_SKINS = {"african": (0.36, 0.235, 0.165), "asian": (0.83, 0.655, 0.515), "caucasian": (0.90, 0.71, 0.61)}
_FRAMES = {
    "none": {"black": 1.0},
    "thin": {"black": 0.45, "silver": 0.3, "brown": 0.17, "red": 0.04, "blue": 0.04},
    "thick": {"black": 0.5, "brown": 0.26, "red": 0.12, "blue": 0.12},
}
# At full spread these turn some faces into caricatures.
_TAMED = {"ear-wing-incr": 0.4, "nose-scale-vert-incr": 0.6, "nose-point-up": 0.7, "nose-curve-convex": 0.7,
          "nose-trans-up": 0.6, "mouth-trans-up": 0.7, "head-scale-vert-incr": 0.6, "head-scale-horiz-incr": 0.7,
          "eye-height2-incr": 0.7, "nose-hump-incr": 0.7}  # fmt: skip


def _require(ok: bool, text: str) -> None:
    if not ok:
        raise ValueError(text)


def _check(owner: Identity | Nuisance, unit: tuple[str, ...], choices: Mapping[str, Collection[str]]) -> None:
    """Refuse numbers outside [0, 1] in ``unit`` and in every colour, and names that are not among ``choices``."""
    for name in unit:
        value = getattr(owner, name)
        _require(0.0 <= value <= 1.0, f"{name} must lie in [0, 1], got {value!r}")
    for name, known in choices.items():
        value = getattr(owner, name)
        _require(value in known, f"unknown {name} {value!r}; choose one of {', '.join(known)}")
    for field in fields(owner):
        if field.name.endswith("_rgb"):
            value = getattr(owner, field.name)
            _require(len(value) == 3 and all(0.0 <= c <= 1.0 for c in value),
                     f"{field.name} must be three numbers in [0, 1], got {value!r}")  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """Everything that stays with a person.

    The three ancestries are shares (they are used relative to their sum); ``gender`` runs from 0 (male) to 1 (female);
    ``age`` from 0 (young adult) to 1 (old); ``weight``, ``muscle``, ``hairline`` (1: receded), ``hair_volume``,
    ``brow_strength``, ``brow_arch`` and ``lip_strength`` lie in [0, 1]; ``changes`` holds one value in [-1, 1] for
    every entry of :data:`HEAD_CHANGES`; colours are sRGB in [0, 1]; ``part_side`` is -1 or 1; ``glasses_rgb`` is the
    colour of the frame and shows nowhere without glasses.

    Raises:
        ValueError: a value is out of range or a name is unknown.
    """

    african: float
    asian: float
    caucasian: float
    gender: float
    age: float
    weight: float
    muscle: float
    changes: tuple[float, ...]
    skin_rgb: RGB
    hair_color: str
    hair_rgb: RGB
    hair_style: str
    hairline: float
    hair_volume: float
    part_side: int
    beard: str
    brow_rgb: RGB
    brow_strength: float
    brow_arch: float
    eye_color: str
    eye_rgb: RGB
    lip_rgb: RGB
    lip_strength: float
    glasses: str
    glasses_rgb: RGB

    def __post_init__(self) -> None:
        unit = ("african", "asian", "caucasian", "gender", "age", "weight", "muscle", "hairline", "hair_volume",
                "brow_strength", "brow_arch", "lip_strength")  # fmt: skip
        names = {"hair_color": HAIR_COLORS, "hair_style": HAIR_STYLES, "beard": BEARDS, "eye_color": EYE_COLORS,
                 "glasses": GLASSES}  # fmt: skip
        _check(self, unit, names)
        _require(self.african + self.asian + self.caucasian > 0, "one ancestry at least must be above 0")
        _require(len(self.changes) == len(HEAD_CHANGES),
                 f"changes must hold {len(HEAD_CHANGES)} values, got {len(self.changes)}")  # fmt: skip
        for name, value in zip(HEAD_CHANGES, self.changes, strict=True):
            _require(-1.0 <= value <= 1.0, f"change {name} must lie in [-1, 1], got {value!r}")
        _require(self.part_side in (-1, 1), f"part_side must be -1 or 1, got {self.part_side!r}")


@dataclass(frozen=True)
class Nuisance:
    """Everything that changes from photo to photo of the same person.

    Angles are degrees: ``yaw`` in [-45, 45], ``pitch`` in [-25, 25], ``light_azimuth`` (from the camera) in [-90, 90],
    ``light_elevation`` in [-30, 90]. ``strength`` (of the expression), ``ambient`` and ``specular`` lie in [0, 1].
    The background runs from ``background_top_rgb`` to ``background_bottom_rgb``.

    Raises:
        ValueError: a value is out of range or a name is unknown.
    """

    yaw: float
    pitch: float
    expression: str
    strength: float
    light_azimuth: float
    light_elevation: float
    ambient: float
    specular: float
    background: str
    background_top_rgb: RGB
    background_bottom_rgb: RGB
    shirt: str
    shirt_rgb: RGB

    def __post_init__(self) -> None:
        names = {"expression": EXPRESSIONS, "background": BACKGROUNDS, "shirt": SHIRTS}
        _check(self, ("strength", "ambient", "specular"), names)
        limits = {"yaw": (-45, 45), "pitch": (-25, 25), "light_azimuth": (-90, 90), "light_elevation": (-30, 90)}
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            _require(low <= value <= high, f"{name} must lie in [{low}, {high}] degrees, got {value!r}")


def _rgb(color: np.ndarray | RGB) -> RGB:
    red, green, blue = (float(c) for c in np.clip(color, 0.0, 1.0))
    return red, green, blue


def _jitter(rng: np.random.Generator, color: RGB, brightness: float, tint: float) -> RGB:
    return _rgb(np.asarray(color) * rng.uniform(1 - brightness, 1 + brightness) + rng.normal(0, tint, 3))


def _pick(rng: np.random.Generator, shares: dict[str, float]) -> str:
    weights = np.array(list(shares.values()), dtype=float)
    return list(shares)[int(rng.choice(len(weights), p=weights / weights.sum()))]


def sample_identity(seed: int) -> Identity:
    """Draw a person whose facts fit together (grey hair comes with age, beards with men); same seed, same person."""
    rng = np.random.default_rng(seed)
    african, asian, caucasian = (float(share) for share in rng.dirichlet([0.45, 0.45, 0.45]))
    gender = float(rng.beta(0.35, 0.35))
    woman = gender > 0.5
    age = float(rng.uniform(0.0, 1.0) ** 1.25)
    weight, muscle = (float(v) for v in rng.beta(2.2, 2.2, 2))

    changes = np.clip(rng.normal(0.0, 0.33, len(HEAD_CHANGES)), -1, 1)
    for index, name in enumerate(HEAD_CHANGES):
        changes[index] *= _TAMED.get(name, 1.0)
        if name == "head-age-incr":
            changes[index] = np.clip(0.9 * age - 0.35 + 0.3 * changes[index], -1, 1)

    skin = african * np.array(_SKINS["african"]) + asian * np.array(_SKINS["asian"])
    skin = (skin + caucasian * np.array(_SKINS["caucasian"])) * rng.uniform(0.88, 1.06) + rng.normal(0, 0.012, 3)
    fair = caucasian**1.5
    grey = float(np.clip((age - 0.5) / 0.4, 0, 1))
    hair_color = _pick(rng, {
        "black": (0.55 - 0.35 * fair) * (1 - 0.85 * grey), "brown": (0.25 + 0.25 * fair) * (1 - 0.85 * grey),
        "blond": 0.45 * fair * (1 - 0.8 * grey), "red": 0.22 * fair * (1 - 0.8 * grey),
        "grey": 0.6 * grey, "white": 0.5 * grey**2,
    })  # fmt: skip
    hair_rgb = _jitter(rng, HAIR_COLORS[hair_color], 0.16, 0.008)
    curly = 0.10 + 0.35 * african
    if woman:
        styles = {"bald": 0.01, "cropped": 0.05, "short": 0.12, "side-parted": 0.10, "curly": curly, "long": 0.34,
                  "bob": 0.24, "tied": 0.26}  # fmt: skip
    else:
        styles = {"bald": 0.10 + 0.25 * age, "cropped": 0.26, "short": 0.30, "side-parted": 0.26, "curly": curly * 0.7,
                  "long": 0.06, "bob": 0.02, "tied": 0.03}  # fmt: skip
    hair_style = _pick(rng, styles)
    beard = "none" if woman else _pick(rng, {"none": 0.5, "stubble": 0.2, "full": 0.3})
    brow = np.asarray(hair_rgb) * (0.62 if hair_color not in ("grey", "white") else 0.66)
    brow_rgb = _rgb(np.minimum(brow, skin * 0.5))
    eye_color = _pick(rng, {"brown": 0.75 - 0.45 * fair, "hazel": 0.12, "blue": 0.35 * fair, "green": 0.2 * fair,
                            "grey": 0.12 * fair})  # fmt: skip
    lip = skin * np.array([0.86, 0.60, 0.60]) + np.array([0.04, 0.0, 0.01])
    if woman:
        lip = 0.6 * lip + 0.4 * np.array([[0.68, 0.22, 0.24], [0.72, 0.36, 0.36], [0.55, 0.20, 0.28]])[rng.integers(3)]
    return Identity(
        african=african, asian=asian, caucasian=caucasian, gender=gender, age=age, weight=weight, muscle=muscle,
        changes=tuple(float(v) for v in changes), skin_rgb=_rgb(np.clip(skin, 0.08, 0.97)), hair_color=hair_color,
        hair_rgb=hair_rgb, hair_style=hair_style,
        hairline=float(np.clip(rng.beta(2, 3) * (0.5 if woman else 0.7 + 0.6 * age), 0, 1)),
        hair_volume=float(rng.uniform()), part_side=int(rng.choice([-1, 1])), beard=beard, brow_rgb=brow_rgb,
        brow_strength=float(rng.uniform(0.35, 0.85) if woman else rng.uniform(0.5, 1.0)),
        brow_arch=float(rng.uniform()), eye_color=eye_color, eye_rgb=_jitter(rng, EYE_COLORS[eye_color], 0.15, 0.01),
        lip_rgb=_rgb(lip * rng.uniform(0.9, 1.08)), lip_strength=float(rng.uniform(0.5, 1.0)),
        glasses=(glasses := _pick(rng, {"none": 0.92 - 0.22 * age, "thin": 0.04 + 0.11 * age,
                                        "thick": 0.04 + 0.11 * age})),
        glasses_rgb=_jitter(rng, GLASSES_COLORS[_pick(rng, _FRAMES[glasses])], 0.15, 0.008),
    )  # fmt: skip


def sample_nuisance(seed: int) -> Nuisance:
    """Draw the circumstances of one photo; the same seed gives the same photo."""
    rng = np.random.default_rng(seed)
    yaw, pitch = float(rng.uniform(-22, 22)), float(rng.uniform(-8, 8))
    expression = _pick(rng, {"neutral": 0.3, "smiling": 0.26, "laughing": 0.14, "surprised": 0.1, "frowning": 0.11,
                             "pouting": 0.09})  # fmt: skip
    background = _pick(rng, dict.fromkeys(BACKGROUNDS, 1.0))
    base = _jitter(rng, BACKGROUNDS[background], 0.10, 0.01)
    shirt = _pick(rng, dict.fromkeys(SHIRTS, 1.0))
    return Nuisance(
        yaw=yaw, pitch=pitch, expression=expression, strength=float(rng.uniform(0.5, 1.0)),
        light_azimuth=float(rng.uniform(-60, 60)), light_elevation=float(rng.uniform(10, 60)),
        ambient=float(rng.uniform(0.36, 0.6)), specular=float(rng.uniform(0.1, 0.9)), background=background,
        background_top_rgb=_jitter(rng, base, 0.08, 0.006), background_bottom_rgb=_jitter(rng, base, 0.08, 0.006),
        shirt=shirt, shirt_rgb=_jitter(rng, SHIRTS[shirt], 0.12, 0.015),
    )  # fmt: skip
