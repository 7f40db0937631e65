"""Folders are listed in one order, up to a number of names."""

from pathlib import Path

import pytest

from w2wpp.files.errors import InputError
from w2wpp.files.folders import children, entries, expanded
from w2wpp.ingest.names import names_within


def test_folders_of_too_many_names_are_not_listed(tmp_path):
    for number in range(5):
        (tmp_path / str(number)).touch()
    assert [entry.name for entry in children(tmp_path, "x", limit=5)] == list("01234")
    with pytest.raises(InputError, match="more than 4 names"):
        children(tmp_path, "x", limit=4)
    assert [entry.name for entry in entries(tmp_path, counted=2, limit=7)] == list("01234")
    with pytest.raises(InputError, match=r"^whole: more than 6 names"):
        entries(tmp_path, "whole", counted=2, limit=6)


def test_names_in_folders_of_a_folder_are_counted_together(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.safetensors").touch()
    assert sorted(names_within(tmp_path, limit=6)) == [(f"{name}/0.safetensors", "", "") for name in "abc"]
    with pytest.raises(InputError) as caught:
        list(names_within(tmp_path, limit=5))
    assert (caught.value.where, caught.value.reason) == (str(tmp_path), "more than 5 names")


def test_a_folder_that_cannot_be_read_has_a_remedy(tmp_path):
    with pytest.raises(InputError) as caught:
        children(tmp_path / "absent", "Give another")
    assert caught.value.reason == "cannot be read (No such file or directory)"
    assert caught.value.remedy == "Give another"


def test_home_is_expanded_where_it_is_known(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/loras") == tmp_path / "loras" == expanded(Path("~/loras"))
    for path in ("~nobody-here/loras", "a/~/b", "~", "x~"):
        assert expanded(path) == (tmp_path if path == "~" else Path(path))
