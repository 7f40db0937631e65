"""People and attributes of the published rows, and their splits."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from w2w_files import TOY, pack, publish, published_table, refused

from w2wpp.files.errors import InputError
from w2wpp.ingest import w2w_people
from w2wpp.ingest.w2w_people import ATTRIBUTES, SPLITS, assign_splits, read_people


def test_attributes_are_those_of_celeba():
    assert len(ATTRIBUTES) == len(set(ATTRIBUTES)) == 40
    assert list(ATTRIBUTES) == sorted(ATTRIBUTES)


TABLE = published_table([7, 8, 7])


@pytest.mark.parametrize(
    ("change", "key", "reason"),
    [
        (lambda table: table.drop(columns="identity"), "identity", "column missing"),
        (lambda table: table.drop(columns="Young"), "Young", "column missing"),
        (lambda table: table.assign(Bald=[1, 0, -1]), "Bald", "0' in row 1, expected -1 or 1"),
        (lambda table: table.assign(Bald=[1, 1, 2]), "Bald", "2' in row 2, expected -1 or 1"),
        (lambda table: table.assign(Bald=[None, 1, -1]), "Bald", "in row 0, expected -1 or 1"),
        (lambda table: table.assign(Bald=["x", "1", "-1"]), "Bald", "'x' in row 0, expected -1 or 1"),
        (lambda table: table.assign(identity=["a\x1b", "b", "c"]), "identity", "unprintable"),
        (lambda table: table.assign(identity=["a" * 400, "b", "c"]), "identity", "overlong name"),
    ],
)
@pytest.mark.parametrize("suffix", [".csv", ".pt"])
def test_other_tables_are_refused(tmp_path, change, key, reason, suffix):
    path = tmp_path / f"identity_df{suffix}"
    table = change(TABLE)
    table.to_csv(path, index_label="index") if suffix == ".csv" else torch.save(table, path)
    error = refused(read_people, path)
    assert error.where == str(path)
    if "\x1b" not in str(table["identity"].iloc[0] if "identity" in table else ""):
        assert error.key == key
        assert reason.replace("'", "") in error.reason.replace("'", "").replace("np.int64(", "").replace(")", "")


def test_people_without_names(tmp_path):
    table = TABLE.reset_index().assign(identity=[7.0, None, 8.0])
    for path in (tmp_path / "x.csv", tmp_path / "x.pt"):
        table.to_csv(path, index_label="index") if path.suffix == ".csv" else torch.save(table, path)
        people = read_people(path)
        assert people["person"].tolist() == ["7", "", "8"]
        assert people["file"].tolist() == ["000100.jpg", "000101.jpg", "000102.jpg"]
    torch.save(table.drop(columns="file").assign(more=1), tmp_path / "x.pt")
    assert list(read_people(tmp_path / "x.pt").columns) == ["person", *ATTRIBUTES]


def test_names_that_look_like_numbers_stay_as_they_are(tmp_path, normal):
    names = ["007", "7", "v1.0", "1e5", "nan"] * 8
    data = pack(publish(tmp_path / "w2w", normal(40, TOY.dimension), names), tmp_path)
    assert data.people["person"].tolist() == [names[row] for row in data.people["row"]]


CSV = TABLE.to_csv(index_label="index").encode()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "column missing"),
        (b"\n", "column missing"),
        (CSV + b"1,2\n", "2 values for 42 columns in line 5"),
        (CSV.replace(b"000100", b"\xff\xfe"), "not a sound CSV"),
        (CSV.replace(b"Bald,", b"Bangs,"), "given twice"),
        (CSV.replace(b"000100", b"0\x000"), "NUL"),
        (CSV + b'"', "not a sound CSV"),
        (CSV.replace(b"000100", b"x" * 200_000), "field larger"),
        (CSV + CSV, "expected -1 or 1"),
    ],
)
def test_bad_csv(tmp_path, content, reason):
    (tmp_path / "x.csv").write_bytes(content)
    assert reason in str(refused(read_people, tmp_path / "x.csv"))


def test_large_csv(tmp_path, monkeypatch):
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbf" + CSV)
    assert read_people(tmp_path / "x.csv")["person"].tolist() == ["7", "8", "7"]
    monkeypatch.setattr(w2w_people, "MAX_CSV_BYTES", 100)
    assert "more than 100 bytes" in refused(read_people, tmp_path / "x.csv").reason


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(max_size=2)), max_size=5), st.floats(0, 1))
def test_damaged_csv(tmp_path, changes, kept):
    content = CSV
    for place, text in changes:
        place = int(place * len(content))
        content = content[:place] + text + content[place + 1 :]
    (tmp_path / "x.csv").write_bytes(content[: int(kept * len(content))] if kept < 0.5 else content)
    try:
        people = read_people(tmp_path / "x.csv")
    except InputError as error:
        assert str(error).isprintable()
    else:
        assert people[list(ATTRIBUTES)].isin([-1, 1]).all(axis=None)
        assert all(type(person) is str and person.isprintable() for person in people["person"])


names = st.text(st.characters(categories=["Ll", "Nd"]), max_size=3)


@settings(max_examples=200, deadline=None)
@given(st.lists(names, max_size=60), st.integers(0, 5), st.floats(0, 0.49), st.floats(0, 0.49), st.randoms())
def test_splits(people, seed, validation, test, rng):
    splits = assign_splits(people, seed, validation, test)
    split = dict(zip(people, splits, strict=True))
    assert splits == [split[person] for person in people]
    assert split.pop("", "") == ""
    for name, share in (("test", test), ("validation", validation)):
        count = sum(each == name for each in split.values())
        assert count == (max(1, round(share * len(split))) if share else 0) or count == len(split) or len(split) < 3
    shuffled = rng.sample(people, len(people))
    assert assign_splits(shuffled + people, seed, validation, test)[: len(people)] == [
        split.get(person, "") for person in shuffled
    ]


def test_splits_by_seed_and_share():
    people = [str(number) for number in range(1000)]
    first, second = (assign_splits(people, seed, 0.1, 0.05) for seed in (0, 1))
    assert [first.count(split) for split in SPLITS] == [850, 100, 50]
    assert 0.6 < np.mean([a == b for a, b in zip(first, second, strict=True)]) < 0.85
    more = assign_splits([*people, "new"], 0, 0.1, 0.05)
    assert sum(a != b for a, b in zip(first, more[:-1], strict=True)) <= 2
    for shares in ((-0.1, 0), (0.5, 0.5), (float("nan"), 0)):
        with pytest.raises(ValueError, match="expected at least 0"):
            assign_splits(people, 0, *shares)
