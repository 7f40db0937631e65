"""Spaces of the effects of LoRAs: predictions, their gradients, and the components of both."""

import tempfile
from pathlib import Path

import pytest
import torch

from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.lora.adapters import adapted, initial_weights
from w2wpp.lora.shards import open_shards, write_shards
from w2wpp.spaces.predictions import fit_prediction_pca, noisy_inputs, prediction_gradients, predictions

INPUTS = 3
AT_ONCE = 64
EVERYWHERE = (0.0, 0.0, 1.0, 1.0)


def photos(normal, count):
    return (60 * normal(count, 32, 32, 3) + 128).clamp(0, 255).byte()


@pytest.fixture
def inputs(pipe, normal):
    return noisy_inputs(pipe, photos(normal, INPUTS), IDENTITY_PROMPT, shift=2.0, region=EVERYWHERE, seed=0)


@pytest.fixture
def zoo(layout, draw_weights, tmp_path):
    """Shards of 20 LoRAs that differ in B alone, by so little that their effect is linear in it."""
    weights = torch.where(layout.in_B, draw_weights(layout, 20, size=0.003), initial_weights(layout, 0))
    return write_shards(tmp_path / "zoo", iter(weights.split(8)), layout, 8)


@pytest.fixture
def scratch(tmp_path):
    """Returns a new folder on every call."""
    return lambda: Path(tempfile.mkdtemp(dir=tmp_path))


def all_of(shards):
    return next(shards.blocks(len(shards))).float()


def test_inputs_cover_the_noise_levels(pipe, normal):
    pictures = photos(normal, 100)

    def inputs(shift, seed):
        return noisy_inputs(pipe, pictures, IDENTITY_PROMPT, shift, EVERYWHERE, seed)

    assert torch.equal(inputs(1.0, 0).timesteps, torch.arange(5, 1000, 10))
    assert (inputs(3.0, 0).timesteps >= 750).sum() == 50
    assert inputs(1.0, 0).latents[-1].std().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(inputs(1.0, 0).latents, inputs(1.0, 0).latents)
    assert not torch.equal(inputs(1.0, 0).latents, inputs(1.0, 1).latents)


def test_predictions_are_those_of_one_model_at_a_time(pipe, any_layout, draw_weights, inputs, scratch):
    weights = draw_weights(any_layout, AT_ONCE + 2)[[0, 7, *range(3, AT_ONCE + 2)]]
    together = predictions(pipe, any_layout, weights, inputs, AT_ONCE, scratch())
    assert together.shape == (len(weights), INPUTS, inputs.latents[0].numel())
    for model in (0, 1, len(weights) - 1):
        with torch.no_grad(), adapted(pipe.unet, any_layout, weights[model : model + 1]):
            alone = pipe.unet(inputs.latents, inputs.timesteps, inputs.text.expand(INPUTS, -1, -1)).sample
        torch.testing.assert_close(together[model], alone.flatten(1), atol=1e-5, rtol=1e-4)


def test_predictions_count_in_the_region_alone(pipe, layout, draw_weights, normal, scratch):
    pictures = photos(normal, INPUTS)

    def answers(region):
        inputs = noisy_inputs(pipe, pictures, IDENTITY_PROMPT, 2.0, region, 0)
        return predictions(pipe, layout, draw_weights(layout, 2), inputs, AT_ONCE, scratch()).unflatten(2, (4, 4, 4))

    everywhere, right = answers(EVERYWHERE), answers((0.5, 0.0, 1.0, 1.0))
    assert not right[..., :2].any()
    torch.testing.assert_close(right[..., 2:], everywhere[..., 2:] * 2**0.5, atol=1e-5, rtol=1e-5)


def test_gradients_tell_how_predictions_move(pipe, layout, draw_weights, inputs, normal, scratch):
    weights, step = draw_weights(layout, 1)[0], 3e-3 * normal(layout.dimension)
    directions = normal(4, INPUTS, inputs.latents[0].numel())
    ahead, behind = predictions(pipe, layout, torch.stack([weights + step, weights - step]), inputs, AT_ONCE, scratch())
    expected = (directions * (ahead - behind)).sum((1, 2)) / 2
    found = prediction_gradients(pipe, layout, weights, inputs, directions, AT_ONCE, scratch()) @ step
    torch.testing.assert_close(found, expected, atol=1e-3 * expected.abs().max().item(), rtol=0.02)


def test_coordinates_are_those_of_the_predictions(pipe, layout, zoo, inputs, scratch):
    weights = all_of(zoo)
    space = fit_prediction_pca(
        pipe, zoo, weights.mean(0), inputs, people=20, components=6, at_once=AT_ONCE, scratch=scratch()
    )
    z = space.encode(weights)
    torch.testing.assert_close(z.mean(0), torch.zeros(6), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(6), atol=5e-3, rtol=0)
    answers = predictions(pipe, layout, weights, inputs, AT_ONCE, scratch()).flatten(1)
    left, singular, _ = torch.linalg.svd(answers - answers.mean(0), full_matrices=False)
    torch.testing.assert_close(space.scales, singular[:6] / 19**0.5, rtol=0.05, atol=0)
    # The same subspace of the people, regardless of signs.
    overlap = torch.linalg.svdvals(left[:, :5].T @ (z / 19**0.5))
    assert overlap.min() > 0.95


def test_encode_undoes_decode(pipe, zoo, inputs, normal, scratch):
    space = fit_prediction_pca(
        pipe, zoo, all_of(zoo).mean(0), inputs, people=12, components=6, at_once=AT_ONCE, scratch=scratch()
    )
    z = normal(9, 6)
    torch.testing.assert_close(space.encode(space.decode(z)), z, atol=1e-2, rtol=1e-2)
    assert torch.equal(space.unexplained(space.decode(z)), torch.zeros(9))


def test_what_changes_no_prediction_is_left_out(pipe, layout, zoo, inputs, normal, scratch):
    """One person's noise along weights that do not affect predictions changes neither coordinates nor components."""
    weights = all_of(zoo)
    space = fit_prediction_pca(
        pipe, zoo, weights.mean(0), inputs, people=20, components=19, at_once=AT_ONCE, scratch=scratch()
    )
    unfelt = torch.where(layout.in_B, 0.1 * normal(20, layout.dimension), torch.zeros(()))
    unfelt -= unfelt @ torch.linalg.pinv(space.analysis) @ space.analysis
    torch.testing.assert_close(space.encode(weights + unfelt), space.encode(weights), atol=0.02, rtol=0)


def test_fitting_is_repeatable(pipe, zoo, inputs, scratch):
    mean = all_of(zoo).mean(0)
    first, again = (
        fit_prediction_pca(pipe, open_shards(zoo.paths[0].parent), mean, inputs, 12, 5, AT_ONCE, scratch())
        for _ in range(2)
    )
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


@pytest.mark.parametrize("components", [0, 12])
def test_more_components_than_people_span_are_refused(pipe, zoo, inputs, components, scratch):
    with pytest.raises(ValueError, match=r"12 people span 11 directions"):
        fit_prediction_pca(
            pipe, zoo, all_of(zoo).mean(0), inputs, people=12, components=components, at_once=AT_ONCE, scratch=scratch()
        )


def test_answers_are_kept_for_another_number_of_components(pipe, zoo, inputs, scratch):
    folder, mean = scratch(), all_of(zoo).mean(0)
    fit_prediction_pca(pipe, zoo, mean, inputs, people=12, components=4, at_once=AT_ONCE, scratch=folder)
    kept = sorted((folder / "predictions").iterdir())
    times = [path.stat().st_mtime_ns for path in kept]
    more = fit_prediction_pca(pipe, zoo, mean, inputs, people=12, components=6, at_once=AT_ONCE, scratch=folder)
    assert [path.stat().st_mtime_ns for path in kept] == times
    anew = fit_prediction_pca(pipe, zoo, mean, inputs, people=12, components=6, at_once=AT_ONCE, scratch=scratch())
    torch.testing.assert_close(more.analysis, anew.analysis)
