"""The base model as a diffusers `StableDiffusionPipeline`: loading it, latents of pixels, pixels of latents."""

import weakref
from collections.abc import Iterator
from pathlib import Path

import diffusers
import torch
import transformers
from diffusers import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion_img2img import retrieve_latents
from safetensors import SafetensorError
from torch import Tensor

import w2wpp.codec  # noqa: F401  diffusers takes the codec that a base model names from modules that are loaded
from w2wpp.diffusion.pretrained import model_folder
from w2wpp.files.errors import InputError

diffusers.utils.logging.set_verbosity_error()
diffusers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

PIXELS_AT_ONCE = 2**20  # pixels that are encoded in one call
_EMBEDDED: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def load_pipeline(
    folder: str | Path, device: torch.device | str = "cpu", dtype: str = "float32"
) -> StableDiffusionPipeline:
    """Load a `StableDiffusionPipeline` directory, frozen, in evaluation mode, without progress bars.

    Args:
        folder: holds the model, or a reference to it (see `model_folder`).
        dtype: "float32", or "bfloat16" for CUDA devices; other devices always use float32.

    Raises:
        InputError: the folder is missing or is not a pipeline that diffusers can load.
    """
    half = dtype == "bfloat16" and torch.device(device).type == "cuda"
    where, folder = Path(folder), model_folder(folder)
    if not (folder / "model_index.json").is_file():
        raise InputError(
            str(folder),
            "model_index.json",
            "missing, so this is no StableDiffusionPipeline directory",
            "Run `dvc repro base`, or `git checkout` the shipped one",
        )
    try:
        pipe = StableDiffusionPipeline.from_pretrained(
            folder,
            dtype=torch.bfloat16 if half else torch.float32,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError, KeyError, SafetensorError) as error:
        raise InputError(
            str(folder),
            None,
            f"diffusers cannot load it ({' '.join(str(error).split())[:300]})",
            "`git checkout` the shipped one, or delete it and run `dvc repro base`"
            if folder == where
            else "Fetch it again, then run `dvc repro -f base`",
        ) from error
    pipe.set_progress_bar_config(disable=True)
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.requires_grad_(False).eval()
    pipe.unet.to(memory_format=torch.channels_last)
    pipe.vae.to(memory_format=torch.channels_last)
    return pipe.to(device)


def encode_prompts(pipe: StableDiffusionPipeline, prompts: list[str]) -> Tensor:
    """Text embeddings [len(prompts), max_tokens, hidden] of the pipeline's text encoder.

    Embeddings of a frozen encoder, as `load_pipeline` returns it, are cached by prompt: do not write to the result.
    """
    encoder = pipe.text_encoder
    frozen = not any(parameter.requires_grad for parameter in encoder.parameters())
    known = _EMBEDDED.setdefault(encoder, {}) if frozen else {}
    key = (*prompts, encoder.device, encoder.dtype)
    if key not in known:
        tokens = pipe.tokenizer(
            prompts,
            padding="max_length",
            truncation=True,
            max_length=pipe.tokenizer.model_max_length,
            return_tensors="pt",
        ).input_ids
        known[key] = encoder(tokens.to(encoder.device)).last_hidden_state
    return known[key]


def to_pixels(images: Tensor) -> Tensor:
    """uint8 [..., h, w, 3] to float32 [..., 3, h, w] in [-1, 1]."""
    return images.movedim(-1, -3).float().div(127.5).sub(1)


def random_pixels(images: Tensor, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random rows of images uint8 [n, h, w, 3], half of them mirrored.

    Returns:
        Row numbers int64 [count], which of them are mirrored, bool [count], and pixels [count, 3, h, w].
    """
    rows = torch.randint(len(images), (count,), generator=generator)
    pixels = to_pixels(images[rows])
    mirrored = torch.rand(count, generator=generator) < 0.5
    pixels[mirrored] = pixels[mirrored].flip(-1)
    return rows, mirrored, pixels


def to_images(pixels: Tensor) -> Tensor:
    """float [..., 3, h, w] in [-1, 1], clamped, to uint8 [..., h, w, 3]."""
    return pixels.clamp(-1, 1).add(1).mul(127.5).round().byte().movedim(-3, -1)


def _encode(pipe: StableDiffusionPipeline, images: Tensor) -> Iterator[Tensor]:
    """Latents before scaling, in the codec's dtype, of consecutive batches of uint8 images [n, h, w, 3]."""
    for chunk in images.split(max(1, PIXELS_AT_ONCE // (images.shape[1] * images.shape[2]))):
        pixels = to_pixels(chunk.to(pipe.vae.device)).to(pipe.vae.dtype)
        yield retrieve_latents(pipe.vae.encode(pixels), sample_mode="argmax")


@torch.no_grad()
def encode_images(pipe: StableDiffusionPipeline, images: Tensor) -> Tensor:
    """uint8 [n, h, w, 3] to scaled latents [n, c, h/8, w/8] float32, the UNet's input."""
    return torch.cat([latents.float() for latents in _encode(pipe, images)]) * pipe.vae.config.scaling_factor


@torch.no_grad()
def reconstruct(pipe: StableDiffusionPipeline, images: Tensor) -> Tensor:
    """The codec's reconstruction of uint8 images [n, h, w, 3]: float32 [n, 3, h, w], about in [-1, 1], on the CPU."""
    return torch.cat([pipe.vae.decode(latents).sample.float().cpu() for latents in _encode(pipe, images)])
