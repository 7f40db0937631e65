"""The base model as a diffusers `StableDiffusionPipeline`: built small for this world, loaded from any directory."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from w2wpp.codec import PatchCodec
from w2wpp.errors import InputError
from w2wpp.params import BaseParams, TextParams

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

IDENTITY_TOKEN = "sks"


def build_tokenizer(words: Iterable[str], max_tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer, byte-pair encoding, in whose vocabulary every one of `words` is a single token.

    The merges are found here, as `train_new_from_iterator` breaks ties at random: a tokenizer built anew, when training
    resumes after a kill, would have other ids than those that the model has learnt.
    """
    pieces = sorted({piece for word in words for piece in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", word.lower())})
    splits = [(*piece[:-1], piece[-1] + "</w>") for piece in pieces]
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = []
    while pairs := Counter(pair for split in splits for pair in pairwise(split)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        splits = [_merge(split, *merges[-1]) for split in splits]
        vocabulary.append("".join(merges[-1]))
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens)


def _merge(split: tuple[str, ...], left: str, right: str) -> tuple[str, ...]:
    """`split` with every `left` that `right` follows joined to it."""
    merged: list[str] = []
    for part in split:
        if part == right and merged and merged[-1] == left:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def build_text_encoder(tokenizer: CLIPTokenizer, params: TextParams) -> CLIPTextModel:
    """A randomly initialised CLIP text model with `params.hidden` channels over `tokenizer`'s vocabulary."""
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=params.hidden, intermediate_size=4 * params.hidden,
        num_hidden_layers=params.layers, num_attention_heads=params.heads, max_position_embeddings=params.max_tokens,
        projection_dim=params.hidden, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id))


def build_pipeline(params: BaseParams, size: int, words: Iterable[str]) -> StableDiffusionPipeline:
    """The untrained base model for pictures of `size` pixels, with Stable Diffusion's components in miniature."""
    tokenizer = build_tokenizer(words, params.text.max_tokens)
    levels = len(params.unet.channels)
    unet = UNet2DConditionModel(
        sample_size=size // 8, in_channels=params.codec.channels, out_channels=params.codec.channels,
        layers_per_block=1, block_out_channels=tuple(params.unet.channels),
        down_block_types=("CrossAttnDownBlock2D",) * levels, up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=params.text.hidden, norm_num_groups=16, use_linear_projection=True,
        # diffusers reads `attention_head_dim` as the number of heads in this model.
        attention_head_dim=params.unet.heads)
    return StableDiffusionPipeline(
        vae=PatchCodec(params.codec.channels, tuple(params.codec.widths)),
        text_encoder=build_text_encoder(tokenizer, params.text), tokenizer=tokenizer, unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            num_train_timesteps=1000, beta_schedule=params.denoiser.noise_schedule, beta_start=0.00085, beta_end=0.012,
            prediction_type=params.denoiser.prediction, steps_offset=1),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False)


def load_pipeline(folder: str | Path, device: torch.device | str = "cpu") -> StableDiffusionPipeline:
    """Load a `StableDiffusionPipeline` directory in float32, frozen, in evaluation mode, without progress bars.

    Raises:
        InputError: the folder is missing or is not a pipeline that diffusers can load.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(str(folder), "model_index.json", "missing, so this is no StableDiffusionPipeline directory",
                         "Run `dvc repro base`, or `git checkout` the shipped one")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(folder, dtype=torch.float32, safety_checker=None,
                                                       requires_safety_checker=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(str(folder), None, f"diffusers cannot load it ({' '.join(str(error).split())[:300]})",
                         "`git checkout` the shipped one, or delete it and run `dvc repro base`") from error
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.to(device)


def encode_prompts(pipe: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    """Text embeddings [len(prompts), max_tokens, hidden] of the pipeline's text encoder."""
    tokens = pipe.tokenizer(prompts, padding="max_length", truncation=True,
                            max_length=pipe.tokenizer.model_max_length, return_tensors="pt").input_ids
    return pipe.text_encoder(tokens.to(pipe.text_encoder.device)).last_hidden_state


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [..., h, w, 3] to float32 [..., 3, h, w] in [-1, 1]."""
    return images.movedim(-1, -3).float().div(127.5).sub(1)


def random_pixels(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random rows [count] of images uint8 [n, h, w, 3], and their pixels [count, 3, h, w], half of them mirrored."""
    rows = torch.randint(len(images), (count,), generator=generator)
    pixels = to_pixels(images[rows])
    mirrored = torch.rand(count, generator=generator) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(-1)
    return rows, pixels


def to_images(pixels: Tensor) -> Tensor:
    """float [..., 3, h, w] in [-1, 1], clamped, to uint8 [..., h, w, 3]."""
    return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().movedim(-3, -1)


@torch.no_grad()
def encode_images(pipe: StableDiffusionPipeline, images: Tensor, batch: int = 256) -> Tensor:
    """uint8 [n, h, w, 3] to scaled latents [n, c, h/8, w/8] float32, the ones that the UNet works on."""
    device = pipe.vae.device
    latents = [retrieve_latents(pipe.vae.encode(to_pixels(chunk.to(device))), sample_mode="argmax")
               for chunk in images.split(batch)]
    return torch.cat(latents) * pipe.vae.config.scaling_factor
