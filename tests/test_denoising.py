"""Pictures and losses of many models at once do not depend on how they are batched."""

import pytest
import torch

from w2wpp.diffusion.denoising import denoising_loss, draw_timesteps, generate, region_weights, training_schedule
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.inversion.photo_encoder import LatentPrior
from w2wpp.inversion.search import EncodedPhotos, SearchOptions, invert
from w2wpp.spaces.affine import PCASpace

PROMPTS = ["a photo of sks person", "a photo of sks person, smiling"]


@pytest.fixture
def drawing(params):
    return params.generate.model_copy(update={"inference_steps": 3, "guidance": 2.0})


def test_pictures_do_not_depend_on_the_batch(pipe, layout, draw_weights, drawing):
    weights = draw_weights(layout, 5)
    pictures = generate(pipe, layout, weights, PROMPTS, 3, drawing, "test")
    assert pictures.shape == (5, 2, 3, 32, 32, 3)
    assert pictures.dtype == torch.uint8
    for batch in (1, 13):
        other = generate(pipe, layout, weights, PROMPTS, 3, drawing.model_copy(update={"batch": batch}), "test")
        assert (other.int() - pictures.int()).abs().max() <= 1
    alone = generate(pipe, layout, weights[3:4], PROMPTS[1:], 3, drawing, "test")
    assert (alone[0, 0].int() - pictures[3, 1].int()).abs().max() <= 1
    chosen = generate(pipe, layout, weights[3:4], PROMPTS[1:], [2, 0], drawing, None)
    assert (chosen[0, 0].int() - pictures[3, 1, [2, 0]].int()).abs().max() <= 1


def test_pictures_are_repeatable_and_all_different(pipe, layout, draw_weights, drawing):
    weights = draw_weights(layout, 2, size=0.3)
    first, again = (generate(pipe, layout, weights, PROMPTS, 2, drawing, "test") for _ in range(2))
    assert torch.equal(first, again)
    pictures = first.flatten(0, 2).float()
    for i in range(len(pictures)):
        for j in range(i):
            assert (pictures[i] - pictures[j]).abs().max() > 1


def test_a_persons_loss_does_not_depend_on_the_others(pipe, layout, draw_weights, normal):
    weights, latents = draw_weights(layout, 4), normal(3, 4, 4, 4, 4)
    text = encode_prompts(pipe, [*PROMPTS, ""])[:, None]
    schedule = training_schedule(pipe)

    def losses(people):
        return denoising_loss(
            pipe, schedule, layout, weights[people], latents[:, people], text, 1.0, torch.Generator().manual_seed(3)
        )

    together = losses([0, 1, 2, 3])
    assert together.shape == (3, 4)
    assert together.std(1).min() > 1e-3
    for i in range(4):
        torch.testing.assert_close(losses([i]), together[:, i : i + 1], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses([2, 0]), together[:, [2, 0]], atol=1e-5, rtol=1e-5)


def test_region_weights_are_the_share_of_each_pixel_that_lies_inside(pipe):
    # The miniature UNet's pictures have 4 x 4 latent pixels.
    torch.testing.assert_close(region_weights(pipe, (0.0, 0.0, 1.0, 1.0)), torch.ones(4, 4))
    across, down = torch.tensor([0.5, 1, 1, 0]), torch.tensor([0, 1, 1, 1.0])
    expected = down[:, None] * across
    torch.testing.assert_close(region_weights(pipe, (0.125, 0.25, 0.75, 1.0)), expected * 16 / 7.5)


def test_only_the_region_counts(pipe, layout, draw_weights, normal):
    clean, text = normal(1, 1, 4, 4, 4).expand(1, 4, -1, -1, -1), encode_prompts(pipe, [PROMPTS[0]])
    weights, schedule = draw_weights(layout, 4), training_schedule(pipe)

    def losses(region):
        return denoising_loss(
            pipe,
            schedule,
            layout,
            weights,
            clean,
            text[None],
            1.0,
            torch.Generator().manual_seed(3),
            region_weights(pipe, region),
        )

    halves = losses((0.0, 0.0, 0.5, 1.0)), losses((0.5, 0.0, 1.0, 1.0))
    assert not torch.allclose(*halves)
    torch.testing.assert_close((halves[0] + halves[1]) / 2, losses((0.0, 0.0, 1.0, 1.0)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_loss_is_the_error_of_the_prediction(make_pipe, layout, normal, prediction):
    pipe = make_pipe()
    pipe.scheduler.register_to_config(prediction_type=prediction)
    schedule = training_schedule(pipe)
    clean, text = normal(1, 1, 4, 4, 4), encode_prompts(pipe, [PROMPTS[0]])
    loss = denoising_loss(
        pipe,
        schedule,
        layout,
        torch.zeros(1, layout.dimension),
        clean,
        text[None],
        3.0,
        torch.Generator().manual_seed(9),
    )
    generator = torch.Generator().manual_seed(9)
    noise = torch.randn(1, 1, 4, 4, 4, generator=generator)
    time = draw_timesteps((1, 1), 3.0, schedule, generator)[0]
    signal = schedule.alphas_cumprod[time].sqrt()
    spread = (1 - signal**2).sqrt()
    target = signal * noise - spread * clean if prediction == "v_prediction" else noise
    output = pipe.unet((signal * clean + spread * noise)[0], time, text).sample
    torch.testing.assert_close(loss, (output - target[0]).square().mean().reshape(1, 1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("shift", "median"), [(1.0, 500), (3.0, 750), (0.25, 200)])
def test_timesteps_are_shifted(pipe, shift, median):
    drawn = draw_timesteps((4000,), shift, training_schedule(pipe), torch.Generator().manual_seed(0))
    assert drawn.dtype == torch.int64
    assert drawn.min() >= 0
    assert drawn.max() <= 999
    assert drawn.median().item() == pytest.approx(median, abs=25)


def test_bfloat16_is_near_float32(pipe, make_pipe, layout, draw_weights, params, normal):
    half = make_pipe()
    for module in (half.vae, half.text_encoder, half.unet):
        module.to(torch.bfloat16).requires_grad_(False)
    space = PCASpace(3, layout)
    space.components.copy_(draw_weights(layout, 3, seed=4))
    settings = params.invert.model_copy(update={"steps": 3})
    latents, weights = normal(2, 4, 4, 4), draw_weights(layout, 2)
    drawing = params.generate.model_copy(update={"inference_steps": 2, "guidance": 2.0})
    results = []
    for each in (pipe, half):
        text = encode_prompts(each, [IDENTITY_TOKEN]).expand(2, -1, -1)
        pictures = generate(each, layout, weights, ["a photo of sks person"], 2, drawing, "test")
        prior = LatentPrior(torch.zeros(2, 3), torch.ones(3))
        _, losses = invert(each, space, prior, EncodedPhotos(latents[:, None], text[:, None]), SearchOptions(settings))
        results.append((losses, pictures.float(), encode_images(each, pictures[0, 0])))
    assert results[1][0].dtype == results[1][2].dtype == torch.float32
    torch.testing.assert_close(results[1][0], results[0][0], rtol=0.05, atol=0)
    assert (results[1][1] - results[0][1]).abs().mean() < 4


def test_bfloat16_is_for_cuda_alone(sd15_base):
    pipe = load_pipeline(sd15_base, "cpu", "bfloat16")
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32


def test_a_frozen_text_encoder_is_asked_once(pipe, make_pipe, monkeypatch):
    calls = []
    forward = type(pipe.text_encoder).forward
    monkeypatch.setattr(
        type(pipe.text_encoder),
        "forward",
        lambda self, *args, **kwargs: calls.append(1) or forward(self, *args, **kwargs),
    )
    first, again = (encode_prompts(pipe, ["a photo", "a shirt"]) for _ in range(2))
    assert len(calls) == 1 and first is again
    assert not torch.equal(encode_prompts(pipe, ["a shirt", "a photo"]), first)
    trained = make_pipe()
    for _ in range(2):
        encode_prompts(trained, ["a photo"])
    assert len(calls) == 4


def test_guidance_leads_away_from_the_negative_prompt(pipe, layout, draw_weights, params):
    def draw(**drawing):
        return generate(
            pipe,
            layout,
            draw_weights(layout, 1),
            ["a photo of sks person"],
            1,
            params.generate.model_copy(update={"inference_steps": 2, **drawing}),
            "test",
        ).float()

    assert (draw(guidance=3.0) - draw(guidance=3.0, negative_prompt="a red shirt")).abs().max() > 1
    assert torch.equal(draw(guidance=1.0), draw(guidance=1.0, negative_prompt="a red shirt"))


def test_every_model_may_have_prompts_of_its_own(pipe, layout, draw_weights, params):
    drawing = params.generate.model_copy(update={"inference_steps": 2, "batch": 4})
    weights, own = draw_weights(layout, 3), [["smiling", "old"], ["old", "bald"], ["red hair", "smiling"]]
    drawn = generate(pipe, layout, weights, own, 2, drawing, None)
    for number, prompts in enumerate(own):
        alone = generate(pipe, layout, weights[number : number + 1], prompts, 2, drawing, None)[0]
        assert (drawn[number].int() - alone.int()).abs().max() <= 1
        assert (drawn[number, 0].int() - drawn[number, 1].int()).abs().max() > 1


def test_every_model_may_have_seeds_of_its_own(pipe, layout, draw_weights, params):
    drawing = params.generate.model_copy(update={"inference_steps": 2, "batch": 4})
    weights, own = draw_weights(layout, 3), [[0, 5], [7, 0], [5, 5]]
    drawn = generate(pipe, layout, weights, ["smiling", "old"], own, drawing, None)
    for number, seeds in enumerate(own):
        alone = generate(pipe, layout, weights[number : number + 1], ["smiling", "old"], seeds, drawing, None)[0]
        assert (drawn[number].int() - alone.int()).abs().max() <= 1
    assert torch.equal(drawn[2, :, 0], drawn[2, :, 1])
    assert (drawn[0, :, 0].int() - drawn[0, :, 1].int()).abs().max() > 1
