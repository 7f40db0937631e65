"""Rows of the sweep are settings of the pipeline."""

import pytest

from w2wpp.evaluation.sweep_rows import fits, named, tables
from w2wpp.files.errors import InputError


def test_settings_of_every_row_are_settings(params):
    rows = [row for some in tables(params.sweep, 2000).values() for row in some]
    assert len({row.name for row in rows}) == len(set(rows))
    for row in rows:
        settings = row.settings(params)
        assert [settings.latent_dim(space) for space in ("pca", "linear", "vae")] == [row.latent_dim] * 3
        assert (settings.vae.seed, settings.flatten.people) == (row.seed, row.people)
    by_variance = {row.latent_dim for row in rows if row.variant == "PCA" and row.changes}
    assert by_variance == {256, 512, 1999}


def test_parts_are_left_out_one_at_a_time(params):
    rows = tables(params.sweep, 2000)["rungs"]
    changed = {row.variant: row.settings(params) for row in rows}
    assert len(changed) == 16 and {(row.latent_dim, row.people, row.seed) for row in rows} == {(64, 2000, 0)}
    assert changed["VAE of weights"].vae.metric == "weights"
    assert changed["VAE, by variance alone"].linear.within_person_ridge is None
    assert changed["PCA, searched as in w2w"].invert.region == (0, 0, 1, 1)
    assert changed["PCA, searched from the mean"].photo_encoder.photos == 0
    assert changed["PCA"].invert == changed["PCA, searched from the mean"].invert == params.invert


def test_rows_take_the_people_that_they_learn_from(params):
    rows = [row for some in tables(params.sweep, 1000).values() for row in some]
    assert {row.name for row in rows if not fits(row, 1000)} == {
        f"{variant}-{k}-0-{people}"
        for variant in ("PCA", "function-weighted-PCA", "VAE")
        for k, people in ((1999, 1000), (64, 1024), (64, 2000))
    }


def test_rows_are_found_by_name(params):
    rows = tables(params.sweep, 1000)["dimensions"]
    assert [(row.variant, row.latent_dim) for row in named(rows, ["VAE-8-0-1000", "PCA-16-0-1000"])] == [
        ("VAE", 8),
        ("PCA", 16),
    ]
    with pytest.raises(InputError, match=r"--rows: no row 'VAE-9-0-1000'\. There are PCA-8-0-1000, "):
        named(rows, ["VAE-9-0-1000"])
