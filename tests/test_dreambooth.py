"""Stacked DreamBooth training is deterministic, learns, and equals training each person alone."""

import pytest
import torch

from w2wpp.adapters import initial_weights
from w2wpp.denoising import denoising_loss, training_schedule
from w2wpp.dreambooth import IDENTITY_PROMPT, train_loras
from w2wpp.params import CollectParams
from w2wpp.pipeline import encode_prompts


@pytest.fixture
def settings(params) -> CollectParams:
    return params.collect.model_copy(update={"steps": 2, "photos_per_step": 2, "class_images_per_step": 1})


@pytest.fixture
def latents(normal):
    return normal(3, 2, 4, 4, 4)


@pytest.fixture
def class_latents(normal):
    return normal(5, 4, 4, 4)


def test_two_steps_change_the_weights_the_same_way_every_time(pipe, layout, latents, class_latents, settings):
    weights, losses = train_loras(pipe, layout, latents, class_latents, settings, 0, "test")
    assert weights.shape == (3, layout.dimension)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert losses.shape == (3,)
    assert (losses > 0).all()
    moved = (weights - initial_weights(layout, 0)).abs()
    assert (moved.amax(1) > 1e-3).all()
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    again, losses_again = train_loras(pipe, layout, latents, class_latents, settings, 0, "test")
    assert torch.equal(weights, again)
    assert torch.equal(losses, losses_again)
    other, _ = train_loras(pipe, layout, latents, class_latents, settings, 1, "test")
    assert not torch.allclose(weights, other, atol=1e-3)


def test_a_person_does_not_depend_on_who_is_trained_beside(pipe, wide_layout, latents, class_latents, settings):
    settings = settings.model_copy(update={"steps": 5})       # Adam makes rounding errors of small gradients large
    together, losses = train_loras(pipe, wide_layout, latents, class_latents, settings, 0, "test")
    for people in ([0], [1], [2], [2, 0]):
        weights, some = train_loras(pipe, wide_layout, latents[people], class_latents, settings, 0, "test")
        torch.testing.assert_close(weights, together[people], atol=1e-4, rtol=0)
        torch.testing.assert_close(some, losses[people], atol=1e-5, rtol=0)


def test_training_lowers_the_loss_on_the_picture(pipe, layout, normal, class_latents, settings):
    picture = normal(1, 1, 4, 4, 4)
    settings = settings.model_copy(update={"steps": 30, "lr": 0.02, "class_images_per_step": 0})
    weights, _ = train_loras(pipe, layout, picture, class_latents, settings, 0, "test")
    schedule = training_schedule(pipe)
    text = encode_prompts(pipe, [IDENTITY_PROMPT]).expand(64, -1, -1)

    @torch.no_grad()
    def loss(vectors):
        return denoising_loss(pipe, schedule, layout, vectors, picture.expand(64, -1, -1, -1, -1), text,
                              torch.Generator().manual_seed(77)).mean().item()

    assert loss(weights) < 0.95 * loss(initial_weights(layout, 0)[None])


def test_prior_preservation_counts_only_if_asked_for(pipe, layout, latents, class_latents, settings):
    def train(images, **changes):
        return train_loras(pipe, layout, latents, images, settings.model_copy(update=changes), 0, "test")[0]

    without = train(class_latents, class_images_per_step=0)
    assert without.shape == (3, layout.dimension)
    assert torch.equal(without, train(class_latents + 1, class_images_per_step=0))
    assert not torch.equal(train(class_latents), train(class_latents + 1))
    assert not torch.allclose(train(class_latents, prior_weight=0.0), train(class_latents, prior_weight=9.0), atol=1e-4)
