"""Files to take home: the person in hand as a LoRA, a latent, a sheet of pictures and the code that draws them."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from PIL import Image

from w2wpp.api.person import Person
from w2wpp.api.strip import strip
from w2wpp.explore.recipes import title, told
from w2wpp.explore.studio import Studio
from w2wpp.explore.visit import Shown
from w2wpp.files.errors import ArgumentError
from w2wpp.lora.export import LoraFormat

WALKS = {"GIF": "image/gif", "WebP": "image/webp"}
_FRAME = 80  # milliseconds of a picture of a walk


class Download(NamedTuple):
    """A file: its name, its media type and its content."""

    name: str
    media: str
    content: bytes


def lora(shown: Shown, format: LoraFormat = "diffusers") -> Download:
    """The LoRA in the keys of a tool, fp32; peft's folder as a zip."""
    stem = _stem(shown)
    with TemporaryDirectory() as folder:
        path = Path(folder, "lora" if format == "peft" else "lora.safetensors")
        shown.person.save(path, format)
        if format != "peft":
            name = f"{stem}.safetensors" if format == "diffusers" else f"{stem}-{format}.safetensors"
            return Download(name, "application/octet-stream", path.read_bytes())
        packed = BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            for file in sorted(path.iterdir()):
                archive.write(file, f"{stem}/{file.name}")
        return Download(f"{stem}-peft.zip", "application/zip", packed.getvalue())


def latent(shown: Shown, studio: Studio) -> Download:
    """The latent with what else a picture depends on; `w2wpp.Person.at(torch.tensor(z), space)` makes the person.

    `in_space` says whether z is all of the person: an edit or a refinement keeps what a LoRA has outside the space.
    """
    person, settings = shown.person, studio.drawing(shown.request.prompt)
    content = {
        "space": {"name": shown.space, "kind": person.space.kind, "layout": person.layout.hash},
        "recipe": told(shown.recipe),
        "z": person.z.tolist(),
        "in_space": bool(torch.equal(Person.at(person.z, person.space).weights, person.weights)),
        "prompt": shown.request.prompt,
        "seeds": list(shown.request.seeds),
        "inference_steps": settings.inference_steps,
        "guidance": settings.guidance,
    }
    return Download(f"{_stem(shown)}.json", "application/json", json.dumps(content, indent=1).encode())


def sheet(shown: Shown) -> Download:
    """The pictures side by side, PNG."""
    return Download(
        f"{_stem(shown)}.png", "image/png", png(strip([(f"{title(shown.recipe)} ({shown.space})", shown.pictures)]))
    )


def snippet(shown: Shown, studio: Studio) -> Download:
    """Python that draws the same pictures with diffusers, from the LoRA's file beside it."""
    pipe, settings, stem = studio.pipe, studio.drawing(shown.request.prompt), _stem(shown)
    seeds, codec = list(shown.request.seeds), type(studio.pipe.vae).__module__
    code = _SNIPPET.format(
        stem=stem,
        products=_PRODUCTS if shown.person.layout.rank == 1 else "",
        codec=f"import {codec}  # the codec of this base model\n" if codec.startswith("w2wpp") else "",
        base=studio.base,
        dtype=pipe.unet.dtype,
        device=pipe.device.type,
        batches=[seeds[first : first + settings.batch] for first in range(0, len(seeds), settings.batch)],
        prompt=shown.request.prompt,
        negative=settings.negative_prompt,
        steps=settings.inference_steps,
        guidance=settings.guidance,
    )
    return Download(f"{stem}.py", "text/x-python", code.encode())


# Routines for matrix times vector, which a LoRA of rank 1 comes to, add up in another order than those for batches.
_PRODUCTS = """\
for part in pipe.unet.modules():  # another routine for products of rank 1 would change the last bits
    if isinstance(part, torch.nn.Linear) and 1 in part.weight.shape:
        part.forward = lambda x, weight=part.weight: (x[:, None] @ weight.mT[None])[:, 0]
"""
_SNIPPET = """\
# Draws the person of {stem}.safetensors as the page showed them.
import torch
{codec}from diffusers import StableDiffusionPipeline

base = {base!r}  # folder or name of the base model
pipe = StableDiffusionPipeline.from_pretrained(base, dtype={dtype}, safety_checker=None).to({device!r})
for part in (pipe.unet, pipe.vae):  # another order of numbers in memory would change the last bits
    part.to(memory_format=torch.channels_last)
pipe.load_lora_weights(".", weight_name="{stem}.safetensors")
{products}size, channels = pipe.unet.config.sample_size, pipe.unet.config.in_channels
for seeds in {batches!r}:
    noise = [torch.randn(channels, size, size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
    pictures = pipe(
        {prompt!r},
        negative_prompt={negative!r},
        num_images_per_prompt=len(seeds),
        latents=torch.stack(noise).to(pipe.device, pipe.dtype),
        num_inference_steps={steps},
        guidance_scale={guidance!r},
    ).images
    for seed, picture in zip(seeds, pictures):
        picture.save(f"{stem}-{{seed}}.png")
"""


def walk(pictures: Sequence[Image.Image], format: str, stem: str = "walk") -> Download:
    """Pictures one after the other, for ever: a GIF or a WebP, the latter without loss.

    Raises:
        ArgumentError: naming `format`.
    """
    if format not in WALKS:
        raise ArgumentError(None, "format", f"unknown format {format!r}", f"Use {' or '.join(WALKS)}")
    content = BytesIO()
    lossless = {"lossless": True} if format == "WebP" else {}
    pictures[0].save(content, format, save_all=True, append_images=pictures[1:], duration=_FRAME, loop=0, **lossless)
    return Download(f"{stem}.{format.lower()}", WALKS[format], content.getvalue())


def _stem(shown: Shown) -> str:
    """A file name of a person."""
    return re.sub(r"[^a-z0-9]+", "-", title(shown.recipe).lower()).strip("-")[:60] or "person"


def png(picture: Image.Image) -> bytes:
    """A picture to the bit, as a PNG file."""
    content = BytesIO()
    picture.save(content, "PNG")
    return content.getvalue()
