"""Train the base model: a small text-conditioned latent diffusion model of this world.

Renders its own people, trains the codec, then text encoder and UNet, and saves a diffusers `StableDiffusionPipeline`
directory in float16. Every part resumes from .scratch/base after a kill. Takes about an hour on two cores.
"""

import shutil
from pathlib import Path

import numpy as np
import torch

from w2wpp.base_training import caption_tokens, train_codec, train_denoiser
from w2wpp.people import CAPTION_WORDS
from w2wpp.pipeline import IDENTITY_TOKEN, build_pipeline, encode_images
from w2wpp.populations import Person, draw, sample_people
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.storage import scratch_folder, write_atomically
from w2wpp.training import chunks

PEOPLE_PER_CHUNK = 500


def render_resumably(people: list[Person], size: int, scratch: Path) -> torch.Tensor:
    """Photos uint8 [people * photos, size, size, 3]; finished chunks are read back from `scratch`."""
    images = []
    for first, count in chunks(len(people), PEOPLE_PER_CHUNK):
        path = scratch / f"{first:06d}-{count}.npy"
        if not path.exists():
            drawn = draw(people[first:first + count], size, f"people {first + count}/{len(people)}").numpy()
            write_atomically(path, lambda temporary, drawn=drawn: np.save(temporary.open("wb"), drawn))
        images.append(torch.from_numpy(np.load(path)).flatten(0, 1))
    return torch.cat(images)


def main() -> None:
    args = stage_arguments(__doc__, out="data/base", scratch=".scratch/base")
    base, size, seed = args.params.base, args.params.portraits.size, args.params.seed
    photos = {"seed": seed, "size": size, "photos": base.photos}
    codec = photos | {"people": base.people, "codec": base.codec.model_dump()}
    whole = photos | {"base": base.model_dump()}

    torch.manual_seed(seed)
    pipe = build_pipeline(base, size, [*CAPTION_WORDS, IDENTITY_TOKEN])
    people = sample_people(seed, "base", base.people, base.photos)
    images = render_resumably(people, size, scratch_folder(args.scratch, **photos))

    train_codec(pipe.vae, images, base.codec, seed, scratch_folder(args.scratch, **codec) / "codec.pt")
    pipe.vae.eval()
    views = torch.stack([encode_images(pipe, images), encode_images(pipe, images.flip(2))], dim=1)
    tokens = caption_tokens(pipe, people, base.denoiser, seed)
    train_denoiser(pipe, views, tokens, base.denoiser, seed, scratch_folder(args.scratch, **whole) / "denoiser.pt")

    shutil.rmtree(args.out, ignore_errors=True)
    pipe.to(dtype=torch.float16).save_pretrained(args.out)


if __name__ == "__main__":
    run_stage(main)
