"""DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with LoRA, many people at a time."""

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.adapters import initial_weights
from w2wpp.denoising import denoising_loss, training_schedule
from w2wpp.layout import WeightLayout
from w2wpp.params import CollectParams
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import IDENTITY_TOKEN, encode_prompts
from w2wpp.runtime import progress
from w2wpp.training import cosine_rate, step_generator

IDENTITY_PROMPT = f"a photo of {IDENTITY_TOKEN} person"


def train_loras(pipe: StableDiffusionPipeline, layout: WeightLayout, latents: Tensor, class_latents: Tensor,
                params: CollectParams, seed: int, what: str) -> tuple[Tensor, Tensor]:
    """Train one LoRA per person on that person's photos, with prior preservation on shared class images.

    All people start from the same weights and see the same noise, timesteps and photo numbers, so a person's LoRA does
    not depend on who is trained beside it, and Adam, being elementwise, makes stacked training equal to separate.

    Args:
        latents: scaled latents [n, photos, c, h, w] of each person's photos.
        class_latents: scaled latents [class images, c, h, w] of pictures made with the class prompt.

    Returns:
        Weight vectors [n, d] float32, and each person's mean loss on their photos over the last fifth of the steps [n].
    """
    schedule = training_schedule(pipe)
    people = len(latents)
    text = encode_prompts(pipe, [IDENTITY_PROMPT, CLASS_PROMPT])
    text = torch.cat([text[:1].expand(params.photos_per_step, -1, -1),
                      text[1:].expand(params.class_images_per_step, -1, -1)])
    weights = initial_weights(layout, seed).to(pipe.unet.device).repeat(people, 1).requires_grad_()
    optimizer = torch.optim.Adam([weights], params.lr, betas=(0.9, 0.99))
    row_weight = torch.tensor([1 / params.photos_per_step] * params.photos_per_step
                              + [params.prior_weight / max(1, params.class_images_per_step)]
                              * params.class_images_per_step)[:, None]
    last_losses = []
    bar = progress(range(params.steps), what)
    for step in bar:
        generator = step_generator(seed, step)
        photos = torch.randint(latents.shape[1], (params.photos_per_step,), generator=generator)
        shared = torch.randint(len(class_latents), (params.class_images_per_step,), generator=generator)
        rows = torch.cat([latents[:, photos].transpose(0, 1),
                          class_latents[shared, None].expand(-1, people, -1, -1, -1)])
        losses = denoising_loss(pipe, schedule, layout, weights, rows, text, generator)
        optimizer.param_groups[0]["lr"] = cosine_rate(step, params.steps, params.lr, warmup=10)
        optimizer.zero_grad()
        (losses * row_weight.to(losses)).sum().backward()
        optimizer.step()
        if step >= params.steps - max(1, params.steps // 5):
            last_losses.append(losses[:params.photos_per_step].detach().mean(0))
        bar.set_postfix(loss=f"{losses[:params.photos_per_step].mean().item():.4f}", refresh=False)
    return weights.detach(), torch.stack(last_losses).mean(0)
