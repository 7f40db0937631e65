"""Invert ONE photo of each held-out person: optimise the latent alone, all people batched."""

from functools import partial

from w2wpp.adapters import export_lora
from w2wpp.batches import Shard, batches_of, finish, joined
from w2wpp.dreambooth import photo_prompts
from w2wpp.inversion import invert_batch
from w2wpp.params import require_photos
from w2wpp.pipeline import encode_images, load_pipeline
from w2wpp.populations import read_portraits
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.spaces import load_space
from w2wpp.storage import file_hash, folder_hash, scratch_folder, write_json, write_pack


def main() -> None:
    args = stage_arguments(__doc__, space=True, shard=True, base="data/base", portraits="data/portraits",
                           spaces="data/spaces", out="data/inversions", out_timing="data/timing",
                           scratch=".scratch/invert")
    require_photos(args.params)
    params, out, shard = args.params.invert, args.out / args.space, Shard.parse(args.shard)
    pipe = load_pipeline(args.base, device())
    space_file = args.spaces / args.space / "space.safetensors"
    space = load_space(space_file).to(device())
    people = read_portraits(args.portraits)
    latents = encode_images(pipe, people.images[:, 0])
    text = photo_prompts(pipe, people.manifest[people.manifest["photo"] == 0], params.captions)

    scratch = scratch_folder(args.scratch, seed=args.params.seed, invert=params.model_dump(),
                             base=folder_hash(args.base),
                             inputs=[folder_hash(args.portraits), file_hash(space_file)])

    def inputs(first: int, count: int) -> tuple:
        some = slice(first, first + count)
        return latents[some], text[some], f"inversion into {args.space} {some.stop}/{len(latents)}"

    batches = batches_of(len(latents), params.people_at_once, scratch, inputs)
    finish(shard.share(batches), partial(invert_batch, pipe, space, params, args.params.seed),
           f"inversion into {args.space}", args.params.engine)
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
