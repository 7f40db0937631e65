"""Fit the photo encoder, which guesses a person's latent from one photo: the start of the search in `invert`.

It learns from the first photos that LoRAs were trained on, and from their mirror images. If the zoo has no photos, it
learns from pictures that the LoRAs draw. With photo_encoder.photos 0, every search starts at the mean.
"""

from argparse import Namespace

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import in_resumable_batches
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation.gallery import draw_zoo
from w2wpp.files.storage import folder_hash
from w2wpp.inversion.photo_encoder import fit_photo_encoder, mirrored_latents, uninformed
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.params import Params
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import load_space
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import person_names, sample_people

PEOPLE_AT_ONCE = 32


def recipe(params: Params, base: str, weights: str) -> dict:
    """The recipe of the zoo people's photo latents, with the hashes of base model and zoo."""
    own = {"base": base, "weights": weights, "dtype": params.generate.dtype}
    if params.collect.source == "zoo":
        return own | {"seed": params.seed, "size": params.portraits.size, "photos": params.photo_encoder.photos}
    return own | {
        "generate": params.generate.model_dump(),
        "evaluate": params.evaluate.model_dump(include={"class_samples", "prompt"}),
    }


def zoo_photos(args: Namespace, pipe: StableDiffusionPipeline, data: Weights) -> tuple[Tensor, list[int]]:
    """Photos uint8 [n, photos, h, w, 3] of zoo people, and their rows in the zoo."""
    params, photos = args.params, args.params.photo_encoder.photos
    if params.collect.source != "zoo":
        pictures, rows = draw_zoo(pipe, data, params.evaluate, params.generate)
        return pictures.images, rows
    names, size = person_names("zoo", params.collect.people), params.portraits.size
    scratch = photo_folder(args.scratch, params.seed, "zoo", photos, size)
    drawn = draw_resumably(sample_people(params.seed, "zoo", len(names), photos), size, scratch, params.engine)
    people = data.names("zoo")
    return drawn[[names.index(name) for name in people]], list(range(len(people)))


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        base="data/base",
        weights="data/weights",
        spaces="data/spaces",
        out="data/photo_encoders",
        scratch=".scratch/photo_encoder",
    )
    pipe, data = load_pipeline(args.base, device(), args.params.generate.dtype), read_weights(args.weights)
    space = load_space(args.spaces / args.space / "space.safetensors")
    if not args.params.photo_encoder.photos:
        size = pipe.unet.config.sample_size
        encoder = uninformed(pipe.unet.config.in_channels * size * size, space.latent_dim)
    else:
        photos, rows = zoo_photos(args, pipe, data)
        scratch = scratch_folder(
            args.scratch, "latents", **recipe(args.params, folder_hash(args.base), folder_hash(args.weights))
        )
        latents = in_resumable_batches(
            len(photos),
            PEOPLE_AT_ONCE,
            scratch,
            lambda first, count: {"latents": mirrored_latents(pipe, photos[first : first + count])},
        )["latents"]
        z = torch.cat(
            [
                space.encode(data.zoo.rows(rows[first : first + count]).float())
                for first, count in chunks(len(rows), PEOPLE_AT_ONCE)
            ]
        )
        encoder = fit_photo_encoder(latents, z, args.params.photo_encoder.ridge)
    encoder.save(args.out / f"{args.space}.safetensors")


if __name__ == "__main__":
    run_stage(main)
