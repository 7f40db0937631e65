"""A killed collect stage resumes, and ends with the bytes of an uninterrupted one."""

import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from imports import stage_module

from w2wpp.compute.batches import finish, joined
from w2wpp.world import zoo


@pytest.fixture
def train(zoo_batches, train_work):
    """train(scratch) trains five people's LoRAs, two people at a time."""

    def train(scratch: Path) -> dict[str, torch.Tensor]:
        batches = zoo_batches(scratch)
        finish(batches, train_work())
        return joined(batches)

    return train


def batches(scratch: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in scratch.glob("*/*/*.safetensors")}


def test_resumed_equals_uninterrupted(train, layout, tmp_path, monkeypatch):
    loras = train(tmp_path / "whole")
    assert loras["weights"].shape == (5, layout.dimension)
    assert loras["losses"].shape == (5,)
    whole = batches(tmp_path / "whole")
    assert sorted(whole) == ["000000-2.safetensors", "000002-2.safetensors", "000004-1.safetensors"]

    real, trained = zoo.train_loras, []

    def killed_in_the_second_batch(pipe, layout, start, latents, *rest):
        if trained:
            raise KeyboardInterrupt
        trained.append(len(latents))
        return real(pipe, layout, start, latents, *rest)

    monkeypatch.setattr(zoo, "train_loras", killed_in_the_second_batch)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    assert list(batches(tmp_path / "killed")) == ["000000-2.safetensors"]
    (tmp_path / "killed/zoo/zoo/.000002-2.safetensors.12345.tmp").write_bytes(whole["000002-2.safetensors"][:100])

    def counted(pipe, layout, start, latents, *rest):
        trained.append(len(latents))
        return real(pipe, layout, start, latents, *rest)

    monkeypatch.setattr(zoo, "train_loras", counted)
    again = train(tmp_path / "killed")
    assert trained == [2, 2, 1]
    assert batches(tmp_path / "killed") == whole
    assert again.keys() == loras.keys()
    assert all(torch.equal(again[key], loras[key]) for key in loras)


def test_finished_work_is_not_done_again(train, tmp_path, monkeypatch):
    loras = train(tmp_path)
    monkeypatch.setattr(zoo, "train_loras", None)
    again = train(tmp_path)
    assert all(torch.equal(again[key], loras[key]) for key in loras)


def test_what_is_no_recipe_are_settings(params):
    assert stage_module("collect").NO_RECIPE.issubset(params.collect.model_dump())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_killed_at_any_moment_equals_uninterrupted(train, tmp_path, fork):
    train(tmp_path / "whole")
    started = time.perf_counter()
    train(tmp_path / "again")  # takes as long as the others: photos are rendered, torch is warm
    duration = time.perf_counter() - started
    moments, ends = random.Random(0), []
    for _ in range(8):
        child = fork(lambda: train(tmp_path / "killed"))
        time.sleep(moments.uniform(0, 0.7 * duration))
        os.kill(child, signal.SIGKILL)
        ends.append(os.waitpid(child, 0)[1])
    assert signal.SIGKILL in ends
    assert set(ends) <= {0, signal.SIGKILL}
    assert set(batches(tmp_path / "killed")) <= set(batches(tmp_path / "whole"))
    train(tmp_path / "killed")
    assert batches(tmp_path / "killed") == batches(tmp_path / "whole")
