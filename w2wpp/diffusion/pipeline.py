"""The base model as a diffusers `StableDiffusionPipeline`: built small for this world, loaded from any directory."""

import re
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator
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
from w2wpp.files.errors import InputError
from w2wpp.run.params import BaseParams, TextParams

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

IDENTITY_TOKEN = "sks"
REFERENCE = "pretrained.json"   # in place of a model, says where it lies
PIXELS_AT_ONCE = 2**20          # of pictures that are encoded
_EMBEDDED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


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


def model_folder(folder: str | Path) -> Path:
    """Where the files of the base model in a folder lie: there, or where a reference to another model says.

    Raises:
        InputError: the model that is referred to is not there any more, or not the same.
    """
    folder = Path(folder)
    if not (folder / REFERENCE).is_file():
        return folder
    # Not loaded before, as a zoo in training begins anew when code that is loaded changes (see `scratch_folder`).
    from w2wpp.diffusion.pretrained import follow_reference
    return follow_reference(folder / REFERENCE)


def load_pipeline(folder: str | Path, device: torch.device | str = "cpu", dtype: str = "float32"
                  ) -> StableDiffusionPipeline:
    """Load a `StableDiffusionPipeline` directory, frozen, in evaluation mode, without progress bars.

    Args:
        folder: holds the model, or a reference to it (see `model_folder`).
        dtype: "float32", or "bfloat16" for CUDA devices; others have float32 whatever this says.

    Raises:
        InputError: the folder is missing or is not a pipeline that diffusers can load.
    """
    half = dtype == "bfloat16" and torch.device(device).type == "cuda"
    where, folder = Path(folder), model_folder(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(str(folder), "model_index.json", "missing, so this is no StableDiffusionPipeline directory",
                         "Run `dvc repro base`, or `git checkout` the shipped one")
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder, dtype=torch.bfloat16 if half else torch.float32, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False, local_files_only=True)
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(str(folder), None, f"diffusers cannot load it ({' '.join(str(error).split())[:300]})",
                         "`git checkout` the shipped one, or delete it and run `dvc repro base`" if folder == where else
                         "Fetch it again, then run `dvc repro -f base`") from error
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.to(device)


def check_photo_size(pipe: StableDiffusionPipeline, images: Tensor) -> None:
    """Refuse photos uint8 [..., h, w, 3] of another size than the pictures that the base model draws.

    Raises:
        InputError: they are.
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    if images.shape[-3:-1] != (side, side):
        raise InputError("data/portraits", None, f"photos of {images.shape[-2]} x {images.shape[-3]} pixels, but the "
                         f"base model draws {side} x {side}", "Set portraits.photo_size (portraits.size of rendered "
                         f"ones) to {side}")


def encode_prompts(pipe: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    """Text embeddings [len(prompts), max_tokens, hidden] of the pipeline's text encoder.

    A frozen encoder, as `load_pipeline` gives it, is asked once for the same prompts: do not write to the result.
    """
    encoder = pipe.text_encoder
    frozen = not any(parameter.requires_grad for parameter in encoder.parameters())
    known = _EMBEDDED.setdefault(encoder, {}) if frozen else {}
    key = (*prompts, encoder.device, encoder.dtype)
    if key not in known:
        tokens = pipe.tokenizer(prompts, padding="max_length", truncation=True,
                                max_length=pipe.tokenizer.model_max_length, return_tensors="pt").input_ids
        known[key] = encoder(tokens.to(encoder.device)).last_hidden_state
    return known[key]


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


def _encode(pipe: StableDiffusionPipeline, images: Tensor) -> Iterator[Tensor]:
    """Latents before scaling, in the codec's dtype, of as many of uint8 images [n, h, w, 3] as fit at once."""
    for chunk in images.split(max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))):
        pixels = to_pixels(chunk.to(pipe.vae.device)).to(pipe.vae.dtype)
        yield retrieve_latents(pipe.vae.encode(pixels), sample_mode="argmax")


@torch.no_grad()
def encode_images(pipe: StableDiffusionPipeline, images: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] to scaled latents [n, c, h/8, w/8] float32, the ones that the UNet works on."""
    return torch.cat([latents.float() for latents in _encode(pipe, images)]) * pipe.vae.config.scaling_factor


@torch.no_grad()
def reconstruct(pipe: StableDiffusionPipeline, images: Tensor) -> Tensor:
    """What the codec makes of uint8 images [n, h, w, 3]: float32 [n, 3, h, w], nominally in [-1, 1], on the CPU."""
    return torch.cat([pipe.vae.decode(latents).sample.float().cpu() for latents in _encode(pipe, images)])
