"""Training of the base model: the codec, then text encoder and denoiser together."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from torch import Tensor, nn
from transformers import CLIPTextModel

from w2wpp.codec import PatchCodec, codec_loss
from w2wpp.compute.schedules import steady_rate, step_generator
from w2wpp.compute.training import Checkpoint, train
from w2wpp.diffusion.denoising import draw_timesteps, prediction_target, training_schedule
from w2wpp.diffusion.pipeline import random_pixels, to_pixels
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.world.base_model import CodecParams, DenoiserParams
from w2wpp.world.captions import caption, class_caption
from w2wpp.world.populations import Person
from w2wpp.world.rows import identity_factors

CAPTIONS_PER_PHOTO = 4
DECODER_EMA = 0.999
MakeOptimizer = Callable[[list[nn.Parameter], float], torch.optim.Optimizer]
OPTIMIZER: MakeOptimizer = partial(torch.optim.AdamW, betas=(0.9, 0.99), weight_decay=1e-2)


def train_modules(
    label: str,
    modules: dict[str, nn.Module],
    loss_of: Callable[[torch.Generator], Tensor],
    steps: int,
    lr: float,
    seed: int,
    checkpoint: Path,
    ema: float = 0.0,
    make_optimizer: MakeOptimizer = OPTIMIZER,
) -> None:
    """Train parts of the base model in place, with clipped gradients, resumed from `checkpoint`.

    Args:
        modules: the trained modules, by their names in the checkpoint.
        loss_of: the loss (scalar) on a batch drawn from the generator, which depends on the step alone.
        ema: see `w2wpp.compute.training.train`.
        make_optimizer: called with the parameters and `lr`.
    """
    parameters = [parameter for module in modules.values() for parameter in module.parameters()]
    rate = partial(steady_rate, steps=steps, lr=lr)
    train(
        label,
        lambda step: loss_of(step_generator(seed, step)),
        make_optimizer(parameters, lr),
        rate,
        steps,
        clip=1.0,
        ema=ema,
        checkpoint=Checkpoint(checkpoint, modules),
    )


def train_codec(codec: PatchCodec, images: Tensor, params: CodecParams, seed: int, checkpoint: Path) -> None:
    """Fit the linear path to images uint8 [n, h, w, 3], train the whole codec on them, and set its scaling factor."""
    generator = step_generator(seed, 0)
    some = images[torch.randperm(len(images), generator=generator)[:4000]]
    codec.fit_linear(to_pixels(some).to(codec.device))
    codec.to(memory_format=torch.channels_last).train()

    train_modules(
        "codec",
        {"codec": codec},
        lambda generator: _codec_loss_of(codec, images, params, generator),
        params.steps,
        params.lr,
        seed,
        checkpoint,
    )
    with torch.no_grad():
        latents = torch.cat([codec.encode(to_pixels(chunk).to(codec.device)).latents for chunk in some.split(200)])
    codec.register_to_config(scaling_factor=1.0 / latents.std().item())


def refine_decoder(codec: PatchCodec, images: Tensor, params: CodecParams, seed: int, checkpoint: Path) -> None:
    """Train the decoder for another `params.decoder_steps`; the encoder, and so every latent, does not change."""
    encoders = (codec.linear_encoder, codec.encoder)
    for encoder in encoders:
        encoder.requires_grad_(False)

    train_modules(
        "decoder",
        {"linear_decoder": codec.linear_decoder, "decoder": codec.decoder},
        lambda generator: _codec_loss_of(codec, images, params, generator),
        params.decoder_steps,
        params.lr,
        seed + 1,
        checkpoint,
        ema=DECODER_EMA,
    )
    for encoder in encoders:
        encoder.requires_grad_(True)


def _codec_loss_of(codec: PatchCodec, images: Tensor, params: CodecParams, generator: torch.Generator) -> Tensor:
    """Loss of a random batch of images uint8 [n, h, w, 3]."""
    batch = random_pixels(images, params.batch, generator)[2].to(codec.device, memory_format=torch.channels_last)
    return codec_loss(codec, batch, params.latent_noise, generator)


@contextmanager
def named(text_encoder: CLIPTextModel, token: int, names: Tensor) -> Iterator[None]:
    """Within this context names[i] is added to the embedding of `token` in sample i; names [b, hidden]."""

    def move(_, inputs: tuple[Tensor, ...], embeddings: Tensor) -> Tensor:
        return embeddings + names[:, None] * (inputs[0] == token)[..., None]

    with text_encoder.get_input_embeddings().register_forward_hook(move):
        yield


def people_factors(people: list[Person]) -> Tensor:
    """The factors of every person [n, f], each standardised over the people."""
    factors = torch.from_numpy(np.stack([identity_factors(identity) for identity, _ in people]))
    return (factors - factors.mean(0)) / factors.std(0).clamp(min=1e-6)


def caption_tokens(pipe: StableDiffusionPipeline, people: list[Person], params: DenoiserParams, seed: int) -> Tensor:
    """Token ids [photos of all people, captions, max_tokens]: several captions of every photo.

    One share of captions is empty, for classifier-free guidance. Another share is "a person" alone, to learn the class
    prompt. Another share has "sks person", where `sks` denotes the person's name (see `train_denoiser`).
    """
    rng = np.random.default_rng([seed, 1])

    def one(identity, nuisance) -> str:
        kind = rng.uniform()
        if kind < params.caption_dropout:
            return ""
        if kind < params.caption_dropout + params.class_prompt:
            return class_caption(nuisance, rng)
        if kind < params.caption_dropout + params.class_prompt + params.name_prompt:
            return class_caption(nuisance, rng, IDENTITY_TOKEN)
        return caption(identity, nuisance, rng)

    texts = [
        one(identity, nuisance)
        for identity, nuisances in people
        for nuisance in nuisances
        for _ in range(CAPTIONS_PER_PHOTO)
    ]
    tokens = pipe.tokenizer(
        texts, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length, return_tensors="pt"
    ).input_ids
    return tokens.unflatten(0, (-1, CAPTIONS_PER_PHOTO))


def train_denoiser(
    pipe: StableDiffusionPipeline,
    latents: Tensor,
    tokens: Tensor,
    factors: Tensor,
    params: DenoiserParams,
    seed: int,
    checkpoint: Path,
    make_optimizer: MakeOptimizer = OPTIMIZER,
) -> None:
    """Train UNet and text encoder of `pipe` together.

    Stable Diffusion was trained on captions with thousands of names, so it has learned that one word can denote one
    face. Identity LoRAs rely on this. Here a linear map of a person's factors represents the name and is added to the
    embedding of `sks`. The map is trained jointly and then discarded. Without it, `sks` denotes anybody.

    Args:
        latents: scaled latents [n, views, c, h, w]; the views of a photo (original, mirrored) share its captions.
        tokens: token ids [n, captions, max_tokens].
        factors: standardised factors [n, f] of the person on each photo.
    """
    schedule = training_schedule(pipe)
    pipe.unet.to(memory_format=torch.channels_last).train()
    pipe.text_encoder.train()
    name_of = nn.Linear(factors.shape[1], pipe.text_encoder.config.hidden_size, bias=False)
    nn.init.normal_(name_of.weight, std=0.02, generator=step_generator(seed, 0))
    device = pipe.unet.device
    name_of.to(device)
    token = pipe.tokenizer.convert_tokens_to_ids(f"{IDENTITY_TOKEN}</w>")

    def loss_of(generator: torch.Generator) -> Tensor:
        def pick(n: int) -> Tensor:
            return torch.randint(n, (params.batch,), generator=generator)

        photo = pick(len(latents))
        clean = latents[photo, pick(latents.shape[1])].to(device)
        noise = torch.randn(clean.shape, generator=generator).to(device)
        timesteps = draw_timesteps((params.batch,), params.timestep_shift, schedule, generator).to(device)
        known = (torch.rand(params.batch, 1, generator=generator) >= params.name_dropout).to(device)
        with named(pipe.text_encoder, token, name_of(factors[photo].to(device)) * known):
            text = pipe.text_encoder(tokens[photo, pick(tokens.shape[1])].to(device)).last_hidden_state
        noisy = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(
            pipe.unet(noisy, timesteps, text).sample, prediction_target(schedule, clean, noise, timesteps)
        )

    modules = {"unet": pipe.unet, "text_encoder": pipe.text_encoder, "name_of": name_of}
    train_modules("denoiser", modules, loss_of, params.steps, params.lr, seed, checkpoint, params.ema, make_optimizer)
