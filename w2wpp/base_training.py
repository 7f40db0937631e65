"""Training of the base model: the codec, then text encoder and denoiser together."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from w2wpp.codec import PatchCodec, codec_loss
from w2wpp.params import CodecParams, DenoiserParams
from w2wpp.people import caption, class_caption
from w2wpp.pipeline import IDENTITY_TOKEN, to_pixels
from w2wpp.populations import Person
from w2wpp.runtime import progress
from w2wpp.storage import write_atomically
from w2wpp.training import cosine_rate, step_generator

CHECKPOINT_EVERY = 250
CAPTIONS_PER_PHOTO = 4


def _train(what: str, modules: dict[str, nn.Module], loss_of: Callable[[torch.Generator], Tensor], steps: int,
           lr: float, seed: int, checkpoint: Path, ema: float = 0.0) -> None:
    """AdamW with cosine decay and gradient clipping; resumes from `checkpoint`; ends with averaged weights if `ema`."""
    parameters = [p for module in modules.values() for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr, betas=(0.9, 0.99), weight_decay=1e-2)
    averages = [p.detach().clone() for p in parameters]
    first = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        for key, module in modules.items():
            module.load_state_dict(state[key])
        optimizer.load_state_dict(state["optimizer"])
        averages, first = state["averages"], state["step"]

    def save(step: int) -> None:
        state = {key: module.state_dict() for key, module in modules.items()}
        state |= {"optimizer": optimizer.state_dict(), "averages": averages, "step": step}
        write_atomically(checkpoint, lambda temporary: torch.save(state, temporary))

    bar = progress(range(first, steps), what, initial=first, total=steps)
    smooth = None
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = cosine_rate(step, steps, lr)
        loss = loss_of(step_generator(seed, step))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - min(ema, (1 + step) / (10 + step)))
        smooth = loss.item() if smooth is None else 0.98 * smooth + 0.02 * loss.item()
        bar.set_postfix(loss=f"{smooth:.4f}", refresh=False)
        if (step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps:
            save(step + 1)
    if ema:
        with torch.no_grad():
            for parameter, average in zip(parameters, averages, strict=True):
                parameter.copy_(average)


def train_codec(codec: PatchCodec, images: Tensor, params: CodecParams, seed: int, checkpoint: Path) -> None:
    """Fit the linear path on, then train the whole codec with, images uint8 [n, h, w, 3]; sets its scaling factor."""
    generator = step_generator(seed, 0)
    some = images[torch.randperm(len(images), generator=generator)[:4000]]
    codec.fit_linear(to_pixels(some))
    codec.to(memory_format=torch.channels_last).train()

    def loss_of(generator: torch.Generator) -> Tensor:
        batch = to_pixels(images[torch.randint(len(images), (params.batch,), generator=generator)])
        flip = torch.rand(params.batch, generator=generator) < 0.5
        batch[flip] = batch[flip].flip(-1)
        return codec_loss(codec, batch.contiguous(memory_format=torch.channels_last), params.latent_noise, generator)

    _train("codec", {"codec": codec}, loss_of, params.steps, params.lr, seed, checkpoint)
    with torch.no_grad():
        latents = torch.cat([codec.encode(to_pixels(chunk)).latents for chunk in some.split(200)])
    codec.register_to_config(scaling_factor=1.0 / latents.std().item())


def caption_tokens(pipe: StableDiffusionPipeline, people: list[Person], params: DenoiserParams, seed: int) -> Tensor:
    """Token ids [photos of all people, captions, max_tokens]: several wordings of every photo.

    A share of them speak of "a person" or "sks person" only, so that the class prompt is learnt and `sks` is known to
    the text encoder but bound to nobody; a share are empty, for classifier-free guidance.
    """
    rng = np.random.default_rng([seed, 1])

    def one(identity, nuisance) -> str:
        kind = rng.uniform()
        if kind < params.caption_dropout:
            return ""
        if kind < params.caption_dropout + params.class_prompt:
            token = IDENTITY_TOKEN if rng.uniform() < 0.5 else None
            return class_caption(nuisance, rng, token)
        return caption(identity, nuisance, rng)

    texts = [one(identity, nuisance) for identity, nuisances in people for nuisance in nuisances
             for _ in range(CAPTIONS_PER_PHOTO)]
    tokens = pipe.tokenizer(texts, padding="max_length", truncation=True, max_length=pipe.tokenizer.model_max_length,
                            return_tensors="pt").input_ids
    return tokens.unflatten(0, (-1, CAPTIONS_PER_PHOTO))


def train_denoiser(pipe: StableDiffusionPipeline, latents: Tensor, tokens: Tensor, params: DenoiserParams, seed: int,
                   checkpoint: Path) -> None:
    """Train UNet and text encoder of `pipe` with velocity prediction (Salimans and Ho 2022, arXiv 2202.00512).

    Args:
        latents: scaled latents [n, views, c, h, w]; the views of a photo (as it is, mirrored) share its captions.
        tokens: token ids [n, captions, max_tokens].
    """
    schedule = DDPMScheduler.from_config(pipe.scheduler.config)
    pipe.unet.to(memory_format=torch.channels_last).train()
    pipe.text_encoder.train()

    def loss_of(generator: torch.Generator) -> Tensor:
        def pick(n: int) -> Tensor:
            return torch.randint(n, (params.batch,), generator=generator)

        photo = pick(len(latents))
        clean = latents[photo, pick(latents.shape[1])]
        noise = torch.randn(clean.shape, generator=generator)
        timesteps = pick(schedule.config.num_train_timesteps)
        text = pipe.text_encoder(tokens[photo, pick(tokens.shape[1])]).last_hidden_state
        noisy = schedule.add_noise(clean, noise, timesteps).contiguous(memory_format=torch.channels_last)
        return F.mse_loss(pipe.unet(noisy, timesteps, text).sample, schedule.get_velocity(clean, noise, timesteps))

    _train("denoiser", {"unet": pipe.unet, "text_encoder": pipe.text_encoder}, loss_of, params.steps, params.lr, seed,
           checkpoint, params.ema)
