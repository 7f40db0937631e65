"""Train the base model: a small text-conditioned latent diffusion model of this world.

Renders its own people, trains the codec, then text encoder and UNet, and saves a diffusers `StableDiffusionPipeline`
directory in float16. Every part resumes from .scratch/base after a kill. Takes about an hour on two cores.
"""

import shutil
from pathlib import Path

import torch

from w2wpp.base_training import caption_tokens, train_codec, train_denoiser
from w2wpp.people import CAPTION_WORDS
from w2wpp.pipeline import IDENTITY_TOKEN, build_pipeline, encode_images
from w2wpp.populations import Person, draw, sample_people
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.storage import scratch_folder
from w2wpp.training import in_resumable_batches

PEOPLE_PER_BATCH = 500


def render_resumably(people: list[Person], size: int, scratch: Path) -> torch.Tensor:
    """Photos uint8 [people * photos, size, size, 3]; finished batches are read back from `scratch`."""
    def render(first: int, count: int) -> dict[str, torch.Tensor]:
        return {"photos": draw(people[first:first + count], size, f"people {first + count}/{len(people)}")}

    return in_resumable_batches(len(people), PEOPLE_PER_BATCH, scratch, render)["photos"].flatten(0, 1)


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
