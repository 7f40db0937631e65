"""Invert ONE photo of each held-out person: optimise the latent alone, all people batched."""

import time

import torch

from w2wpp.adapters import export_lora
from w2wpp.dreambooth import photo_prompts
from w2wpp.faces import face_masks, load_face_finder
from w2wpp.inversion import invert
from w2wpp.params import require_photos
from w2wpp.pipeline import check_photo_size, encode_images, load_pipeline
from w2wpp.populations import read_portraits
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.spaces import load_space
from w2wpp.storage import file_hash, folder_hash, scratch_folder, write_json, write_pack
from w2wpp.training import in_resumable_batches


def main() -> None:
    args = stage_arguments(__doc__, space=True, base="data/base", portraits="data/portraits", spaces="data/spaces",
                           out="data/inversions", out_timing="data/timing", scratch=".scratch/invert")
    require_photos(args.params)
    params, out = args.params.invert, args.out / args.space
    dtype = args.params.generate.dtype
    pipe = load_pipeline(args.base, device(), dtype)
    space_file = args.spaces / args.space / "space.safetensors"
    space = load_space(space_file).to(device())
    people = read_portraits(args.portraits)
    check_photo_size(pipe, people.images)
    photos, rows = people.images[:, 0], people.manifest[people.manifest["photo"] == 0]

    inputs = {"base": folder_hash(args.base), "portraits": folder_hash(args.portraits), "dtype": dtype}
    said = {"prompt": params.prompt, "captions": params.captions}

    def encode(first: int, count: int) -> dict[str, torch.Tensor]:
        some = slice(first, first + count)
        return {"latents": encode_images(pipe, photos[some]), "text": photo_prompts(pipe, rows[some], **said)}

    # Once for both spaces, and for further inversions with other settings.
    encoded = in_resumable_batches(len(photos), params.people_at_once,
                                   scratch_folder(args.scratch / "encoded", **inputs, **said), encode)
    latents, text = (encoded[key].to(device()) for key in ("latents", "text"))
    mask = None
    if params.mask == "face":
        mask = face_masks(photos, load_face_finder(args.params.faces), latents.shape[-1])

    scratch = scratch_folder(args.scratch, **inputs, seed=args.params.seed, invert=params.model_dump(),
                             space=file_hash(space_file), faces=args.params.faces)

    def search(first: int, count: int) -> dict[str, torch.Tensor]:
        started = time.perf_counter()
        some = slice(first, first + count)
        z, losses = invert(pipe, space, latents[some], text[some], params, args.params.seed,
                           f"inversion into {args.space} {some.stop}/{len(latents)}",
                           None if mask is None else mask[some])
        return {"z": z, "losses": losses.T, "seconds": torch.tensor([time.perf_counter() - started])}

    found = in_resumable_batches(len(latents), params.people_at_once, scratch, search)
    for name, weights in zip(people.names, space.cpu().decode(found["z"]), strict=True):
        export_lora(out / "loras" / f"{name}.safetensors", weights, space.layout)
    seconds = found.pop("seconds").sum().item()
    write_pack(out / "latents.safetensors", found, {"people": people.names})
    write_json(args.out_timing / f"{args.space}.json", {"seconds_per_person": seconds / len(latents)})


if __name__ == "__main__":
    run_stage(main)
