"""Photos of people in folders with any content."""

import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from photo_files import encoded, scene
from PIL import Image, ImageOps

from w2wpp.faces.frames import align
from w2wpp.faces.photos import check_people, read_people
from w2wpp.faces.portraits import PortraitsParams
from w2wpp.files.errors import InputError


@pytest.fixture
def wanted(tmp_path, params):
    """Two validation and two test people with two photos each besides the first, in tmp_path/photos."""
    return params.portraits.model_copy(
        update={"path": str(tmp_path / "photos"), "photo_size": 64, "validation": 2, "test": 2, "score_photos": 2}
    )


@pytest.fixture
def photos(tmp_path, draw_people) -> Path:
    """A folder of four people with three photos each."""
    draw_people(tmp_path / "photos", 4, 3)
    return tmp_path / "photos"


def no_face(_: np.ndarray) -> list:
    return []


def refusal(function, *args) -> InputError:
    with pytest.raises(InputError) as caught:
        function(*args)
    assert str(caught.value).isprintable() and caught.value.remedy
    return caught.value


def reasons_of(found) -> dict[tuple[str, str], str]:
    return {(row["person"], row["file"]): row["reason"] for row in found.rejected}


def test_people_are_drawn_by_name_and_seed(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 6, 3)
    found = read_people(wanted, 0, no_face)
    assert found.photos.shape == (4, 3, 64, 64, 3) and found.photos.dtype == torch.uint8
    assert not found.rejected and not found.others and not any(row["face"] for row in found.rows)
    again = read_people(wanted, 0, no_face)
    assert torch.equal(found.photos, again.photos) and found.rows == again.rows
    assert {tuple(row["person"] for row in read_people(wanted, seed, no_face).rows) for seed in range(4)} != {
        tuple(row["person"] for row in found.rows)
    }


def test_what_is_no_photo_is_told(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 5, 3)
    first = tmp_path / "photos/Person 0"
    (first / "0.png").write_bytes((first / "0.png").read_bytes()[:300])
    whole = tmp_path / "photos/Person 2"
    (whole / "00.gif").touch()
    (whole / "000.png").mkdir()
    os.mkfifo(whole / "001.png")
    Image.new("RGB", (20, 200)).save(whole / "002.png")
    Image.fromarray(np.zeros((70, 90), np.uint8)).save(whole / "0x.png")  # grey, but a photo
    found = read_people(wanted, 0, no_face)
    assert {row["person"] for row in found.rows} == {f"Person {number}" for number in range(1, 5)}
    reasons = reasons_of(found)
    if ("Person 0", "") in reasons:  # unless the others were enough
        assert reasons["Person 0", "0.png"].startswith("a damaged PNG")
        assert reasons["Person 0", ""] == "2 photos can be read, expected at least 3"
    assert {file for person, file in reasons if person == "Person 2"} == {"00.gif", "000.png", "001.png", "002.png"}
    assert reasons["Person 2", "001.png"] == "not a regular file"
    assert "20 x 200 pixels" in reasons["Person 2", "002.png"]
    assert [row["file"] for row in found.rows if row["person"] == "Person 2"] == ["0.png", "0x.png", "1.jpg"]


def test_an_unreadable_photo_is_told_in_the_same_words_each_time(photos, wanted):
    (photos / "Person 0/00.jpg").write_bytes(b"")
    (photos / "Person 1/00.jpg").write_bytes(b"\xff\xd8\xff no photo")
    found, again = read_people(wanted, 0, no_face), read_people(wanted, 0, no_face)
    assert found.rejected == again.rejected
    assert reasons_of(found) == {
        ("Person 0", "00.jpg"): "an empty file; JPEG, PNG and WebP are read",
        ("Person 1", "00.jpg"): "a damaged JPEG (cannot identify image file)",
    }


def test_what_is_found_does_not_depend_on_the_order_of_a_directory(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "one", 4, 3)
    for number in range(30):
        (tmp_path / f"one/Person 1/0{number}.jpg").write_bytes(bytes(number))
        (tmp_path / f"one/{number}.txt").touch()
    for path in sorted((tmp_path / "one").rglob("*"), reverse=True):
        if path.is_file():
            copy = tmp_path / "other" / path.relative_to(tmp_path / "one")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)
    one, other = (
        read_people(wanted.model_copy(update={"path": str(tmp_path / folder)}), 0, no_face)
        for folder in ("one", "other")
    )
    assert len(one.rejected) == 30 and len(one.others) == 30
    assert one[1:] == other[1:] and torch.equal(one.photos, other.photos)


def test_too_few_people(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 4, 2)
    with pytest.raises(
        InputError,
        match=r"0 people with 3 photos each, expected 2 validation and 2 test people; the "
        r"first of 4 rejected, Person \d: 2 photos can be read.*"
        r"lower portraits\.validation, portraits\.test or portraits\.score_photos$",
    ):
        read_people(wanted, 0, no_face, "portraits")
    error = refusal(check_people, wanted)
    assert "0 people with 3 photos each, expected 2 validation and 2 test people" in str(error)
    assert error.remedy == refusal(read_people, wanted, 0, no_face).remedy
    assert error.remedy.startswith("Add people, or lower PortraitsParams.validation")


def test_photos_that_lie_loose_are_refused_before_any_is_read(tmp_path, wanted):
    (tmp_path / "photos").mkdir()
    for number in range(9):
        (tmp_path / f"photos/{number}.jpg").write_bytes(b"\xff\xd8\xff")
    for error in (refusal(check_people, wanted), refusal(read_people, wanted, 0, no_face)):
        assert error.reason.startswith("0 people with 3 photos each")
        assert error.reason.endswith("; photos that lie loose, in no person's folder: 9, such as 0.jpg")
        assert f"such as {tmp_path / 'photos/anna/1.jpg'} and {tmp_path / 'photos/bert/1.jpg'}" in error.remedy


def test_photos_a_folder_too_deep_are_refused_before_any_is_read(photos, wanted):
    deeper = wanted.model_copy(update={"path": str(photos.parent)})
    error = refusal(check_people, deeper)
    assert "photos in sub-folders of a person, as of photos, are not looked for" in error.reason
    assert "sub-folder named after them" in error.remedy


def test_files_that_begin_like_no_photo_are_refused_before_any_is_read(photos, wanted):
    for path in photos.glob("*/0.png"):
        path.write_bytes(b"\0\0\0\x18ftypheic")
    error = refusal(check_people, wanted)
    assert "Person 0, 0.png: a HEIC picture; JPEG, PNG and WebP are read" in error.reason
    assert error.remedy.startswith("Convert it; or add people, or lower ")
    (photos / "Person 9").mkdir()
    for path in photos.glob("*/0.png"):
        path.write_bytes(b"\x89PNG\r\n\x1a\n and nothing else")
    check_people(wanted)


def test_bystanders_are_listed_and_nobodys_fault(photos, wanted):
    before = read_people(wanted, 0, no_face)
    for name in ("Thumbs.db", "0.txt", "0.json", ".hidden.png", "._0.png"):
        (photos / "Person 1" / name).write_bytes(b"a photo of sks person")
        (photos / name).write_bytes(b"a photo of sks person")
    (photos / "Person 1/0").mkdir()
    for name in ("__MACOSX", ".git", "@eaDir"):
        (photos / name).mkdir()
        (photos / name / "0.png").touch()
    check_people(wanted)
    found = read_people(wanted, 0, no_face)
    assert found.rows == before.rows and found.rejected == []
    others = {(row["person"], row["file"]) for row in found.others}
    in_person = {"0.txt", "0.json", ".hidden.png", "._0.png", "0"}  # by name before the third photo
    assert others == {("Person 1", name) for name in in_person} | {
        ("", name) for name in ("Thumbs.db", "0.txt", "0.json", ".hidden.png", "._0.png", "__MACOSX", ".git", "@eaDir")
    }


@pytest.mark.parametrize(
    "name",
    [
        "José",
        "Зоя",
        "李 小龍",
        "हिन्दी",
        "عمر",
        "ยุทธ์",
        "Ann-Marie O'Neil",
        "Sammy D. Jr.",
        "Ng\u0169g\u0129 wa Thiong\u2019o",
        "\u0639\u0644\u06cc\u200c\u0631\u0636\u0627",
        "a" * 64,
        "Müller, Anna (1)",
    ],
)
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_in_any_script_are_stored_in_one_form(photos, wanted, name, form):
    (photos / "Person 3").rename(photos / unicodedata.normalize(form, name))
    (photos / "Person 2/0.png").rename(photos / "Person 2" / unicodedata.normalize(form, "0 é.png"))
    check_people(wanted)
    found = read_people(wanted, 0, no_face)
    assert {row["person"] for row in found.rows} == {
        unicodedata.normalize("NFC", name),
        "Person 0",
        "Person 1",
        "Person 2",
    }
    assert [row["file"] for row in found.rows if row["person"] == "Person 2"] == ["0 é.png", "1.jpg", "2.png"]


def test_who_is_validation_does_not_depend_on_how_a_name_is_composed(photos, wanted):
    splits = []
    for form in ("NFC", "NFD"):
        old = next(path for path in photos.iterdir() if path.name not in ("Person 0", "Person 1", "Person 2"))
        old.rename(photos / unicodedata.normalize(form, "Zoé"))
        splits.append([(row["person"], row["split"]) for row in read_people(wanted, 0, no_face).rows])
    assert splits[0] == splits[1]


def test_two_folders_of_one_name_are_refused(photos, wanted):
    for name in ("José", "Jose\u0301"):
        (photos / name).mkdir()
    for error in (refusal(check_people, wanted), refusal(read_people, wanted, 0, no_face)):
        assert r"'Jose\u0301' and 'Jos\xe9' are one name" in error.reason


@pytest.mark.parametrize(
    "name",
    [
        "a\nb",
        "$x^2$",
        "..x",
        "a<b>",
        " a",
        "a ",
        "-a",
        "a" * 65,
        "𐌰" * 50,
        "a\\b",
        "\udcff",
        "\u202ea",
        "\u0301a",
        "a\x7f",
        "😀",
    ],
)
def test_hostile_names_of_people_are_refused(photos, wanted, name):
    (photos / name).mkdir()
    if name.startswith("."):  # hidden, and so nobody
        assert read_people(wanted, 0, no_face).photos.shape[0] == 4
        return
    for error in (refusal(check_people, wanted), refusal(read_people, wanted, 0, no_face)):
        assert error.reason == "no plain name of a person"


@pytest.mark.parametrize("place", ["person", "photo", "loop"])
def test_symbolic_links_are_refused(photos, wanted, place):
    link = photos / {"person": "Person 9", "photo": "Person 2/00.png", "loop": "Person 2/00"}[place]
    link.symlink_to({"person": photos / "Person 1", "photo": "/etc/passwd", "loop": photos}[place])
    for error in (refusal(check_people, wanted), refusal(read_people, wanted, 0, no_face)):
        assert error.reason == "a symbolic link"


def test_photos_are_turned_as_they_were_taken(photos, wanted):
    photo = photos / "Person 0/0.png"
    upright = Image.open(photo).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    upright.transpose(Image.Transpose.ROTATE_90).save(photo, exif=exif)
    found = read_people(wanted, 0, no_face)
    person = [row["person"] for row in found.rows[::3]].index("Person 0")
    np.testing.assert_array_equal(found.photos[person, 0].numpy(), np.asarray(align(upright, None, 64)))


def again(picture: Image.Image, change: str) -> bytes:
    """The bytes of a copy of a picture."""
    if change == "larger":
        return encoded(picture.resize((200, 240), Image.Resampling.LANCZOS), "JPEG", "RGB", quality=80)
    if change == "grey":
        return encoded(picture, "PNG", "L")
    if change == "mirrored":
        return encoded(ImageOps.mirror(picture), "WEBP", "RGB", quality=90)
    exif = Image.Exif()
    exif[0x0112] = 3
    return encoded(picture.rotate(180), "JPEG", "RGB", quality=95, exif=exif)


@pytest.mark.parametrize("change", ["bytes", "larger", "grey", "mirrored", "turned"])
def test_a_photo_that_is_inverted_is_none_that_it_is_scored_against(photos, wanted, change):
    original = photos / "Person 1/0.png"
    picture = scene(3, (160, 192))
    picture.save(original)
    copy = photos / "Person 1/0 (1).jpg"  # by name before the other
    copy.write_bytes(original.read_bytes() if change == "bytes" else again(picture, change))
    found = read_people(wanted, 0, no_face)
    assert reasons_of(found)["Person 1", "0.png"] == "a copy of 0 (1).jpg"
    assert [row["file"] for row in found.rows if row["person"] == "Person 1"] == ["0 (1).jpg", "1.jpg", "2.png"]


def test_too_few_photos_are_left_when_copies_are_not_counted(photos, wanted):
    shutil.copy(photos / "Person 1/0.png", photos / "Person 1/1.jpg")
    error = refusal(read_people, wanted, 0, no_face)
    assert "3 people with 3 photos each" in error.reason
    assert "the first of 2 rejected, Person 1, 1.jpg: a copy of 0.png" in error.reason
    assert error.remedy.startswith("Give another photo; or add people")


def test_other_photos_of_a_scene_are_no_copies(photos, wanted):
    """A smile, a blink, a step aside: differences between consecutive photos."""
    picture = scene(5, (400, 480))
    smile, aside = picture.copy(), picture.crop((12, 0, 400, 480))
    smile.paste(scene(6, (50, 25)), (180, 300))
    for number, photo in enumerate((picture, smile, aside)):
        photo.save(photos / f"Person 1/{number}.{'jpg' if number == 1 else 'png'}")
    found = read_people(wanted, 0, no_face)
    assert found.rejected == [] and sum(row["person"] == "Person 1" for row in found.rows) == 3


def test_a_photo_of_two_people_is_told(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 4, 4)
    shutil.copy(tmp_path / "photos/Person 1/0.png", tmp_path / "photos/Person 2/0.png")
    found = read_people(wanted, 0, no_face)
    (row,) = found.rejected
    later, earlier = ("Person 1", "Person 2") if row["person"] == "Person 1" else ("Person 2", "Person 1")
    assert row == {
        "person": later,
        "file": "0.png",
        "reason": f"a copy of 0.png of {earlier}, so that whom it shows is not sure",
        "remedy": "Give another photo",
    }
    assert [each["file"] for each in found.rows if each["person"] == later] == ["1.jpg", "2.png", "3.jpg"]


def test_somebody_whose_photos_are_all_anothers_is_nobody(tmp_path, wanted, draw_people):
    draw_people(tmp_path / "photos", 4, 3)
    shutil.copytree(tmp_path / "photos/Person 1", tmp_path / "photos/Another")
    found = read_people(wanted, 0, no_face)
    people = {row["person"] for row in found.rows}
    assert len(people) == 4 and len(people & {"Person 1", "Another"}) == 1


def test_the_largest_face_is_taken_and_all_are_counted(photos, wanted):
    def find(picture: np.ndarray) -> list[tuple[complex, complex]]:
        return [(0.5 + 0j, 10 + 12j), (0.2 + 0j, 0j)] if picture[0, 0, 0] > 100 else []

    found = read_people(wanted, 0, find)
    assert {row["faces"] for row in found.rows} == {0, 2}
    for row, seen in zip(found.rows, found.photos.flatten(0, 1), strict=True):
        picture = Image.open(photos / row["person"] / row["file"]).convert("RGB")
        frames = find(np.asarray(picture))
        assert row["face"] == bool(frames) and row["faces"] == len(frames)
        np.testing.assert_array_equal(seen.numpy(), align(picture, frames[0] if frames else None, 64))


def test_the_folder_may_be_given_from_home(photos, wanted, monkeypatch):
    monkeypatch.setenv("HOME", str(photos.parent))
    home = PortraitsParams.model_validate(wanted.model_dump() | {"path": "~/photos"})
    check_people(home)
    assert read_people(home, 0, no_face).rows == read_people(wanted, 0, no_face).rows


def test_a_folder_that_cannot_be_read(tmp_path, wanted):
    for path in (tmp_path / "absent", tmp_path / "a\0b"):
        error = refusal(check_people, wanted.model_copy(update={"path": str(path)}))
        assert error.reason.startswith("cannot be read") and "bert/1.jpg" in error.remedy
