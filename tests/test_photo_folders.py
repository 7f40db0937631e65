"""Folders of photos with any content give what they were made of, and the fuzz run would notice if they did not."""

import random

import fuzz_photos
import photo_folders
import pytest
from PIL import Image

from w2wpp.files.errors import InputError

QUICK = tuple(thing for thing in photo_folders.THINGS if thing is not photo_folders.crowd)


@pytest.mark.parametrize("thing", QUICK, ids=lambda thing: thing.__name__)
def test_folders_of_all_kinds_give_what_they_were_made_of(tmp_path, thing):
    read = 0
    for number in range(4):
        case = photo_folders.Made(tmp_path / str(number), random.Random(number), number)
        thing(case)
        try:
            found = photo_folders.read_folder(case.folder, number)
        except InputError:
            assert not case.sound
        else:
            assert photo_folders.folder_fault(found, case, number) is None
            read += 1
    assert thing is not photo_folders.nothing or read > 0


def test_fuzz_run_finds_nothing_and_would_find_something(monkeypatch):
    monkeypatch.setattr(fuzz_photos, "THINGS", QUICK)
    tally = fuzz_photos.fuzz(60, seed=1)
    assert tally.failures == []
    assert sum(sum(each.values()) for each in tally.counts.values()) == 60
    monkeypatch.setattr(fuzz_photos, "read_picture", lambda path: Image.new("RGB", (90, 80)))
    failures = fuzz_photos.fuzz(30, seed=1).failures
    for words in ("another picture", "no picture to Pillow"):
        assert any(words in line for line in failures)
    monkeypatch.setattr(fuzz_photos, "read_picture", lambda path: [].pop())
    assert any("crashed" in line for line in fuzz_photos.fuzz(3, seed=1).failures)


def test_a_copy_that_is_not_told_would_be_found(tmp_path, monkeypatch):
    monkeypatch.setattr("w2wpp.faces.photos.SAME", -1.0)
    case = photo_folders.Made(tmp_path, random.Random(0), 0)
    photo_folders.copies(case)
    assert photo_folders.folder_fault(photo_folders.read_folder(tmp_path, 0), case, 0) == "a photo twice"
