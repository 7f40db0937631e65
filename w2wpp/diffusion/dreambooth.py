"""DreamBooth (Ruiz et al. 2023, arXiv 2208.12242) with LoRA, many people at a time."""

from functools import partial
from typing import Annotated, Literal

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from pydantic import Field
from torch import Tensor

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.denoising import GenerateParams, denoising_loss, generate, training_schedule
from w2wpp.diffusion.pipeline import encode_images, encode_prompts
from w2wpp.diffusion.prompts import CLASS_PROMPT, IDENTITY_PROMPT, described
from w2wpp.files.errors import InputError
from w2wpp.files.settings import Count, Positive, Section, Shift, Weight, Whole
from w2wpp.lora.layout import WeightLayout


class DreamBoothParams(Section):
    """Training of LoRAs on photos of people."""

    trained: Literal["both", "B"] = "B"
    """`both`: A and B, as in weights2weights; `B`: A is frozen, so a LoRA's effect is linear in its weights (LoRA-FA).
    """
    steps: Count = 600
    """Optimisation steps of every LoRA."""
    lr: Annotated[float, Field(gt=0, le=1)] = 2.0e-2
    """Learning rate of Adam."""
    adam_epsilon: Positive = 1.0e-3
    """Adam's epsilon; a large one leaves weights unchanged that a person's photos hardly constrain."""
    timestep_shift: Shift = 1.0
    """Shift of the timesteps: 1 is uniform; a larger shift draws more of the noisy ones."""
    photos_per_step: Count = 2
    """Photos of a person in every step."""
    mirrored: bool = False
    """Also train on the mirror image of each photo."""
    captions: bool = True
    """The prompt of a photo describes what it shows besides the person."""
    class_images: Count = 64
    """Pictures of the class prompt for prior preservation, shared by all people."""
    class_images_per_step: Whole = 0
    """Class pictures in every step; 1 or more turns prior preservation on."""
    prior_weight: Weight = 1.0
    """Weight of the class pictures' loss."""


CAPTIONED = ["photo_expression", "photo_shirt", "photo_background"]


@torch.no_grad()
def photo_prompts(
    pipe: StableDiffusionPipeline, manifest: pd.DataFrame, captions: bool, prompt: str = IDENTITY_PROMPT
) -> Tensor:
    """Text embeddings [n, length, hidden] of the prompts that go with n photos of people.

    Args:
        manifest: a row per photo, as in a portraits manifest.
        captions: whether a prompt describes what else its photo shows, so that the LoRA need not.
        prompt: the beginning of every prompt.

    Raises:
        InputError: a column that captions need is missing.
    """
    missing = [column for column in CAPTIONED if column not in manifest]
    if captions and missing:
        raise InputError(
            "manifest.csv",
            missing[0],
            "column missing, but captions need it",
            "Add it, or train and invert without captions",
        )
    prompts = (
        [described(prompt, *row) for row in manifest[CAPTIONED].itertuples(index=False)]
        if captions
        else [prompt] * len(manifest)
    )
    different = sorted(set(prompts))
    return encode_prompts(pipe, different)[torch.tensor([different.index(each) for each in prompts])]


@torch.no_grad()
def prompted_latents(
    pipe: StableDiffusionPipeline, photos: Tensor, manifest: pd.DataFrame, params: DreamBoothParams
) -> tuple[Tensor, Tensor]:
    """Latents [n, photos, c, h, w] of photos uint8 [n, photos, h, w, 3], and the embeddings of their prompts.

    With `params.mirrored`, mirror images are further photos.
    """
    text = photo_prompts(pipe, manifest, params.captions).unflatten(0, photos.shape[:2])
    if params.mirrored:
        photos, text = torch.cat([photos, photos.flip(3)], 1), torch.cat([text, text], 1)
    return encode_images(pipe, photos.flatten(0, 1)).unflatten(0, photos.shape[:2]), text


def class_images(
    pipe: StableDiffusionPipeline, layout: WeightLayout, params: DreamBoothParams, drawing: GenerateParams
) -> Tensor:
    """Latents [class_images, c, h, w] of the base model's own pictures of the class prompt."""
    unadapted = torch.zeros(1, layout.dimension)
    pictures = generate(pipe, layout, unadapted, [CLASS_PROMPT], params.class_images, drawing, "class images")
    return encode_images(pipe, pictures[0, 0])


def train_loras(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    start: Tensor,
    latents: Tensor,
    text: Tensor,
    class_latents: Tensor,
    params: DreamBoothParams,
    seed: int,
    label: str,
) -> tuple[Tensor, Tensor]:
    """Train one LoRA per person on that person's photos, with prior preservation on shared class images.

    All people see the same noise, timesteps and photo numbers, so a person's LoRA does not depend on the other people.
    Adam is elementwise, so stacked training equals separate training.

    Args:
        start: weight vector [d] that every LoRA starts from, see `initial_weights` and `w2wpp.diffusion.starts`.
        latents: scaled latents [n, photos, c, h, w] of each person's photos.
        text: text embeddings [n, photos, length, hidden] of the prompt of each photo.
        class_latents: scaled latents [class images, c, h, w] of pictures made with the class prompt.

    Returns:
        Weight vectors [n, d] float32, and each person's mean loss on their photos over the last fifth of the steps [n].
    """
    schedule = training_schedule(pipe)
    people = len(latents)
    class_text = encode_prompts(pipe, [CLASS_PROMPT]).expand(params.class_images_per_step, people, -1, -1)
    weights = start.to(pipe.unet.device).repeat(people, 1).requires_grad_()
    if params.trained == "B":
        in_B = layout.in_B.to(weights.device)
        weights.register_hook(lambda gradient: gradient * in_B)
    optimizer = torch.optim.Adam([weights], params.lr, betas=(0.9, 0.99), eps=params.adam_epsilon)
    row_weight = torch.tensor(
        [1 / params.photos_per_step] * params.photos_per_step
        + [params.prior_weight / max(1, params.class_images_per_step)] * params.class_images_per_step
    )[:, None]
    last_losses = []

    def losses_of(step: int) -> Tensor:
        generator = step_generator(seed, step)
        photos = torch.randint(latents.shape[1], (params.photos_per_step,), generator=generator)
        shared = torch.randint(len(class_latents), (params.class_images_per_step,), generator=generator)
        rows = torch.cat(
            [latents[:, photos].transpose(0, 1), class_latents[shared, None].expand(-1, people, -1, -1, -1)]
        )
        prompts = torch.cat([text[:, photos].transpose(0, 1), class_text])
        losses = denoising_loss(pipe, schedule, layout, weights, rows, prompts, params.timestep_shift, generator)
        if step >= params.steps - max(1, params.steps // 5):
            last_losses.append(losses[: params.photos_per_step].detach().mean(0))
        return (losses * row_weight.to(losses)).sum(0)

    train(label, losses_of, optimizer, partial(cosine_rate, steps=params.steps, lr=params.lr, warmup=10), params.steps)
    return weights.detach(), torch.stack(last_losses).mean(0)
