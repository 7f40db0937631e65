"""Splits are stable: they depend on a hash of seed and name, not on order or other people."""

from hypothesis import given
from hypothesis import strategies as st

from w2wpp.faces.photos import read_people
from w2wpp.files.splits import drawn_order
from w2wpp.ingest.w2w_people import assign_splits

NAMES = [f"Person {number}" for number in range(6)]


@given(st.sets(st.text(max_size=5), max_size=20), st.integers(0, 2**32), st.sampled_from([":", " "]))
def test_the_order_of_some_is_that_among_all(names, seed, salt):
    order = drawn_order(names, seed, salt)
    assert sorted(order) == sorted(names)
    some = [name for name in sorted(names) if len(name) != 2]
    assert drawn_order(some, seed, salt) == [name for name in order if name in some]


def test_seed_and_salt_change_the_order():
    orders = {tuple(drawn_order(NAMES, seed, salt)) for seed in (0, 1) for salt in (":", " ")}
    assert len(orders) == 4


# Draws must not change. Orders are those of `printf '0:Person 5' | sha256sum` and so on.
def test_loras_keep_their_split():
    assert drawn_order(NAMES, 0, ":") == [f"Person {number}" for number in (5, 1, 0, 4, 3, 2)]
    splits = assign_splits([*NAMES, "", "Person 1"], 0, 0.2, 0.2)
    assert splits == ["zoo", "validation", "zoo", "zoo", "zoo", "test", "", "validation"]


def test_photos_keep_their_split(params, draw_people, tmp_path):
    assert drawn_order(NAMES, 0, " ") == [f"Person {number}" for number in (3, 2, 4, 5, 1, 0)]
    draw_people(tmp_path, 6, 3)
    settings = params.portraits.model_copy(
        update={"path": str(tmp_path), "validation": 2, "test": 2, "score_photos": 2, "photo_size": 32}
    )
    found = read_people(settings, 0, lambda photo: [])
    assert {row["person"]: row["split"] for row in found.rows} == {
        "Person 2": "validation",
        "Person 3": "validation",
        "Person 4": "test",
        "Person 5": "test",
    }
