"""Inversion changes z alone, deterministically, and each person by their own photo."""

from functools import partial

import pytest
import torch

from w2wpp.compute.batches import finish, joined
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import denoising_loss, region_weights, training_schedule
from w2wpp.diffusion.dreambooth import train_loras
from w2wpp.diffusion.pipeline import encode_prompts
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.inversion.held_out import search_batches
from w2wpp.inversion.photo_encoder import LatentPrior, PhotoEncoder
from w2wpp.inversion.refinement import invert_batch
from w2wpp.inversion.search import EncodedPhotos, InvertParams, SearchOptions, invert
from w2wpp.lora.adapters import initial_weights
from w2wpp.spaces.affine import PCASpace


def one_each(latents, text, mask=None) -> EncodedPhotos:
    """One photo per person: latents [n, c, h, w], text [n, length, hidden], mask [n, h, w]."""
    return EncodedPhotos(latents[:, None], text[:, None], None if mask is None else mask[:, None])


@pytest.fixture
def space(layout, draw_weights) -> PCASpace:
    """Six directions with large changes of the LoRA."""
    space = PCASpace(6, layout)
    space.mean.copy_(draw_weights(layout, 1)[0])
    directions = draw_weights(layout, 6, seed=4, size=1.0) - initial_weights(layout, 4)
    space.components.copy_(torch.linalg.qr(directions.T).Q.T)
    space.scales.fill_(4.0)
    return space


def standard_prior(people: int, latent_dim: int) -> LatentPrior:
    return LatentPrior(torch.zeros(people, latent_dim), torch.ones(latent_dim))


@pytest.fixture
def prior() -> LatentPrior:
    return standard_prior(3, 6)


@pytest.fixture
def settings(params) -> InvertParams:
    return params.invert.model_copy(update={"steps": 2, "lr": 0.1, "adam_epsilon": 1e-8})


@pytest.fixture
def latents(normal):
    return normal(3, 4, 4, 4)


@pytest.fixture
def text(pipe):
    return encode_prompts(pipe, [IDENTITY_PROMPT, f"{IDENTITY_PROMPT}, smiling", f"{IDENTITY_PROMPT}, frowning"])


def test_two_steps(pipe, space, prior, latents, text, settings):
    before = {key: value.clone() for key, value in space.state_dict().items()}
    z, losses = invert(pipe, space, prior, one_each(latents, text), SearchOptions(settings))
    assert z.shape == (3, 6)
    assert losses.shape == (2, 3)
    assert not z.requires_grad
    assert (z.abs().amax(1) > 1e-2).all()
    again, losses_again = invert(pipe, space, prior, one_each(latents, text), SearchOptions(settings))
    assert torch.equal(z, again)
    assert torch.equal(losses, losses_again)
    assert all(torch.equal(value, before[key]) for key, value in space.state_dict().items())


def test_a_person_does_not_depend_on_the_others(pipe, space, prior, latents, text, settings):
    settings = settings.model_copy(update={"steps": 6})
    together, losses = invert(pipe, space, prior, one_each(latents, text), SearchOptions(settings))
    assert (together[0] - together[1]).abs().max() > 1e-2
    for people in ([0], [1], [2, 0]):
        z, some = invert(
            pipe,
            space,
            LatentPrior(prior.mean[people], prior.spread),
            one_each(latents[people], text[people]),
            SearchOptions(settings),
        )
        torch.testing.assert_close(z, together[people], atol=1e-4, rtol=0)
        torch.testing.assert_close(some, losses[:, people], atol=1e-5, rtol=0)


@torch.no_grad()
def denoising_error(pipe, space, z, latents):
    text = encode_prompts(pipe, [IDENTITY_PROMPT]).expand(64, 1, -1, -1)
    return denoising_loss(
        pipe,
        training_schedule(pipe),
        space.layout,
        space.decode(z),
        latents.expand(64, *latents.shape),
        text,
        1.0,
        torch.Generator().manual_seed(77),
    ).mean(0)


def test_inversion_finds_the_trained_lora(pipe, params, layout, latents, text, settings):
    collect = params.collect.model_copy(update={"steps": 30, "lr": 0.02, "class_images_per_step": 0})
    trained, _ = train_loras(
        pipe, layout, initial_weights(layout, 0), latents[:1, None], text[:1, None], latents, collect, 0, "test"
    )
    space = PCASpace(1, layout)  # z = 1 is the trained LoRA
    space.mean.copy_(initial_weights(layout, 0))
    space.components.copy_(trained - space.mean)
    settings = settings.model_copy(update={"steps": 30, "lr": 0.1, "prior_weight": 0.0})
    z, _ = invert(pipe, space, standard_prior(1, 1), one_each(latents[:1], text[:1]), SearchOptions(settings))
    assert z.item() > 0.5
    start = denoising_error(pipe, space, torch.zeros(1, 1), latents[:1])
    assert denoising_error(pipe, space, z, latents[:1]).item() < 0.95 * start.item()


def test_a_strong_prior_keeps_z_at_zero(pipe, space, prior, latents, text, settings):
    def search(weight):
        changed = settings.model_copy(update={"steps": 20, "prior_weight": weight})
        return invert(pipe, space, prior, one_each(latents, text), SearchOptions(changed))[0].abs().max().item()

    assert search(1e4) < 0.02 < 0.2 < search(0.0)


def test_steps_in_units_of_the_scales(pipe, space, prior, latents, text, settings):
    settings = settings.model_copy(update={"steps": 1, "prior_weight": 0.0})
    z, _ = invert(pipe, space, prior, one_each(latents, text), SearchOptions(settings))
    unwhitened, _ = invert(
        pipe, space, prior, one_each(latents, text), SearchOptions(settings.model_copy(update={"whitened": False}))
    )
    torch.testing.assert_close(unwhitened * space.scales, z, atol=1e-6, rtol=1e-4)  # Adam's first step is lr each


def test_the_search_goes_from_the_mean_of_the_prior_as_far_as_its_spread(pipe, space, latents, text, settings, normal):
    settings = settings.model_copy(update={"steps": 1, "prior_weight": 0.0})
    prior = LatentPrior(normal(3, 6), torch.tensor([0.01, 0.1, 0.2, 0.4, 0.8, 1.0]))
    z, _ = invert(pipe, space, prior, one_each(latents, text), SearchOptions(settings))
    torch.testing.assert_close((z - prior.mean).abs(), 0.1 * prior.spread.expand(3, -1), atol=1e-6, rtol=1e-3)
    z, _ = invert(
        pipe, space, prior, one_each(latents, text), SearchOptions(settings.model_copy(update={"whitened": False}))
    )
    torch.testing.assert_close((z - prior.mean).abs(), (0.1 / space.scales).expand(3, -1), atol=1e-6, rtol=1e-3)
    z, _ = invert(
        pipe,
        space,
        prior,
        one_each(latents, text),
        SearchOptions(settings.model_copy(update={"steps": 20, "prior_weight": 1e4})),
    )
    assert (z - prior.mean).abs().max() < 0.02


def test_only_the_mask_counts(pipe, layout, draw_weights, params, normal):
    space = PCASpace(3, layout)
    space.mean.copy_(draw_weights(layout, 1)[0])
    space.components.copy_(draw_weights(layout, 3, seed=4))
    settings = params.invert.model_copy(update={"steps": 3, "region": (0.0, 0.0, 1.0, 1.0)})
    latents, text = normal(2, 4, 4, 4), encode_prompts(pipe, [IDENTITY_PROMPT]).expand(2, -1, -1)

    def search(latents, mask=None):
        return invert(pipe, space, standard_prior(2, 3), one_each(latents, text, mask), SearchOptions(settings))

    everything, losses = search(latents)
    torch.testing.assert_close(search(latents, torch.ones(2, 4, 4)), (everything, losses))
    half = torch.ones(2, 4, 4)
    half[1, :, :2] = 0
    z, _ = search(latents, half)
    # Weights of latent numbers are as they are; those of the second person's other half count twice above.
    twice = half[:, None].repeat(1, 4, 1, 1)
    twice[1] *= 2
    torch.testing.assert_close(search(latents, twice)[0], z)
    torch.testing.assert_close(z[0], everything[0])
    assert (z[1] - everything[1]).abs().max() > 1e-4
    schedule, weights = training_schedule(pipe), draw_weights(layout, 2)

    def loss(pixel_weights):
        return denoising_loss(
            pipe,
            schedule,
            layout,
            weights,
            latents[None],
            text[None],
            1.0,
            torch.Generator().manual_seed(0),
            pixel_weights,
        )

    left, right = (loss((each / each.mean())[None, None].expand(2, 1, 4, 4)) for each in (1 - half[1], half[1]))
    torch.testing.assert_close((left + right) / 2, loss(region_weights(pipe, (0.0, 0.0, 1.0, 1.0))))


@pytest.mark.parametrize("timesteps", [1, 2])
def test_several_photos_of_a_person(pipe, space, text, settings, normal, timesteps):
    """The first step, by hand: the mean loss over all photos, each with its own noise and timestep."""
    settings = settings.model_copy(
        update={"steps": 1, "prior_weight": 0.0, "timesteps_per_step": timesteps, "region": (0.0, 0.0, 1.0, 1.0)}
    )
    photos, start = normal(2, 3, 4, 4, 4), standard_prior(2, 6)
    words, mask = text[None, :].expand(2, -1, -1, -1), torch.ones(2, 3, 4, 4)
    mask[1, 2, :, :2] = 0
    z, losses = invert(pipe, space, start, EncodedPhotos(photos, words, mask), SearchOptions(settings, seed=5))

    searched = torch.zeros(2, 6, requires_grad=True)
    rows = [photos[:, photo] for _ in range(timesteps) for photo in range(3)]
    spoken = [words[:, photo] for _ in range(timesteps) for photo in range(3)]
    weights = torch.stack(
        [mask[:, photo] / mask[:, photo].mean((1, 2), keepdim=True) for _ in range(timesteps) for photo in range(3)]
    )[:, :, None]
    loss = denoising_loss(
        pipe,
        training_schedule(pipe),
        space.layout,
        space.decode(searched),
        torch.stack(rows),
        torch.stack(spoken),
        1.0,
        step_generator(5, 0),
        weights,
    )
    assert loss.shape == (3 * timesteps, 2) and (loss[0] - loss[1]).abs().max() > 1e-4
    torch.testing.assert_close(losses[0], loss.detach().mean(0))
    (gradient,) = torch.autograd.grad(loss.mean(0).sum(), [searched])
    torch.testing.assert_close(z, -0.1 * gradient.sign(), atol=1e-4, rtol=0)  # Adam's first step


def test_copies_of_a_photo_are_as_good_as_the_photo_with_as_many_timesteps(pipe, space, prior, latents, text, settings):
    copies = EncodedPhotos(latents[:, None].expand(-1, 3, -1, -1, -1), text[:, None].expand(-1, 3, -1, -1))
    together, _ = invert(pipe, space, prior, copies, SearchOptions(settings))
    thrice = settings.model_copy(update={"timesteps_per_step": 3})
    z, _ = invert(pipe, space, prior, one_each(latents, text), SearchOptions(thrice))
    torch.testing.assert_close(together, z)


def test_people_in_batches_are_found_as_each_by_themselves(pipe, space, latents, text, settings, normal, tmp_path):
    encoder = PhotoEncoder(0.1 * normal(64, 6), 0.1 * normal(6), torch.full((6,), 0.5))
    photos = EncodedPhotos(latents[:, None], text[:, None], torch.rand(3, 1, 4, 4))
    batches = search_batches(encoder, photos, 2, tmp_path, "people")
    finish(batches, partial(invert_batch, pipe, space, SearchOptions(settings, seed=3)))
    found = joined(batches)
    assert len(batches) == 2 and found["losses"].shape == (3, 2)
    for person in range(3):
        some = slice(person, person + 1)
        alone = EncodedPhotos(*(each[some] for each in photos))
        z, _ = invert(pipe, space, encoder(latents[some]), alone, SearchOptions(settings, seed=3))
        torch.testing.assert_close(found["z"][some], z, atol=1e-4, rtol=0)
