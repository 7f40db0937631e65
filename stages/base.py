"""Train the base model: a small text-conditioned latent diffusion model of this world.

Renders its own people, trains the codec, then text encoder and UNet, and saves a diffusers `StableDiffusionPipeline`
directory in float16. Every part resumes from .scratch/base after a kill. Takes some four hours on two cores.

Or, by base.source, refer to a `StableDiffusionPipeline` from elsewhere.
"""

import shutil
from argparse import Namespace

import torch

from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import encode_images
from w2wpp.diffusion.pretrained import refer_to_model
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.base_model import BaseParams, build_pipeline
from w2wpp.world.base_training import caption_tokens, people_factors, refine_decoder, train_codec, train_denoiser
from w2wpp.world.captions import CAPTION_WORDS
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people


def recipes(base: BaseParams, seed: int, size: int) -> dict[str, dict]:
    """What codec, decoder and denoiser each depend on.

    Refining the decoder changes no latent, so neither codec nor denoiser is trained anew for it.
    """
    drawn = {"seed": seed, "size": size, "people": base.people, "photos": base.photos}
    # Random numbers that the UNet is built with come before those of the codec.
    built = {"unet": base.unet.model_dump(), "hidden": base.text.hidden}
    return {
        "codec": drawn | built | {"codec": base.codec.model_dump(exclude={"decoder_steps"})},
        "decoder": drawn | built | {"codec": base.codec.model_dump()},
        "denoiser": drawn
        | {
            "base": base.model_dump(
                exclude={"codec": {"decoder_steps"}, "source": True, "model": True, "revision": True}
            )
        },
    }


def train_base(args: Namespace) -> None:
    """The base model of this world, trained here."""
    base, size, seed = args.params.base, args.params.portraits.size, args.params.seed
    checkpoints = {
        name: scratch_folder(args.scratch, name, **recipe) / f"{name}.pt"
        for name, recipe in recipes(base, seed, size).items()
    }

    torch.manual_seed(seed)
    pipe = build_pipeline(base, size, [*CAPTION_WORDS, IDENTITY_TOKEN]).to(device())
    people = sample_people(seed, "base", base.people, base.photos)
    drawn = photo_folder(args.scratch, seed, "base", base.photos, size)
    images = draw_resumably(people, size, drawn, args.params.engine).flatten(0, 1)

    train_codec(pipe.vae, images, base.codec, seed, checkpoints["codec"])
    refine_decoder(pipe.vae, images, base.codec, seed, checkpoints["decoder"])
    pipe.vae.eval()
    views = torch.stack([encode_images(pipe, images), encode_images(pipe, images.flip(2))], dim=1)
    tokens = caption_tokens(pipe, people, base.denoiser, seed)
    factors = people_factors(people).repeat_interleave(base.photos, 0)
    train_denoiser(pipe, views, tokens, factors, base.denoiser, seed, checkpoints["denoiser"])

    shutil.rmtree(args.out, ignore_errors=True)
    pipe.to("cpu", torch.float16).save_pretrained(args.out)


def main() -> None:
    args = stage_arguments(__doc__, out="data/base", scratch=".scratch/base")
    if args.params.base.source == "trained":
        train_base(args)
    else:
        shutil.rmtree(args.out, ignore_errors=True)
        refer_to_model(args.params.base.model, args.params.base.revision, args.out)


if __name__ == "__main__":
    run_stage(main)
