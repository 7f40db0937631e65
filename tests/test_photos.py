"""Photos of people in folders, whatever is in them."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from w2wpp.faces.frames import align
from w2wpp.faces.photos import read_people
from w2wpp.files.errors import InputError


@pytest.fixture
def wanted(tmp_path, params):
    """Two validation and two test people with two photos each besides the first, in tmp_path/photos."""
    return params.portraits.model_copy(update={"path": str(tmp_path / "photos"), "photo_size": 64, "validation": 2,
                                               "test": 2, "score_photos": 2})


def no_face(_: np.ndarray) -> None:
    return None


def test_people_are_drawn_by_name_and_seed(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 6, 3)
    (tmp_path / "photos/.hidden").mkdir()
    (tmp_path / "photos/notes.txt").write_text("x")
    photos, rows, rejected = read_people(wanted, 0, no_face)
    assert photos.shape == (4, 3, 64, 64, 3) and photos.dtype == torch.uint8
    assert not rejected and not any(row["face"] for row in rows)
    again = read_people(wanted, 0, no_face)
    assert torch.equal(photos, again[0]) and rows == again[1]
    assert {tuple(row["person"] for row in read_people(wanted, seed, no_face)[1]) for seed in range(4)} != {
        tuple(row["person"] for row in rows)}


def test_what_is_no_photo_is_told(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 5, 3)
    first = tmp_path / "photos/Person 0"
    (first / "0.png").write_bytes((first / "0.png").read_bytes()[:300])
    whole = tmp_path / "photos/Person 2"
    (whole / "00.txt").write_text("x")
    (whole / "00.gif").touch()
    (whole / "000.png").mkdir()
    os.mkfifo(whole / "001.png")
    Image.new("RGB", (20, 200)).save(whole / "002.png")
    Image.fromarray(np.zeros((70, 90), np.uint8)).save(whole / "0x.png")   # grey, but a photo
    _, rows, rejected = read_people(wanted, 0, no_face)
    assert {row["person"] for row in rows} == {f"Person {number}" for number in range(1, 5)}
    told = {(row["person"], row["file"]): row["reason"] for row in rejected}
    if ("Person 0", "") in told:    # unless the others were enough
        assert "no readable picture" in told["Person 0", "0.png"]
        assert told["Person 0", ""] == "2 photos can be read, expected at least 3"
    assert {file for person, file in told if person == "Person 2"} == {"00.txt", "00.gif", "000.png", "001.png",
                                                                       "002.png"}
    assert told["Person 2", "001.png"] == "not a regular file"
    assert "20 x 200 pixels" in told["Person 2", "002.png"]
    assert [row["file"] for row in rows if row["person"] == "Person 2"] == ["0.png", "0x.png", "1.jpg"]


def test_too_few_people(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 4, 2)
    with pytest.raises(InputError, match=r"0 people with 3 photos each, expected 2 validation and 2 test people; the "
                                         r"first of 4 rejected, Person \d: 2 photos can be read.*lower portraits"):
        read_people(wanted, 0, no_face)


@pytest.mark.parametrize("name", ["a\nb", "$x^2$", "..x", "a<b>", " a", "a" * 70, "a\\b", "\udcff"])
def test_hostile_names_of_people_are_refused(tmp_path, wanted, draw_people, name):
    draw_people(tmp_path / "photos", 4, 3)
    (tmp_path / "photos" / name).mkdir()
    if name.startswith("."):    # hidden, and so nobody
        assert read_people(wanted, 0, no_face)[0].shape[0] == 4
        return
    with pytest.raises(InputError, match="no plain name of a person") as caught:
        read_people(wanted, 0, no_face)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("what", ["person", "photo"])
def test_symbolic_links_are_refused(tmp_path, wanted, draw_people, what):
    draw_people(tmp_path / "photos", 4, 3)
    link = tmp_path / "photos" / ("Person 9" if what == "person" else "Person 2/00.png")
    link.symlink_to(tmp_path / "photos/Person 1" if what == "person" else "/etc/passwd")
    with pytest.raises(InputError, match="a symbolic link"):
        read_people(wanted, 0, no_face)


def test_photos_are_turned_as_they_were_taken(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 4, 3)
    photo = tmp_path / "photos/Person 0/0.png"
    upright = Image.open(photo).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6    # to be turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif)
    seen, rows, _ = read_people(wanted, 0, no_face)
    person = [row["person"] for row in rows[::3]].index("Person 0")
    expected = np.asarray(align(upright, None, 64))
    np.testing.assert_array_equal(seen[person, 0].numpy(), expected)
