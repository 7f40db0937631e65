"""Groups of people, and packs of their photos."""

import pytest
import torch

from w2wpp.faces.portraits import read_portraits, write_portraits
from w2wpp.files.errors import InputError
from w2wpp.world.populations import GROUPS, held_out_people, manifest_rows, person_names, sample_people
from w2wpp.world.rows import identity_from_row


def test_groups_share_nobody_and_counts_may_grow():
    groups = {group: sample_people(3, group, 20, 2) for group in GROUPS}
    everyone = [identity for people in groups.values() for identity, _ in people]
    assert len(set(everyone)) == len(everyone)
    assert sample_people(3, "zoo", 5, 2) == groups["zoo"][:5]
    assert sample_people(4, "zoo", 5, 2) != groups["zoo"][:5]


def test_held_out_people_are_validation_then_test(params):
    names, splits, people = held_out_people(0, params.portraits)
    assert splits == ["validation"] * params.portraits.validation + ["test"] * params.portraits.test
    assert len(names) == len(set(names)) == len(people)
    assert people[params.portraits.validation :] == sample_people(
        0, "test", params.portraits.test, params.portraits.photos
    )


def test_portraits_round_trip(tmp_path):
    people = sample_people(0, "zoo", 3, 2)
    images = torch.randint(256, (3, 2, 8, 8, 3), dtype=torch.uint8)
    write_portraits(tmp_path, images, manifest_rows(person_names("zoo", 3), ["zoo", "zoo", "test"], people))
    portraits = read_portraits(tmp_path)
    assert torch.equal(portraits.images, images)
    assert portraits.names == person_names("zoo", 3)
    assert portraits.splits == ["zoo", "zoo", "test"]
    first = portraits.manifest.drop_duplicates("person").to_dict("records")
    assert [identity_from_row(row) for row in first] == [identity for identity, _ in people]


def test_manifest_of_other_photos_is_refused(tmp_path):
    people = sample_people(0, "zoo", 3, 2)
    write_portraits(
        tmp_path,
        torch.zeros(2, 2, 8, 8, 3, dtype=torch.uint8),
        manifest_rows(person_names("zoo", 3), ["zoo"] * 3, people),
    )
    with pytest.raises(InputError, match=r"manifest\.csv"):
        read_portraits(tmp_path)
