"""Obedience to prompts, judged by the probe, on pictures of a tiny base model."""

import pytest
import torch

from w2wpp.diffusion.denoising import generate
from w2wpp.world.obedience import base_obedience, lora_obedience, relative_obedience
from w2wpp.world.probes import FACTORS, PHOTO_FACTORS, Probe


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(0)
    probe = Probe()
    probe(torch.zeros(1, 3, 32, 32))
    return probe.eval()


def test_a_factor_is_obeyed_by_the_share_of_pictures_that_show_it(pipe, layout, draw_weights, params, probe):
    drawing = params.generate.model_copy(update={"inference_steps": 1})
    people = draw_weights(layout, 2)
    for shares, factors, weights, subject in (
        (
            base_obedience(probe, pipe, layout, torch.zeros(1, layout.dimension), 3, drawing),
            FACTORS,
            torch.zeros(1, layout.dimension),
            "a",
        ),
        (lora_obedience(probe, pipe, layout, people, 3, drawing), PHOTO_FACTORS, people, "sks"),
    ):
        assert shares.keys() == factors.keys()
        prompted = [(name, value) for name, factor in factors.items() for value in factor.prompted]
        drawn = generate(
            pipe,
            layout,
            weights,
            [factors[name].prompt(value, subject) for name, value in prompted],
            3,
            drawing,
            "test",
        )
        for name, factor in factors.items():
            shown = [
                (probe.read(drawn[:, number].flatten(0, 1), name) == factor.choices.index(value)).double().mean()
                for number, (each, value) in enumerate(prompted)
                if each == name
            ]
            assert shares[name] == pytest.approx(sum(shown).item() / len(shown))


def test_shares_are_relative_to_what_the_base_model_obeys():
    assert relative_obedience({"expression": 0.25, "background": 0.5}, {"expression": 0.5, "background": 0.0}) == {
        "expression": 0.5,
        "background": 50.0,
    }
