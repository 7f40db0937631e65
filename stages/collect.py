"""Collect the zoo: one DreamBooth LoRA per zoo person, and the held-out people's own LoRAs as references.

With collect.source w2w or folder, the zoo comes from the weights2weights data or from a folder of LoRAs instead.

Some zoo people get a second LoRA from other photos and another seed, which measures within-person variance. Every
held-out person has two reference LoRAs, which no space learns from: that of several photos (the true LoRA) and that of
the one photo that inversion sees. The stage resumes at the last finished batch after a kill.
"""

from argparse import Namespace
from functools import partial
from itertools import chain

import pandas as pd

from w2wpp.compute.batches import Shard, finish, joined, remember
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.dreambooth import class_images
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.faces.portraits import write_portraits
from w2wpp.files.errors import InputError
from w2wpp.files.storage import folder_hash, write_csv
from w2wpp.ingest.sources import SOURCES, SourceParams, read_layout
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.packs import write_loras
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw_batches, photo_batches, photo_folder
from w2wpp.world.start import shared_start
from w2wpp.world.zoo import lora_batches, train_batch, zoo_roles

# The recipe leaves out the number of people, so that a zoo can grow, and settings of other sources.
NO_RECIPE = {"people", "repeated", *SourceParams.model_fields}


def train_zoo(args: Namespace, shard: Shard) -> None:
    """LoRAs of the people of this world, trained here."""
    params, lora, seed, size = args.params.collect, args.params.lora, args.params.seed, args.params.portraits.size
    pipe = load_pipeline(args.base, device())
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)
    roles, at_once = zoo_roles(seed, params, args.params.portraits), params.people_at_once

    drawn_for_start = photo_folder(args.scratch, seed, "base", params.start_photos, size)
    trained = scratch_folder(
        args.scratch,
        "loras",
        seed=seed,
        size=size,
        collect=params.model_dump(exclude=NO_RECIPE),
        lora=lora.model_dump(),
        generate=args.params.generate.model_dump(),
        base=folder_hash(args.base),
    )
    photos = [
        photo_batches(
            role.people, at_once, photo_folder(args.scratch, seed, role.split, params.photos, size) / role.name
        )
        for role in roles
    ]
    loras = [lora_batches(role, at_once, trained, batches) for role, batches in zip(roles, photos, strict=True)]

    draw_batches(shard.share([*chain(*photos)]), size, args.params.engine)
    # If they were computed again, after a kill or by another shard, they could differ in their last bits.
    start = remember(
        trained / "start.safetensors",
        lambda: {"weights": shared_start(pipe, layout, size, params, seed, drawn_for_start)},
    )["weights"]
    class_latents = remember(
        trained / "class.safetensors", lambda: {"latents": class_images(pipe, layout, params, args.params.generate)}
    )["latents"]
    finish(
        shard.share([*chain(*loras)]),
        partial(train_batch, pipe, layout, start, class_latents, params),
        "LoRAs",
        args.params.engine,
    )
    if not shard.whole:
        print(shard.remaining([*chain(*loras)]))
        return

    files, manifest = [], []
    for role, drawn_batches, batches in zip(roles, photos, loras, strict=True):
        if role.name == "zoo":
            rows = role.rows(0, len(role.people))
            write_portraits(args.out / "people", joined(drawn_batches)["photos"][:, :1], rows[rows["photo"] == 0])
        found = joined(batches)
        manifest.append(
            pd.DataFrame(
                {
                    "person": role.names,
                    "split": role.split,
                    "role": role.name,
                    "photos": len(role.people[0][1]),
                    "seed": role.seed,
                    "loss": found["losses"],
                }
            )
        )
        files += write_loras(args.out / "loras", f"{role.name}-{role.split}", layout, found["weights"])
    write_csv(args.out / "manifest.csv", pd.concat(manifest).assign(file=files))


def main() -> None:
    args = stage_arguments(__doc__, shard=True, base="data/base", out="data/zoo", scratch=".scratch/collect")
    source, shard = args.params.collect.source, Shard.parse(args.shard)
    if source == "zoo":
        train_zoo(args, shard)
    elif not shard.whole:
        raise InputError(
            "params.yaml",
            "collect.source",
            f"{source}, which trains nothing that --shard could share",
            "Run without --shard",
        )
    else:
        layout = read_layout(args.base, args.params.lora)
        SOURCES[source](args.params.collect, args.params.seed, layout, args.out, args.scratch)


if __name__ == "__main__":
    run_stage(main)
