"""The shipped probe agrees with labels by eye as docs/protocol.md says."""

import pytest
import torch
from imports import ROOT
from probe_agreement import agreement, read_labels, table

from w2wpp.world.probes import load_probe


@pytest.fixture(scope="module")
def labelled():
    return read_labels()


def test_the_page_has_the_table(labelled):
    rows = agreement(load_probe(ROOT / "data/probe/probe.safetensors", 64), *labelled)
    assert table(rows) in (ROOT / "docs/protocol.md").read_text()
    assert all(row["agree on obedience"] > 0.9 for row in rows.values())


def test_pictures_are_cut_from_the_sheet_row_by_row(labelled):
    pictures, labels = labelled
    assert pictures.shape == (256, 64, 64, 3) and labels["picture"].tolist() == list(range(256))
    corners = pictures[:, :4, [0, 1, -2, -1]].double().mean((1, 2, 3))
    white, dark = (torch.tensor((labels["label"] == label).tolist()) for label in ("white", "dark"))
    assert corners[white].median() > 150 > 60 > corners[dark].median()
