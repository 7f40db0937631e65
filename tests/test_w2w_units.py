"""Packing that is interrupted, at any moment, resumes to the same bytes."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from w2w_files import TOY, contents, draw_people, pack, publish, refused

from w2wpp.ingest import w2w_data, w2w_units
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_units import pack_unit


@pytest.fixture
def toy(tmp_path, normal):
    """Weights of 30 rows, and the files that they are in."""
    weights = normal(30, TOY.dimension)
    return weights, publish(tmp_path / "w2w", weights)


@pytest.fixture
def whole(toy, tmp_path):
    """The bytes of an uninterrupted run."""
    pack(toy[1], tmp_path / "whole")
    return contents(tmp_path / "whole/out")


@pytest.mark.parametrize("unit", range(4))
@pytest.mark.parametrize("moment", ["write_shard", "write_json"])
def test_resumed_equals_uninterrupted(toy, tmp_path, whole, monkeypatch, unit, moment):
    module = w2w_units if moment == "write_shard" else w2w_data
    real, done = getattr(module, moment), []

    def interrupted(*args):
        if len(done) == unit:
            raise KeyboardInterrupt
        done.append(real(*args))
        return done[-1]

    with monkeypatch.context() as patch:
        patch.setattr(module, moment, interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(toy[1], tmp_path)
    assert not (tmp_path / "out").exists()
    finished, packed = len(list(tmp_path.glob("scratch/*/*.json"))), []
    assert moment == "write_shard" or finished == unit
    monkeypatch.setattr(w2w_data, "pack_unit", lambda number, *rest: packed.append(number) or pack_unit(number, *rest))
    pack(toy[1], tmp_path)
    assert packed == list(range(finished, 4))
    assert contents(tmp_path / "out") == whole


@pytest.mark.parametrize(
    "damage", [Path.unlink, Path.touch, lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")]
)
def test_a_shard_that_is_not_what_was_written_is_made_again(toy, tmp_path, whole, monkeypatch, damage):
    with monkeypatch.context() as patch:
        patch.setattr(w2w_data, "_write_manifest", lambda *args: [].pop())
        with pytest.raises(IndexError):
            pack(toy[1], tmp_path)
    (shard,) = tmp_path.glob("scratch/*/data/zoo/000002.safetensors")
    damage(shard)
    packed = []
    monkeypatch.setattr(w2w_data, "pack_unit", lambda number, *rest: packed.append(number) or pack_unit(number, *rest))
    pack(toy[1], tmp_path)
    assert packed == ([] if damage is Path.touch else [2])
    assert contents(tmp_path / "out") == whole


def test_other_settings_or_files_begin_anew(toy, tmp_path, normal, monkeypatch):
    monkeypatch.setattr(w2w_data, "_write_manifest", lambda *args: [].pop())
    for change in ({}, {"seed": 1}, {"dtype": torch.float32}, {"rows_per_shard": 9}, {"test": 0.1}):
        with pytest.raises(IndexError):
            pack(toy[1], tmp_path, **change)
    for files in (publish(tmp_path / "other", normal(30, 30)), publish(tmp_path / "third", toy[0], draw_people(30, 1))):
        with pytest.raises(IndexError):
            pack(files, tmp_path)
    assert len(list((tmp_path / "scratch").iterdir())) == 7


def test_killed_at_any_moment(tmp_path, normal, fork):
    weights = normal(200, TOY.dimension)
    files = publish(tmp_path / "w2w", weights)
    began = time.monotonic()
    pack(files, tmp_path / "whole", rows_per_shard=8)
    seconds, rng, ends = time.monotonic() - began, random.Random(0), []
    for number in range(60):
        child = fork(lambda: pack(files, tmp_path, rows_per_shard=8))
        # Longer and longer, so that the first kills come early however fast the machine is now.
        time.sleep(rng.uniform(0.5, 1.5) * 0.002 * 1.12**number * seconds)
        os.kill(child, signal.SIGKILL)
        ends.append(os.waitpid(child, 0)[1])
        if (tmp_path / "out").exists():
            if ends.count(signal.SIGKILL) > 1:
                break
            shutil.rmtree(tmp_path / "out")  # the machine was quicker than the first kills
    else:
        pack(files, tmp_path, rows_per_shard=8)
    assert ends.count(signal.SIGKILL) > 1
    assert set(ends) <= {0, signal.SIGKILL}
    assert contents(tmp_path / "out") == contents(tmp_path / "whole/out")


def test_out_is_never_overwritten(toy, tmp_path):
    pack(toy[1], tmp_path)
    before = contents(tmp_path / "out")
    assert refused(pack, toy[1], tmp_path, seed=1).reason == "exists already"
    assert contents(tmp_path / "out") == before


def test_too_small_a_disk_is_noticed_before_the_work(toy, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1799))
    assert refused(pack, toy[1], tmp_path).reason == "0.0 GB free, 0.0 GB needed"
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1800))
    pack(toy[1], tmp_path)


def test_another_file_system_is_noticed_before_the_work(toy, tmp_path):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("one file system only")
    assert "another file system" in refused(pack_w2w, toy[1], TOY, other / "w2w-data-test/out", tmp_path / "s").reason
