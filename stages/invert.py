"""Invert a photo of each held-out person: optimise the latent alone, from what a photo encoder makes of it.

invert.photos takes several of them; invert.refine goes on in all weights, beyond the space.
"""

from functools import partial

from w2wpp.compute.batches import Shard, finish, in_resumable_batches, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.portraits import read_portraits
from w2wpp.files.storage import file_hash, folder_hash, write_json, write_pack
from w2wpp.inversion.held_out import encode_held_out, mask_held_out, search_batches
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.refinement import found_weights, invert_batch
from w2wpp.inversion.search import EncodedPhotos, SearchOptions
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
    people = read_portraits(args.portraits).of_split(args.params.split)
    check_photo_size(pipe, people.images)

    source = {
        "base": folder_hash(args.base),
        "portraits": folder_hash(args.portraits),
        "split": args.params.split,
        "dtype": dtype,
    }
    prompts = params.model_dump(include={"photos", "prompt", "captions"})
    # Computed once for all spaces, and for further inversions with other settings.
    encoded = in_resumable_batches(
        len(people.names),
        params.people_at_once,
        scratch_folder(args.scratch, "latents", **source, **prompts),
        lambda first, count: encode_held_out(pipe, people, params, slice(first, first + count)),
    )
    latents, text = (encoded[key].to(device()) for key in ("latents", "text"))
    mask = None
    if params.mask == "face":
        mask = mask_held_out(people, params, load_face_finder(args.params.faces), latents.shape[-1])

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

    seen = EncodedPhotos(latents, text, mask)
    batches = search_batches(photo_encoder, seen, params.people_at_once, scratch, f"inversion into {args.space}")
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
    for name, weights in zip(people.names, found_weights(space.cpu(), found), strict=True):
        export_lora(out / "loras" / f"{name}.safetensors", weights, space.layout)
    seconds = found.pop("seconds").mean().item()
    write_pack(out / "latents.safetensors", found, {"people": people.names})
    write_json(args.out_timing / f"{args.space}.json", {"seconds_per_person": seconds})


if __name__ == "__main__":
    run_stage(main)
