"""Batches have the same bytes on every machine, and a damaged file is computed again."""

import os
from itertools import chain

import pytest
import torch
from safetensors.torch import save_file

from w2wpp.compute.batches import (
    Batch,
    Shard,
    batches_of,
    finish,
    in_resumable_batches,
    is_finished,
    joined,
    remember,
)
from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_pack


def squares(first: int, length: int) -> dict[str, torch.Tensor]:
    return {"square": torch.arange(first, first + length) ** 2, "process": torch.full((length,), os.getpid())}


def contents(batches: list[Batch]) -> list[bytes]:
    return [batch.path.read_bytes() for batch in batches]


@pytest.fixture
def whole(zoo_batches, train_work, tmp_path) -> list[Batch]:
    """Nine people's LoRAs, trained in one go."""
    batches = zoo_batches(tmp_path / "whole", 9)
    finish(batches, train_work())
    return batches


def test_finished_batches_are_read_back(tmp_path):
    requests = []

    def work(first: int, length: int) -> dict[str, torch.Tensor]:
        requests.append((first, length))
        return squares(first, length)

    assert torch.equal(in_resumable_batches(5, 2, tmp_path, work)["square"], torch.arange(5) ** 2)
    (tmp_path / "000002-2.safetensors").unlink()
    assert torch.equal(in_resumable_batches(5, 2, tmp_path, work)["square"], torch.arange(5) ** 2)
    assert requests == [(0, 2), (2, 2), (4, 1), (2, 2)]


@pytest.mark.parametrize("of", [1, 2, 3, 7])
def test_shards_have_each_batch_once(of):
    shares = [Shard(number, of).share(list(range(6))) for number in range(1, of + 1)]
    assert sorted(chain(*shares)) == list(range(6))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_shard_is_parsed():
    assert Shard.parse("3/64") == Shard(3, 64)
    assert Shard.parse("1/1").whole


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "/", "1/0", "-1/3", "1/3/5", "a/b", "1.0/2", "²/3", ""])
def test_what_is_no_shard_is_refused(text):
    with pytest.raises(InputError, match=r"^command line: --shard: .* is not i/n with i in 1 \.\. n"):
        Shard.parse(text)


@pytest.mark.parametrize("of", [2, 7])
def test_shards_leave_the_files_of_a_whole_run(whole, zoo_batches, train_work, tmp_path, of):
    batches = zoo_batches(tmp_path / "shared", 9)
    for number in range(1, of + 1):
        finish(Shard(number, of).share(batches), train_work())
        assert f"of all {len(batches)} batches" in Shard(number, of).remaining(batches)
    assert contents(batches) == contents(whole)
    finish(batches, None)
    assert all(torch.equal(tensor, joined(whole)[key]) for key, tensor in joined(batches).items())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_shards_and_a_whole_run_at_once(whole, zoo_batches, train_work, tmp_path, fork):
    batches = zoo_batches(tmp_path / "shared", 9)
    children = [
        fork(lambda shard=shard: finish(shard.share(batches), train_work()))
        for shard in (Shard(1, 2), Shard(2, 2), Shard())
    ]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert contents(batches) == contents(whole)
    assert sorted(batches[0].path.parent.iterdir()) == [batch.path for batch in batches]


def truncate(batch: Batch) -> None:
    batch.path.write_bytes(batch.path.read_bytes()[:-1])


def empty(batch: Batch) -> None:
    batch.path.write_bytes(b"")


def flip(batch: Batch) -> None:
    content = bytearray(batch.path.read_bytes())
    content[-3] ^= 1
    batch.path.write_bytes(content)


def replace(batch: Batch) -> None:
    write_pack(batch.path, {"weights": torch.zeros(2, 3)})


def replace_by_a_foreign_file(batch: Batch) -> None:
    save_file({"weights": torch.zeros(2, 3)}, batch.path)


@pytest.mark.parametrize("damage", [truncate, empty, flip, replace, replace_by_a_foreign_file])
def test_damaged_batches_are_computed_again(whole, train_work, damage):
    expected, calls = contents(whole), []
    damage(whole[1])
    assert [is_finished(batch) for batch in whole] == [True, False, True, True, True]
    with pytest.raises(InputError):
        joined(whole)

    def work(*inputs) -> dict[str, torch.Tensor]:
        calls.append(inputs[-1])
        return train_work()(*inputs)

    finish(whole, work)
    assert calls == ["zoo LoRAs 4/9"]
    assert contents(whole) == expected


def test_what_another_machine_has_finished_meanwhile_stays(tmp_path):
    (batch,) = batches_of(1, 1, tmp_path, lambda *some: some)

    def overtaken(*_) -> dict[str, torch.Tensor]:
        finish([batch], lambda *_: {"x": torch.ones(1)})
        return {"x": torch.zeros(1)}

    finish([batch], overtaken)
    assert joined([batch])["x"] == 1


def test_remembered_tensors_are_read_back(tmp_path):
    known = {"matrix": torch.arange(6.0).reshape(2, 3).T, "number": torch.tensor(2.5), "none": torch.empty(0, 3)}
    calls, path = [], tmp_path / "folder" / "start.safetensors"

    def compute() -> dict[str, torch.Tensor]:
        calls.append(len(calls))
        return known

    def remembered() -> bool:
        found = remember(path, compute)
        return found.keys() == known.keys() and all(torch.equal(found[key], known[key]) for key in known)

    assert remembered() and remembered()
    assert calls == [0]
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    assert remembered()
    assert calls == [0, 1]


def test_one_core_each(tmp_path):
    batches = batches_of(6, 1, tmp_path, lambda *some: some)
    finish(batches, squares, cores=2)
    done = joined(batches)
    assert torch.equal(done["square"], torch.arange(6) ** 2)
    assert os.getpid() not in done["process"]
