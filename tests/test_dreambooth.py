"""Stacked DreamBooth training is deterministic, learns, and equals training each person alone."""

import pandas as pd
import pytest
import torch

from w2wpp.diffusion.denoising import denoising_loss, training_schedule
from w2wpp.diffusion.dreambooth import photo_prompts, prompted_latents, train_loras
from w2wpp.diffusion.pipeline import encode_images, encode_prompts
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.files.errors import InputError
from w2wpp.lora.adapters import initial_weights
from w2wpp.run.params import CollectParams
from w2wpp.world.populations import manifest_rows, sample_people


@pytest.fixture
def settings(params) -> CollectParams:
    return params.collect.model_copy(
        update={
            "trained": "both",
            "lr": 1e-2,
            "adam_epsilon": 1e-8,
            "steps": 2,
            "photos_per_step": 2,
            "class_images_per_step": 1,
        }
    )


@pytest.fixture
def latents(normal):
    return normal(3, 2, 4, 4, 4)


@pytest.fixture
def class_latents(normal):
    return normal(5, 4, 4, 4)


def train(pipe, layout, latents, *rest):
    """Every photo has the prompt "a photo of sks person"."""
    text = encode_prompts(pipe, [IDENTITY_PROMPT]).expand(*latents.shape[:2], -1, -1)
    return train_loras(pipe, layout, initial_weights(layout, 0), latents, text, *rest)


def test_two_steps_change_the_weights_the_same_way_every_time(pipe, layout, latents, class_latents, settings):
    weights, losses = train(pipe, layout, latents, class_latents, settings, 0, "test")
    assert weights.shape == (3, layout.dimension)
    assert weights.dtype == torch.float32
    assert not weights.requires_grad
    assert losses.shape == (3,)
    assert (losses > 0).all()
    moved = (weights - initial_weights(layout, 0)).abs()
    assert (moved.amax(1) > 1e-3).all()
    assert (weights[0] - weights[1]).abs().max() > 1e-3
    again, losses_again = train(pipe, layout, latents, class_latents, settings, 0, "test")
    assert torch.equal(weights, again)
    assert torch.equal(losses, losses_again)
    other, _ = train(pipe, layout, latents, class_latents, settings, 1, "test")
    assert not torch.allclose(weights, other, atol=1e-3)


def test_a_person_does_not_depend_on_who_is_trained_beside(pipe, wide_layout, latents, class_latents, settings):
    settings = settings.model_copy(update={"steps": 5})  # Adam amplifies rounding errors of small gradients
    together, losses = train(pipe, wide_layout, latents, class_latents, settings, 0, "test")
    for people in ([0], [1], [2], [2, 0]):
        weights, some = train(pipe, wide_layout, latents[people], class_latents, settings, 0, "test")
        torch.testing.assert_close(weights, together[people], atol=1e-4, rtol=0)
        torch.testing.assert_close(some, losses[people], atol=1e-5, rtol=0)


def test_training_lowers_the_loss_on_the_picture(pipe, layout, normal, class_latents, settings):
    picture = normal(1, 1, 4, 4, 4)
    settings = settings.model_copy(update={"steps": 30, "lr": 0.02, "class_images_per_step": 0})
    weights, _ = train(pipe, layout, picture, class_latents, settings, 0, "test")
    schedule = training_schedule(pipe)
    text = encode_prompts(pipe, [IDENTITY_PROMPT]).expand(64, 1, -1, -1)

    @torch.no_grad()
    def loss(vectors):
        return (
            denoising_loss(
                pipe,
                schedule,
                layout,
                vectors,
                picture.expand(64, -1, -1, -1, -1),
                text,
                1.0,
                torch.Generator().manual_seed(77),
            )
            .mean()
            .item()
        )

    assert loss(weights) < 0.95 * loss(initial_weights(layout, 0)[None])


def test_every_photo_is_trained_with_its_own_prompt(pipe, layout, latents, class_latents, settings):
    texts = encode_prompts(pipe, [IDENTITY_PROMPT, f"{IDENTITY_PROMPT}, smiling"])
    settings = settings.model_copy(update={"steps": 4})
    start = initial_weights(layout, 0)

    def of(prompts):
        return train_loras(pipe, layout, start, latents, texts[prompts], class_latents, settings, 0, "test")[0]

    plain = torch.zeros(3, 2, dtype=torch.long)
    other = plain.clone()
    other[1, 0] = 1
    changed = (of(other) - of(plain)).abs().amax(1)
    assert changed[1] > 1e-4
    assert changed[[0, 2]].max() < 1e-5


def test_prompts_say_what_else_a_photo_shows(pipe):
    manifest = pd.DataFrame(manifest_rows(["a", "b"], ["zoo", "zoo"], sample_people(0, "zoo", 2, 3)))
    plain, captioned = (photo_prompts(pipe, manifest, captions) for captions in (False, True))
    same = encode_prompts(pipe, [IDENTITY_PROMPT])
    assert plain.shape == captioned.shape == (6, *same.shape[1:])
    torch.testing.assert_close(plain, same.expand_as(plain), atol=1e-6, rtol=0)
    for row, shown in manifest.iterrows():
        face = "with a neutral face" if shown["photo_expression"] == "neutral" else shown["photo_expression"]
        caption = (
            f"a photo of sks person, {face}, in a {shown['photo_shirt']} shirt, "
            f"on a {shown['photo_background']} background"
        )
        torch.testing.assert_close(captioned[row], encode_prompts(pipe, [caption])[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirror_images_are_further_photos_with_the_same_prompts(pipe, settings, mirrored):
    people = sample_people(0, "zoo", 2, 3)
    manifest = pd.DataFrame(manifest_rows(["a", "b"], ["zoo", "zoo"], people))
    photos = torch.randint(256, (2, 3, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    latents, text = prompted_latents(pipe, photos, manifest, settings.model_copy(update={"mirrored": mirrored}))
    expected = photo_prompts(pipe, manifest, settings.captions).unflatten(0, (2, 3))
    for first, images in ((0, photos), (3, photos.flip(3)))[: 1 + mirrored]:
        torch.testing.assert_close(
            latents[:, first : first + 3].flatten(0, 1), encode_images(pipe, images.flatten(0, 1)), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(text[:, first : first + 3], expected, atol=1e-6, rtol=0)
    assert latents.shape[1] == text.shape[1] == (6 if mirrored else 3)


def test_captions_need_their_columns(pipe):
    manifest = pd.DataFrame({"person": ["a"], "photo_expression": ["smiling"], "photo_background": ["blue"]})
    assert photo_prompts(pipe, manifest, captions=False).shape[0] == 1
    with pytest.raises(InputError, match=r"photo_shirt.*without captions"):
        photo_prompts(pipe, manifest, captions=True)


def test_only_what_is_to_be_trained_moves(pipe, layout, latents, class_latents, settings):
    start = initial_weights(layout, 0)
    both, alone = (
        train(pipe, layout, latents, class_latents, settings.model_copy(update={"trained": which}), 0, "")[0]
        for which in ("both", "B")
    )
    assert (both != start).any(0)[~layout.in_B].any()
    assert torch.equal(alone[:, ~layout.in_B], start[~layout.in_B].expand(3, -1))
    assert (alone[:, layout.in_B] != 0).any()


def test_prior_preservation_counts_only_if_asked_for(pipe, layout, latents, class_latents, settings):
    def of(images, **changes):
        return train(pipe, layout, latents, images, settings.model_copy(update=changes), 0, "test")[0]

    without = of(class_latents, class_images_per_step=0)
    assert without.shape == (3, layout.dimension)
    assert torch.equal(without, of(class_latents + 1, class_images_per_step=0))
    assert not torch.equal(of(class_latents), of(class_latents + 1))
    assert not torch.allclose(of(class_latents, prior_weight=0.0), of(class_latents, prior_weight=9.0), atol=1e-4)
