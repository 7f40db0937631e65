"""Rows of people survive a CSV file, and a bad one is refused by name."""

import csv
import io
from dataclasses import replace

import pytest

from w2wpp.world.people import sample_identity, sample_nuisance
from w2wpp.world.rows import identity_from_row, identity_row, nuisance_row


def test_rows_survive_a_csv_file():
    people = [sample_identity(seed) for seed in range(20)]
    rows = [identity_row(p) | nuisance_row(sample_nuisance(k)) for k, p in enumerate(people)]
    file = io.StringIO()
    writer = csv.DictWriter(file, rows[0])
    writer.writeheader()
    writer.writerows(rows)
    file.seek(0)
    assert [identity_from_row(row) for row in csv.DictReader(file)] == people


def test_a_bad_row_is_refused_by_name():
    row = identity_row(sample_identity(0))
    with pytest.raises(ValueError, match="person_age"):
        identity_from_row({k: v for k, v in row.items() if k != "person_age"})
    with pytest.raises(ValueError, match="must hold a number"):
        identity_from_row(row | {"person_age": "old"})
    with pytest.raises(ValueError, match="age must lie in"):
        identity_from_row(row | {"person_age": 1.5})
    with pytest.raises(ValueError, match="unknown hair_style"):
        replace(sample_identity(0), hair_style="mohawk")
    with pytest.raises(ValueError, match="unknown glasses"):
        identity_from_row(row | {"person_glasses": "monocle"})
    with pytest.raises(ValueError, match="glasses_rgb must be"):
        replace(sample_identity(0), glasses_rgb=(0.0, 0.0, 1.5))
    with pytest.raises(ValueError, match="yaw must lie in"):
        replace(sample_nuisance(0), yaw=120.0)
