"""Many LoRAs in one batch equal one LoRA at a time, as diffusers and peft apply it."""

import math

import numpy as np
import pytest
import torch
from torch.func import functional_call

from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import encode_prompts, to_images
from w2wpp.files.errors import InputError
from w2wpp.lora.adapters import Early, adapted, initial_weights
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import Adapted, WeightLayout

N = 3


@pytest.fixture
def inputs(pipe, normal):
    """Noisy latents, timesteps and text for N samples."""
    prompts = ["a photo of sks person", "a photo of a person, smiling", ""]
    return normal(N, 4, 4, 4), torch.tensor([1, 500, 998]), encode_prompts(pipe, prompts)


@pytest.fixture
def with_lora(make_pipe, tmp_path):
    """with_lora(vector, layout): the tiny pipeline with an exported LoRA loaded by diffusers."""

    def load(vector, layout):
        export_lora(tmp_path / "lora.safetensors", vector, layout)
        pipe = make_pipe()
        pipe.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
        return pipe

    return load


@torch.no_grad()
def test_unet_equals_one_lora_at_a_time(pipe, any_layout, draw_weights, inputs, with_lora):
    weights = draw_weights(any_layout, N)
    plain = pipe.unet(*inputs).sample
    with adapted(pipe.unet, any_layout, weights):
        together = pipe.unet(*inputs).sample
    for i in range(N):
        alone = with_lora(weights[i], any_layout).unet(*(each[i : i + 1] for each in inputs)).sample
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)
        assert (alone - plain[i]).abs().max() > 1e-2


@torch.no_grad()
def test_repeated_batch_goes_round_the_loras(pipe, layout, draw_weights, inputs):
    weights = draw_weights(layout, N)
    sample, time, text = inputs
    with adapted(pipe.unet, layout, weights):
        once = pipe.unet(sample, time, text).sample
        twice = pipe.unet(sample.repeat(2, 1, 1, 1), time.repeat(2), text.repeat(2, 1, 1)).sample
    torch.testing.assert_close(twice, once.repeat(2, 1, 1, 1), atol=1e-5, rtol=1e-5)


def test_guided_pictures_equal_one_lora_at_a_time(pipe, params, any_layout, draw_weights, with_lora):
    weights = draw_weights(any_layout, N)
    drawing = params.generate.model_copy(update={"inference_steps": 3, "guidance": 3.0})
    prompts = ["a photo of sks person", "a photo of sks person, smiling"]
    pictures = generate(pipe, any_layout, weights, prompts, 2, drawing, "test")
    for i in range(N):
        single = with_lora(weights[i], any_layout)
        for j, prompt in enumerate(prompts):
            for seed in range(2):
                start = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(seed))
                picture = single(
                    prompt, latents=start[None], num_inference_steps=3, guidance_scale=3.0, output_type="np"
                ).images[0]
                assert np.abs(picture * 255 - pictures[i, j, seed].numpy()).max() <= 1
    assert pictures.float().std() > 5


def merged(unet, layout, vector):
    """The UNet's weights with one LoRA added: W + scale * B A."""
    modules = layout.split(vector[None])
    return {
        f"{name}.weight": unet.get_submodule(name).weight + layout.scale * (up[0] @ down[0])
        for name, (down, up) in modules.items()
    }


def test_gradients_equal_those_through_one_lora(pipe, any_layout, draw_weights, inputs, normal):
    weights = draw_weights(any_layout, N).requires_grad_()
    target = normal(N, 4, 4, 4)
    with adapted(pipe.unet, any_layout, weights):
        (pipe.unet(*inputs).sample - target).square().sum().backward()
    for i in range(N):
        vector = weights[i].detach().requires_grad_()
        output = functional_call(
            pipe.unet, merged(pipe.unet, any_layout, vector), tuple(each[i : i + 1] for each in inputs)
        ).sample
        (output - target[i]).square().sum().backward()
        assert vector.grad.abs().max() > 1e-2
        torch.testing.assert_close(weights.grad[i], vector.grad, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_nothing_remains_after_the_context(pipe, layout, draw_weights, inputs):
    plain = pipe.unet(*inputs).sample
    with adapted(pipe.unet, layout, draw_weights(layout, N)):
        assert not torch.equal(pipe.unet(*inputs).sample, plain)
    assert torch.equal(pipe.unet(*inputs).sample, plain)
    with pytest.raises(RuntimeError, match="inside"), adapted(pipe.unet, layout, draw_weights(layout, N)):
        raise RuntimeError("inside")
    assert torch.equal(pipe.unet(*inputs).sample, plain)


@torch.no_grad()
def test_wrong_sizes(pipe, layout, wide_layout, draw_weights, inputs):
    plain = pipe.unet(*inputs).sample
    with (
        pytest.raises(ValueError, match="batch of 3 cannot be shared among 2"),
        adapted(pipe.unet, layout, draw_weights(layout, 2)),
    ):
        pipe.unet(*inputs)
    with (
        pytest.raises(ValueError, match=rf"\[n, {layout.dimension}\]"),
        adapted(pipe.unet, layout, draw_weights(wide_layout, N)),
    ):
        pass
    elsewhere = WeightLayout((Adapted("mid_block.attentions.7.to_q", 6, 4),), 1, 1.0)
    with (
        pytest.raises(InputError, match=r"mid_block\.attentions\.7\.to_q: the UNet has no such layer"),
        adapted(pipe.unet, elsewhere, draw_weights(elsewhere, N)),
    ):
        pass
    assert torch.equal(pipe.unet(*inputs).sample, plain)


@torch.no_grad()
def test_initial_weights_do_nothing_yet(pipe, any_layout, inputs):
    weights = initial_weights(any_layout, 5)
    assert torch.equal(weights, initial_weights(any_layout, 5))
    assert not torch.equal(weights, initial_weights(any_layout, 6))
    for down, up in any_layout.split(weights[None]).values():
        bound = 1 / math.sqrt(down.shape[-1])
        assert 0.5 * bound < down.abs().max() <= bound
        assert torch.equal(up, torch.zeros_like(up))
    with adapted(pipe.unet, any_layout, weights[None]):
        start = pipe.unet(*inputs).sample
    assert torch.equal(start, pipe.unet(*inputs).sample)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_other_loras_draw_the_noisy_steps(pipe, params, layout, draw_weights, guidance):
    late, noisy = draw_weights(layout, N), draw_weights(layout, N, seed=5)
    how = params.generate.model_copy(update={"inference_steps": 4, "guidance": guidance})
    pipe.scheduler.set_timesteps(4)
    times = pipe.scheduler.timesteps.tolist()

    def draw(weights, early=None):
        return generate(pipe, layout, weights, ["a photo of sks person"], 1, how, "test", early)

    assert torch.equal(draw(late, Early(noisy, 1000)), draw(late))
    assert torch.equal(draw(late, Early(noisy, 0)), draw(noisy))
    mixed = draw(late, Early(noisy, times[1]))

    text = encode_prompts(pipe, ["a photo of sks person"] if guidance == 1 else ["", "a photo of sks person"])
    for person in range(N):
        latents = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
        pipe.scheduler.set_timesteps(4)
        for time in pipe.scheduler.timesteps:
            weights = noisy if time >= times[1] else late
            with torch.no_grad(), adapted(pipe.unet, layout, weights[person : person + 1]):
                output = pipe.unet(latents.expand(len(text), -1, -1, -1), time, text).sample
            if guidance > 1:
                output = output[:1] + guidance * (output[1:] - output[:1])
            latents = pipe.scheduler.step(output, time, latents).prev_sample
        with torch.no_grad():
            picture = to_images(pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample)
        assert (picture[0].int() - mixed[person, 0, 0].int()).abs().max() <= 1
    assert not torch.equal(mixed, draw(late)) and not torch.equal(mixed, draw(noisy))
