"""The rows of the sweep: spaces and searches, each compared with PCA of the same dimension."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import Field

from w2wpp.files.errors import InputError
from w2wpp.files.settings import AnySection, Count, Section, Whole, with_changes
from w2wpp.spaces.registry import METHODS

PCA, LINEAR, VAE = "PCA", "function-weighted PCA", "VAE"
VARIANCE_FROM = 256
FROM_THE_MEAN = {"photo_encoder.photos": 0}
NO_SEARCH = {"invert.steps": 1, "invert.lr": 1e-9}
HALF_THE_STEPS = {"invert.steps": 25}
BY_VARIANCE = {f"{space}.within_person_ridge": None for space in ("pca", "linear", "vae")}
W2W_SEARCH = (
    FROM_THE_MEAN
    | BY_VARIANCE
    | {
        "invert.whitened": False,
        "invert.lr": 0.1,
        "invert.adam_epsilon": 1e-8,
        "invert.steps": 400,
        "invert.prior_weight": 0.0,
        "invert.region": [0.0, 0.0, 1.0, 1.0],
    }
)


class SweepParams(Section):
    """Gains at other dimensions, of fewer people, and with parts of space and search left out."""

    dimensions: list[Count] = Field([8, 16, 32, 64, 128, 256, 512, 1999])
    """Latent dimensions at which all spaces are compared."""
    seeds: Annotated[list[Whole], Field(min_length=1)] = Field([0, 1, 2])
    """Seeds of the VAE's training: the first at all dimensions, the others at those of `seeds_at`."""
    seeds_at: list[Count] = Field([16, 64, 128, 256])
    """Those of `dimensions` at which the VAE is trained with every seed."""
    people: list[Annotated[int, Field(ge=4)]] = Field([128, 256, 512, 1024, 2000])
    """Numbers of zoo people, counted from the first, for spaces of `latent_dim` dimensions."""
    parts: bool = True
    """Whether to leave out parts of space and search one at a time, at `latent_dim` dimensions."""
    latent_dim: Count = 64
    """Latent dimensions of the rows in which people or parts vary."""


@dataclass(frozen=True)
class Row:
    """A space to fit, to search and to score.

    Attributes:
        space: a name of `METHODS`.
        variant: its name in tables.
        latent_dim: its dimensions.
        people: number of zoo people that it learns from, counted from the first.
        seed: of the VAE's training.
        changes: further changes of the settings, by dotted key.
    """

    space: str
    variant: str
    latent_dim: int
    people: int
    seed: int = 0
    changes: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """Such as VAE-64-0-2000: variant, latent dimension, seed, people."""
        return f"{self.variant.replace(',', '').replace(' ', '-')}-{self.latent_dim}-{self.seed}-{self.people}"

    def settings(self, params: AnySection) -> AnySection:
        """All settings of the pipeline for this row; errors as of `with_changes`."""
        return with_changes(
            params,
            {
                **{f"{space}.latent_dim": self.latent_dim for space in METHODS},
                "vae.seed": self.seed,
                "flatten.people": self.people,
                **self.changes,
            },
        )


def spaces(latent_dim: int, people: int, seed: int = 0) -> list[Row]:
    """PCA, function-weighted PCA and the VAE."""
    # PCA in its best variant on people left out of the zoo: with many dimensions by variance alone.
    return [
        Row("pca", PCA, latent_dim, people, seed, BY_VARIANCE if latent_dim >= VARIANCE_FROM else {}),
        Row("linear", LINEAR, latent_dim, people, seed),
        Row("vae", VAE, latent_dim, people, seed),
    ]


def parts(latent_dim: int, people: int, seed: int = 0) -> list[Row]:
    """Rows that show the gain of each part, from the recipe of weights2weights to the VAE."""

    def row(space: str, variant: str, changes: Mapping[str, object]) -> Row:
        return Row(space, variant, latent_dim, people, seed, changes)

    return [
        *spaces(latent_dim, people, seed),
        row("pca", f"{PCA}, by variance alone", BY_VARIANCE),
        row("linear", f"{LINEAR}, by variance alone", BY_VARIANCE),
        row("vae", f"{VAE}, by variance alone", BY_VARIANCE),
        row("vae", f"linear {VAE}", {"vae.layers": 0}),
        row("vae", f"{VAE} without KL", {"vae.kl.weight": 0.0}),
        row("vae", f"{VAE} of weights", {"vae.metric": "weights"}),
        row("vae", f"{VAE} in half the steps", HALF_THE_STEPS),
        row("pca", f"{PCA} in half the steps", HALF_THE_STEPS),
        row("vae", f"{VAE}, no search", NO_SEARCH),
        row("pca", f"{PCA}, no search", NO_SEARCH),
        row("vae", f"{VAE}, searched from the mean", FROM_THE_MEAN),
        row("pca", f"{PCA}, searched from the mean", FROM_THE_MEAN),
        row("pca", f"{PCA}, searched as in w2w", W2W_SEARCH),
    ]


def tables(params: SweepParams, people: int) -> dict[str, list[Row]]:
    """Rows by table, "dimensions", "people" and "rungs", including those that a zoo of `people` cannot fill (see
    `fits`).
    """
    first, *further = params.seeds
    at_seeds = [k for k in params.dimensions if k in params.seeds_at]
    return {
        "dimensions": [
            *(row for k in params.dimensions for row in spaces(k, people, first)),
            *(Row("vae", VAE, k, people, seed) for k in at_seeds for seed in further),
        ],
        "people": [row for count in params.people for row in spaces(params.latent_dim, count, first)],
        "rungs": parts(params.latent_dim, people, first) if params.parts else [],
    }


def fits(row: Row, people: int) -> bool:
    """Whether a zoo of `people` has the people of the row, and these can fill its dimensions."""
    return row.latent_dim < row.people <= people


def named(rows: Iterable[Row], names: Iterable[str]) -> list[Row]:
    """The rows with these names.

    Raises:
        InputError: a name is unknown.
    """
    known = {row.name: row for row in rows}
    for name in names:
        if name not in known:
            raise InputError("command line", "--rows", f"no row {name!r}", f"There are {', '.join(known)}")
    return [known[name] for name in names]
