"""The benchmarks of speed on a CPU, with small sizes: people together find what each finds alone."""

import json
from importlib.util import find_spec

import batched_inversion
import gpu
import pytest
import torch
import vae_epoch

from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.search import InvertParams
from w2wpp.lora.adapters import initial_weights


@pytest.fixture(scope="module")
def inversions(pipe, layout, draw_weights, make_space) -> dict:
    directions = draw_weights(layout, 4, seed=4, size=1.0) - initial_weights(layout, 4)
    space = make_space(layout, directions, draw_weights(layout, 1)[0])
    encoder = PhotoEncoder(torch.full((64, 4), 0.01), torch.zeros(4), torch.ones(4))
    latents = torch.randn(3, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    return batched_inversion.compare(
        pipe, space, encoder, latents, InvertParams(steps=3, lr=0.1), together=[2, 3], alone=2, rounds=2
    )


def test_inversions_together_equal_those_alone(inversions):
    assert inversions["largest_difference_of_z"] < 1e-4 < inversions["largest_z"]
    assert list(inversions["per_person"]) == ["one at a time", "2 together", "3 together"]
    assert all(each["seconds"] > 0 and each["cpu_seconds"] > 0 for each in inversions["per_person"].values())


def test_inversions_in_a_table_of_times():
    alone, together = {"seconds": 1.0, "cpu_seconds": 1.0}, {"seconds": 0.1, "cpu_seconds": 0.5}
    page = batched_inversion.markdown(
        {
            "per_person": {"one at a time": alone, "8 together": together},
            "largest_difference_of_z": 4e-6,
            "largest_z": 2.0,
            "steps": 10,
            "rounds": 3,
            "space": "vae",
            "threads": 2,
            "device": "the CPU",
        }
    )
    assert "| 8 together | 0.100 | 10.0 | 0.500 | 2.0 |" in page
    assert "z differs by 4.0e-06 at most, where the largest is 2.0." in page
    assert "Goal: 8 times fewer CPU seconds per person, missed." in page


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU gets large sizes")
def test_all_speeds_are_measured(tmp_path):
    plan = gpu.PLANS["miniature"]
    result = json.loads(json.dumps(gpu.measure("miniature", lambda name: gpu.PARTS[name](tmp_path, plan))))
    parts = result["parts"]
    assert list(parts) == list(gpu.PARTS)
    for name in gpu.TITLES:
        assert parts[name]["together"]["count"] == 8
        alone, together = (parts[name][each]["seconds_each"] for each in ("alone", "together"))
        assert parts[name]["times"] == alone / together > 0
    assert parts["training_embedded"]["difference"] < 1e-3 and parts["training_sd15"]["difference"] < 1e-3
    assert 0.5 < parts["pca"]["captured"] <= 1
    assert parts["estimate"]["inversion"] > 0
    page = gpu.markdown(result)
    assert page.count("| 8 | ") == len(gpu.TITLES) and "streamed PCA of 64 x 128 numbers" in page
    parts["inversion"] = {"failed": "stopped after 9 s"}
    assert "- inversion: stopped after 9 s" in gpu.markdown(result)


def test_an_epoch_takes_time_here_and_in_pythae():
    result = vae_epoch.compare(vae_epoch.SIZES["miniature"], 40, 3, vae_epoch.installed())
    assert all(each["seconds"] > 0 for each in result["epoch"].values())
    assert set(result["epoch"]) == {"here"} | ({"pythae"} if find_spec("pythae") else set())


def test_the_table_of_epochs_has_a_verdict():
    epochs = {"here": {"seconds": 1.0, "cpu_seconds": 2.0}, "pythae": {"seconds": 5.0, "cpu_seconds": 5.0}}
    sizes = vae_epoch.SIZES["miniature"]._asdict()
    result = {"epoch": epochs, "sizes": sizes, "epochs": 6, "rounds": 3, "device": "the CPU", "threads": 1}
    page = vae_epoch.markdown(result)
    assert "| here | 1.000 | 2.000 |" in page and "; on the CPU with 1 thread. An epoch" in page
    assert "pythae takes 2.5 times as long. Goal: 2 times, met." in page
    assert "pythae is not installed." in vae_epoch.markdown(result | {"epoch": {"here": epochs["here"]}})
