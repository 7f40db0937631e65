"""The published files are found in a folder, in the Hub's cache or on the Hub."""

import shutil
from pathlib import Path

import huggingface_hub
import pytest
from w2w_files import contents, pack, publish, refused

from w2wpp.ingest import w2w_source
from w2wpp.ingest.w2w_source import REPOSITORY, REVISION, SUBFOLDER, W2WFiles, find_files


def test_files_in_a_folder(tmp_path):
    below = tmp_path / SUBFOLDER
    below.mkdir(parents=True)
    for name in ("all_weights.pt", "identity_df.pt"):
        error = refused(find_files, tmp_path)
        assert (error.where, error.key, error.reason) == (str(tmp_path), name, "no such file")
        (below / name).touch()
    assert find_files(str(tmp_path)) == W2WFiles(below / "all_weights.pt", below / "identity_df.pt")
    (tmp_path / "all_weights.pt").symlink_to(below / "all_weights.pt")
    assert find_files(tmp_path) == W2WFiles(tmp_path / "all_weights.pt", below / "identity_df.pt")
    (below / "identity_df.csv").touch()
    assert find_files(tmp_path).identities == below / "identity_df.csv"
    (below / "identity_df.pt").unlink()
    assert find_files(tmp_path).identities == below / "identity_df.csv"
    assert find_files(below).identities == below / "identity_df.csv"


def test_the_refusal_says_what_to_put_where(tmp_path):
    message = str(refused(find_files, tmp_path, revision="a" * 40))
    for part in (f"{SUBFOLDER}/all_weights.pt", f"{SUBFOLDER}/identity_df.pt", "a" * 40, REPOSITORY, str(tmp_path)):
        assert part in message
    assert len(REVISION) == 40


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the Hub's client, without access to the Hub."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path / "hub"


def test_files_in_the_cache(hub_cache, tmp_path, normal):
    error = refused(find_files)
    assert (error.where, error.key) == (REPOSITORY, None)
    assert "HF_HUB_OFFLINE is set" in error.reason
    assert REVISION in error.remedy and "all_weights.pt (25.9 GB)" in error.remedy
    files = publish(tmp_path / "w2w", normal(30, 30))
    snapshot = hub_cache / f"models--{REPOSITORY.replace('/', '--')}/snapshots/{REVISION}/{SUBFOLDER}"
    blobs = snapshot.parents[3] / "blobs"
    for folder in (snapshot, blobs):
        folder.mkdir(parents=True)
    for name, path in (("identity_df.pt", files.identities), ("all_weights.pt", files.weights)):
        refused(find_files)
        shutil.copy(path, blobs / name)
        (snapshot / name).symlink_to(blobs / name)
    assert find_files() == W2WFiles(snapshot / "all_weights.pt", snapshot / "identity_df.pt")
    refused(find_files, revision="b" * 40)
    pack(files, tmp_path / "a")
    pack(find_files(), tmp_path / "b")
    assert contents(tmp_path / "a/out") == contents(tmp_path / "b/out")


@pytest.mark.parametrize(("value", "offline"), [("1", True), ("yes", True), ("0", False), ("", False)])
def test_downloads_are_of_the_pinned_revision(hub_cache, tmp_path, monkeypatch, value, offline):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    requests = []

    def download(repository, name, revision, local_files_only):
        requests.append((repository, name, revision, local_files_only))
        return str(tmp_path / Path(name).name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    assert find_files() == W2WFiles(tmp_path / "all_weights.pt", tmp_path / "identity_df.pt")
    assert requests == [
        (REPOSITORY, f"{SUBFOLDER}/{name}", REVISION, offline) for name in ("identity_df.pt", "all_weights.pt")
    ]


@pytest.mark.parametrize("error", [OSError("no\nroute"), ConnectionError(), ValueError("x"), RuntimeError("x" * 1000)])
def test_failing_downloads_are_one_line(hub_cache, monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    caught = refused(find_files)
    assert caught.where == REPOSITORY
    assert len(str(caught)) < 1200
    assert w2w_source.WEIGHTS in caught.remedy
