"""Disjoint groups of people, and packs of their photos with a manifest of every factor."""

import numpy as np

from w2wpp.faces.portraits import PortraitsParams
from w2wpp.world.people import Identity, Nuisance, sample_identity, sample_nuisance
from w2wpp.world.rows import identity_row, nuisance_row

GROUPS = ("base", "probe", "zoo", "validation", "test")

Person = tuple[Identity, list[Nuisance]]


def _seed(*entropy: int) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


def sample_people(seed: int, group: str, count: int, photos: int) -> list[Person]:
    """Identities and photo circumstances of the people of a group.

    Person i of a group depends on (seed, group, i) alone. So groups share no people, and counts may grow.
    """
    where = GROUPS.index(group)
    return [
        (
            sample_identity(_seed(seed, where, index)),
            [sample_nuisance(_seed(seed, where, index, photo)) for photo in range(photos)],
        )
        for index in range(count)
    ]


def with_photos(people: list[Person], first: int, last: int) -> list[Person]:
    """The same people with only photos first .. last - 1."""
    return [(identity, nuisances[first:last]) for identity, nuisances in people]


def person_names(group: str, count: int) -> list[str]:
    """Names such as "zoo-00012", unique over all groups."""
    return [f"{group}-{index:05d}" for index in range(count)]


def held_out_people(seed: int, params: PortraitsParams) -> tuple[list[str], list[str], list[Person]]:
    """Names, splits and people (with the circumstances of all their photos): first validation, then test."""
    names, splits, people = [], [], []
    for split, count in (("validation", params.validation), ("test", params.test)):
        names += person_names(split, count)
        splits += [split] * count
        people += sample_people(seed, split, count, params.photos)
    return names, splits, people


def manifest_rows(names: list[str], splits: list[str], people: list[Person]) -> list[dict]:
    """One row per photo: person, split, photo, then every identity and nuisance factor."""
    return [
        {"person": name, "split": split, "photo": photo, **identity_row(identity), **nuisance_row(nuisance)}
        for name, split, (identity, nuisances) in zip(names, splits, people, strict=True)
        for photo, nuisance in enumerate(nuisances)
    ]
