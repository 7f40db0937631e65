"""Invert ONE photo of each held-out person: optimise the latent alone, from the guess of the photo encoder."""

from functools import partial

import torch

from w2wpp.compute.batches import Shard, batches_of, finish, in_resumable_batches, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.dreambooth import photo_prompts
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.frames import face_masks
from w2wpp.faces.portraits import read_portraits
from w2wpp.files.storage import file_hash, folder_hash, write_json, write_pack
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.search import EncodedPhotos, SearchOptions, invert_batch
from w2wpp.lora.export import export_lora
from w2wpp.run.held_out import check_photo_size
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import load_space


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        shard=True,
        base="data/base",
        portraits="data/portraits",
        spaces="data/spaces",
        encoders="data/photo_encoders",
        out="data/inversions",
        out_timing="data/timing",
        scratch=".scratch/invert",
    )
    require_photos(args.params)
    params, out, shard = args.params.invert, args.out / args.space, Shard.parse(args.shard)
    dtype = args.params.generate.dtype
    pipe = load_pipeline(args.base, device(), dtype)
    space_file = args.spaces / args.space / "space.safetensors"
    encoder_file = args.encoders / f"{args.space}.safetensors"
    space, photo_encoder = load_space(space_file).to(device()), PhotoEncoder.load(encoder_file)
    people = read_portraits(args.portraits)
    check_photo_size(pipe, people.images)
    photos, rows = people.images[:, 0], people.manifest[people.manifest["photo"] == 0]

    source = {"base": folder_hash(args.base), "portraits": folder_hash(args.portraits), "dtype": dtype}
    prompts = {"prompt": params.prompt, "captions": params.captions}

    def encode(first: int, count: int) -> dict[str, torch.Tensor]:
        some = slice(first, first + count)
        return {"latents": encode_images(pipe, photos[some]), "text": photo_prompts(pipe, rows[some], **prompts)}

    # Computed once for all spaces, and for further inversions with other settings.
    encoded = in_resumable_batches(
        len(photos), params.people_at_once, scratch_folder(args.scratch, "latents", **source, **prompts), encode
    )
    latents, text = (encoded[key].to(device()) for key in ("latents", "text"))
    mask = None
    if params.mask == "face":
        mask = face_masks(photos, load_face_finder(args.params.faces), latents.shape[-1])

    scratch = scratch_folder(
        args.scratch,
        "inversion",
        **source,
        seed=args.params.seed,
        invert=params.model_dump(),
        space=file_hash(space_file),
        encoder=file_hash(encoder_file),
        faces=args.params.faces,
    )

    def inputs(first: int, count: int) -> tuple:
        some = slice(first, first + count)
        seen = EncodedPhotos(latents[some, None], text[some, None], None if mask is None else mask[some, None])
        return photo_encoder(latents[some]), seen, f"inversion into {args.space} {some.stop}/{len(latents)}"

    batches = batches_of(len(latents), params.people_at_once, scratch, inputs)
    finish(
        shard.share(batches),
        partial(invert_batch, pipe, space, SearchOptions(params, args.params.seed)),
        f"inversion into {args.space}",
        args.params.engine,
    )
    if not shard.whole:
        print(shard.remaining(batches))
        return

    found = joined(batches)
    for name, weights in zip(people.names, space.cpu().decode(found["z"]), strict=True):
        export_lora(out / "loras" / f"{name}.safetensors", weights, space.layout)
    seconds = found.pop("seconds").mean().item()
    write_pack(out / "latents.safetensors", found, {"people": people.names})
    write_json(args.out_timing / f"{args.space}.json", {"seconds_per_person": seconds})


if __name__ == "__main__":
    run_stage(main)
