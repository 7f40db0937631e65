"""Invented people: the same seed gives the same person, rows survive a CSV file, pictures show a person."""

import numpy as np

from w2wpp.world.people import GLASSES, HAIR_STYLES, sample_identity, sample_nuisance


def test_same_seed_same_person_and_photo():
    assert sample_identity(7) == sample_identity(7)
    assert sample_identity(7) != sample_identity(8)
    assert sample_nuisance(7) == sample_nuisance(7)
    assert sample_nuisance(7) != sample_nuisance(8)


def test_facts_fit_together():
    people = [sample_identity(seed) for seed in range(1500)]
    assert not [p for p in people if p.beard != "none" and p.gender > 0.5]
    assert not [p for p in people if p.hair_color in ("grey", "white") and p.age < 0.5]
    women = [p for p in people if p.gender > 0.5]
    assert 0.4 < len(women) / len(people) < 0.6
    assert sum(p.hair_style == "bald" for p in women) / len(women) < 0.03
    assert {p.hair_style for p in people} == set(HAIR_STYLES)
    assert {p.glasses for p in people} == set(GLASSES)
    young, old = ([p.glasses != "none" for p in people if (p.age > 0.5) == aged] for aged in (False, True))
    assert 0.05 < np.mean(young) < np.mean(old) < 0.35
