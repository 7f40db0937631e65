"""Refinement goes on beyond the space, in the weights that its people differ in, each person by their own photos."""

import pandas as pd
import pytest
import torch

from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import denoising_loss, training_schedule
from w2wpp.diffusion.pipeline import encode_images, encode_prompts
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.faces.portraits import Portraits
from w2wpp.inversion.held_out import encode_held_out, mask_held_out, search_batches
from w2wpp.inversion.photo_encoder import LatentPrior, PhotoEncoder
from w2wpp.inversion.refinement import found_weights, invert_batch, refine
from w2wpp.inversion.search import (
    EncodedPhotos,
    InvertParams,
    RefineParams,
    SearchOptions,
    invert,
    photo_loss,
    photo_losses,
)
from w2wpp.lora.adapters import initial_weights
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.vae_space import VAESpace


@pytest.fixture
def space(layout, draw_weights, normal) -> LinearSpace:
    """Two directions in which B changes, and A does not."""
    synthesis = normal(2, layout.dimension) * layout.in_B
    return LinearSpace.fitted(layout, draw_weights(layout, 1)[0], torch.ones(2), synthesis, 0.05 * synthesis)


@pytest.fixture
def photos(pipe, normal) -> EncodedPhotos:
    """Two photos each of three people, one of them smiling."""
    text = encode_prompts(pipe, [IDENTITY_PROMPT, f"{IDENTITY_PROMPT}, smiling"]).expand(3, -1, -1, -1)
    return EncodedPhotos(normal(3, 2, 4, 4, 4), text)


def options(steps: int, seed: int = 3, **refined) -> SearchOptions:
    how = RefineParams(steps=steps, **({"lr": 0.5, "adam_epsilon": 1e-8, "timesteps_per_step": 1} | refined))
    return SearchOptions(InvertParams(steps=2, lr=0.1, region=(0.0, 0.0, 1.0, 1.0), refine=how), seed)


def test_the_first_step_by_hand(pipe, space, photos):
    """Adam's first step is as long as the rate, in units of what people of the space differ by, down the gradient of
    the mean loss over all photos.
    """
    start = space.decode(torch.tensor([[0.3, -1.0], [0.0, 0.0], [1.0, 2.0]]))
    weights, losses = refine(pipe, space, start, photos, options(1))
    searched = start.clone().requires_grad_()
    loss = denoising_loss(
        pipe,
        training_schedule(pipe),
        space.layout,
        searched,
        photos.latents.transpose(0, 1),
        photos.text.transpose(0, 1),
        1.0,
        step_generator(3, 2 + 1),
    ).mean(0)
    torch.testing.assert_close(losses[0], loss.detach())
    (gradient,) = torch.autograd.grad(loss.sum(), [searched])
    unit = space.weight_spread()
    clear = (gradient * unit).abs() > 1e-5  # far above Adam's epsilon and the rounding of a batch
    assert clear.float().mean() > 0.3
    expected = -0.5 * unit * gradient.sign()
    torch.testing.assert_close((weights - start)[clear], expected[clear], atol=1e-5, rtol=2e-2)


def test_weights_that_all_people_share_stay(pipe, space, photos, layout):
    start = space.decode(torch.zeros(3, 2))
    weights, _ = refine(pipe, space, start, photos, options(3))
    moved = (weights - start).abs().amax(0)
    assert moved[~layout.in_B].max() == 0
    assert (moved[layout.in_B] > 0).float().mean() > 0.9


def test_refinement_explains_the_photos_better_than_the_space(pipe, space, photos):
    how = options(30, lr=1.0)
    z, _ = invert(pipe, space, LatentPrior(torch.zeros(3, 2), torch.ones(2)), photos, how)
    start = space.decode(z)
    weights, losses = refine(pipe, space, start, photos, how)
    before, after = (photo_losses(pipe, space.layout, each, photos, how) for each in (start, weights))
    assert losses.shape == (30, 3) and (after < 0.97 * before).all()


def test_a_person_does_not_depend_on_the_others(pipe, space, photos):
    start = space.decode(torch.tensor([[0.3, -1.0], [0.0, 0.5], [1.0, 2.0]]))
    together, losses = refine(pipe, space, start, photos, options(4))
    for people in ([1], [2, 0]):
        some = EncodedPhotos(photos.latents[people], photos.text[people])
        weights, theirs = refine(pipe, space, start[people], some, options(4))
        torch.testing.assert_close(theirs, losses[:, people], atol=1e-5, rtol=0)
        # Where the gradient is all rounding, the sign of Adam's step is, too.
        assert (weights - together[people]).abs().quantile(0.98) < 1e-3


def test_the_prior_holds_the_weights(pipe, space, photos):
    start = space.decode(torch.zeros(3, 2))

    def moved(weight: float) -> float:
        weights, _ = refine(pipe, space, start, photos, options(20, lr=0.1, prior_weight=weight))
        return (weights - start).norm().item()

    assert moved(1e5) < 0.2 * moved(0.0)


def test_a_batch_is_inverted_then_refined(pipe, space, photos):
    prior = LatentPrior(torch.zeros(3, 2), torch.ones(2))
    inside = invert_batch(pipe, space, options(0), prior, photos, "test")
    assert "weights" not in inside and inside["losses"].shape == (3, 2)
    torch.testing.assert_close(found_weights(space, inside), space.decode(inside["z"]))
    beyond = invert_batch(pipe, space, options(4), prior, photos, "test")
    assert torch.equal(beyond["z"], inside["z"]) and torch.equal(beyond["losses"][:, :2], inside["losses"])
    weights, losses = refine(pipe, space, space.decode(beyond["z"]), photos, options(4))
    assert torch.equal(found_weights(space, beyond), weights) and torch.equal(beyond["losses"][:, 2:], losses.T)


def test_a_large_epsilon_keeps_weights_still_that_the_photos_hardly_move(pipe, space, photos):
    """The first step is then one of gradient descent, by hand."""
    start, unit = space.decode(torch.zeros(3, 2)), space.weight_spread()
    weights, _ = refine(pipe, space, start, photos, options(1, lr=2.0, adam_epsilon=10.0))
    searched = start.clone().requires_grad_()
    loss = photo_loss(pipe, space.layout, photos, options(1).params, 1)(searched, step_generator(3, 2 + 1))
    (gradient,) = torch.autograd.grad(loss.sum(), [searched])
    expected = -2.0 * unit * (unit * gradient) / 10
    assert (weights - start - expected).norm() < 2e-2 * expected.norm()


def test_no_steps_stay_at_the_guess(pipe, space, photos, normal):
    how, guess = options(2), LatentPrior(normal(3, 2), torch.ones(2))
    still = SearchOptions(how.params.model_copy(update={"steps": 0}), 3)
    found = invert_batch(pipe, space, still, guess, photos, "test")
    assert torch.equal(found["z"], guess.mean) and found["losses"].shape == (3, 2)
    assert (found["weights"] - space.decode(guess.mean)).abs().max() > 1e-4


def test_spread_of_weights(layout, space, draw_weights):
    """By the known formula of a linear space, within the error of a standard deviation of 256 draws."""
    exact = space.synthesis.square().sum(0).sqrt()
    spread = space.weight_spread()
    torch.testing.assert_close(spread, exact, rtol=0.2, atol=1e-7)
    assert not spread[~layout.in_B].any() and torch.equal(spread, space.weight_spread())
    both = PCASpace(3, layout)
    both.components.copy_(torch.linalg.qr((draw_weights(layout, 3, seed=4) - initial_weights(layout, 4)).T).Q.T)
    assert (both.weight_spread()[~layout.in_B] > 0).float().mean() > 0.9
    curved = VAESpace(2, layout, "linear", 2, 4, 1)
    curved.basis.load_state_dict(space.state_dict())
    torch.testing.assert_close(curved.weight_spread(), spread)  # untrained, it is the linear space


@pytest.fixture
def people() -> Portraits:
    """Three people, four photos of a colour each."""
    images = torch.randint(256, (3, 4, 1, 1, 3), generator=torch.Generator().manual_seed(0)).byte()
    names = ["c", "a", "b"]
    rows = [
        {"person": name, "split": "test", "photo": photo, "photo_expression": face, "photo_shirt": "", **{}}
        | {"photo_background": ("blue", "green", "")[number]}
        for number, name in enumerate(names)
        for photo, face in enumerate(("neutral", "smiling", "smiling", "neutral"))
    ]
    return Portraits(images.expand(-1, -1, 32, 32, -1).contiguous(), names, ["test"] * 3, pd.DataFrame(rows))


def test_held_out_people_are_seen_by_their_leading_photos_with_the_prompts_of_these(pipe, people):
    encoded = encode_held_out(pipe, people, InvertParams(photos=2, captions=True), slice(1, 3))
    torch.testing.assert_close(encoded["latents"][1, 1], encode_images(pipe, people.images[2, 1:2])[0])
    said = ["with a neutral face, on a green background", "smiling, on a green background"]
    said += ["with a neutral face", "smiling"]
    text = encode_prompts(pipe, [f"{IDENTITY_PROMPT}, {each}" for each in said]).unflatten(0, (2, 2))
    torch.testing.assert_close(encoded["text"], text)
    one = encode_held_out(pipe, people, InvertParams())
    assert one["latents"].shape == (3, 1, 4, 4, 4) and one["text"].shape[:2] == (3, 1)


def test_masks_are_of_the_same_photos(people):
    asked = []
    mask = mask_held_out(people, InvertParams(photos=2), lambda image: asked.append(image[0, 0].tolist()) or [], 4)
    assert mask.shape == (3, 2, 4, 4) and asked == people.images[:, :2, 0, 0].flatten(0, 1).tolist()


def test_batches_hold_everything_of_their_people(tmp_path):
    encoder = PhotoEncoder(torch.eye(2), torch.zeros(2), torch.ones(2))
    latents, text = torch.arange(12.0).reshape(3, 2, 2, 1, 1), torch.zeros(3, 2, 1, 1)
    for mask in (None, torch.arange(3.0).reshape(3, 1, 1, 1).expand(3, 2, 1, 1)):
        batches = search_batches(encoder, EncodedPhotos(latents, text, mask), 2, tmp_path, "inversion")
        (first, seen, label), (_, last, _) = (batch.inputs() for batch in batches)
        assert torch.equal(first.mean, torch.tensor([[1.0, 2.0], [5.0, 6.0]])) and label == "inversion 2/3"
        assert torch.equal(torch.cat([seen.latents, last.latents]), latents)
        assert (last.mask is None) if mask is None else last.mask.flatten().tolist() == [2.0, 2.0]


def test_several_photos_guess_their_mean(normal):
    encoder, latents = PhotoEncoder(normal(64, 2), normal(2), torch.tensor([0.2, 0.7])), normal(3, 2, 4, 4, 4)
    guess = encoder.of_photos(latents)
    torch.testing.assert_close(guess.mean, (encoder(latents[:, 0]).mean + encoder(latents[:, 1]).mean) / 2)
    assert torch.equal(guess.spread, encoder.spread)
