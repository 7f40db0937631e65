"""A start from gradients spans the differences between people, and nothing else."""

import pytest
import torch

from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import draw_timesteps, prediction_target, training_schedule
from w2wpp.diffusion.pipeline import encode_prompts
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.diffusion.starts import DRAWS_PER_PHOTO, gradient_start, person_gradients, spanning_rows
from w2wpp.files.errors import InputError
from w2wpp.lora.layout import WeightLayout


@pytest.fixture
def narrow_layout(pipe):
    return WeightLayout.of_unet(pipe.unet, 2, 4.0, ["to_v"])


@pytest.fixture
def photos(normal):
    return normal(3, 2, 4, 4, 4)


@pytest.fixture
def text(pipe):
    return encode_prompts(pipe, [IDENTITY_PROMPT]).expand(3, 2, -1, -1)


def test_rows_span_what_people_differ_in(normal):
    directions = torch.linalg.qr(normal(10, 3)).Q.T
    people = normal(40, 6, 3) @ directions + 5 * normal(1, 6, 10)  # the shared part does not count
    chance = [0.3 * normal(40, 6, 10) for _ in range(2)]
    rows = spanning_rows(people + chance[0], people + chance[1], 3)
    assert rows.shape == (3, 10)
    torch.testing.assert_close(rows @ rows.T, torch.eye(3), atol=1e-5, rtol=0)
    assert (rows @ directions.T).square().sum() > 2.8
    torch.testing.assert_close(rows, spanning_rows(people + chance[1], people + chance[0], 3), atol=1e-4, rtol=0)


def test_chance_that_is_not_repeated_does_not_count(normal):
    person, chance = torch.eye(8)[0], torch.eye(8)[1]
    size = normal(1000, 1, 1)
    one, other = (size * person + 3 * normal(1000, 1, 1) * chance for _ in range(2))
    assert spanning_rows(one, other, 1)[0, 0].abs() > 0.9


def test_gradients_are_those_of_the_weights(pipe, narrow_layout, photos, text):
    even, odd = person_gradients(pipe, narrow_layout, photos, text, 1.0, 0, people_at_once=2)
    name = narrow_layout.layers[0].module
    weight = dict(pipe.unet.named_modules())[name].weight
    schedule, expected = training_schedule(pipe), torch.zeros(2, *weight.shape)
    for draw in range(2 * DRAWS_PER_PHOTO):
        generator = step_generator(0, draw)
        noise = torch.randn(1, *photos.shape[2:], generator=generator)
        timestep = draw_timesteps((1,), 1.0, schedule, generator)
        clean = photos[1:2, draw % 2]
        weight.requires_grad_(True)
        output = pipe.unet(schedule.add_noise(clean, noise, timestep), timestep, text[1, :1]).sample
        loss = (output - prediction_target(schedule, clean, noise, timestep)).square().mean()
        expected[draw % 2] += torch.autograd.grad(loss, weight)[0]
        weight.requires_grad_(False)
    for gradients, one in zip((even, odd), expected, strict=True):
        assert gradients[name].shape == (3, *weight.shape)
        torch.testing.assert_close(gradients[name][1], one, atol=1e-6, rtol=1e-3)


def test_the_start_is_a_lora_that_does_nothing_yet(pipe, narrow_layout, photos, text):
    halves = person_gradients(pipe, narrow_layout, photos, text, 1.0, 0, people_at_once=8)
    start = gradient_start(narrow_layout, halves)
    assert start.shape == (narrow_layout.dimension,)
    assert (start[narrow_layout.in_B] == 0).all()
    for down, _ in narrow_layout.split(start[None]).values():
        torch.testing.assert_close(down[0] @ down[0].T, torch.eye(2) / 3, atol=1e-5, rtol=0)
    again = gradient_start(narrow_layout, person_gradients(pipe, narrow_layout, photos, text, 1.0, 0, 8))
    assert torch.equal(start, again)


def test_a_rank_beyond_the_layers_is_refused(pipe, photos, text):
    layout = WeightLayout.of_unet(pipe.unet, 64, 1.0, ["to_q"])
    fan_in = layout.layers[0].fan_in
    assert fan_in < 64
    halves = tuple(
        {layer.module: torch.ones(3, layer.fan_out, layer.fan_in) for layer in layout.layers} for _ in range(2)
    )
    with pytest.raises(InputError, match=r"LoraParams: rank.*" + str(fan_in)):
        gradient_start(layout, halves)
