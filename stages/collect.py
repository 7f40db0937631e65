"""Collect the zoo: one DreamBooth LoRA per zoo person, and the held-out people's own LoRAs as references.

Or, by collect.source, take the zoo from the weights2weights data or from a folder of anyone's LoRAs.

Some zoo people get a second LoRA from other photos and another seed, to tell differences between people from chance.
Of every held-out person there are two references, neither of which a space may learn from: the LoRA of several photos
(the true LoRA) and the LoRA of the one photo that inversion sees. Resumes at the last finished batch after a kill.
"""

from argparse import Namespace
from pathlib import Path

import pandas as pd
import torch

from w2wpp.dreambooth import class_images, prompted_latents, train_loras
from w2wpp.layout import WeightLayout
from w2wpp.packs import write_loras
from w2wpp.params import CollectParams
from w2wpp.pipeline import load_pipeline
from w2wpp.populations import (
    draw_resumably,
    manifest_rows,
    person_names,
    sample_people,
    with_photos,
    write_portraits,
)
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.starts import shared_start
from w2wpp.storage import folder_hash, scratch_folder, write_csv
from w2wpp.training import in_resumable_batches

# How many people there are is no part of the recipe, so that a zoo can grow; nor is what other sources alone read.
NO_RECIPE = {"people", "repeated", "source", "path", "held_out"}


def train_resumably(pipe, layout, start, latents, text, class_latents, params: CollectParams, seed: int,
                    scratch: Path, what: str) -> dict[str, torch.Tensor]:
    """The "weights" [n, d] and "losses" [n] of `train_loras`; finished batches are read back from `scratch`."""
    def train(first: int, count: int) -> dict[str, torch.Tensor]:
        some = slice(first, first + count)
        weights, losses = train_loras(pipe, layout, start, latents[some], text[some], class_latents, params, seed,
                                      f"{what} {some.stop}/{len(latents)}")
        return {"weights": weights, "losses": losses}

    return in_resumable_batches(len(latents), params.people_at_once, scratch, train)


def train_zoo(args: Namespace) -> None:
    """LoRAs of the people of this world, trained here."""
    params, portraits = args.params.collect, args.params.portraits
    lora, seed = args.params.lora, args.params.seed
    pipe = load_pipeline(args.base, device())
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)

    zoo, zoo_names = sample_people(seed, "zoo", params.people, 2 * params.photos), person_names("zoo", params.people)
    # Held-out people are drawn here too and not read from data/portraits, so that a picture that another processor
    # rounds differently does not make hours of shipped training stale.
    held_out = [(split, person_names(split, count), sample_people(seed, split, count, params.photos))
                for split, count in (("validation", portraits.validation), ("test", portraits.test))]
    roles = [("zoo", "zoo", zoo_names, with_photos(zoo, 0, params.photos), seed),
             ("zoo-again", "zoo", zoo_names[:params.repeated],
              with_photos(zoo[:params.repeated], params.photos, 2 * params.photos), seed + 1),
             *(("true", split, names, people, seed) for split, names, people in held_out),
             *(("one-photo", split, names, with_photos(people, 0, 1), seed) for split, names, people in held_out)]

    pictures = {"seed": seed, "size": portraits.size}
    drawn = scratch_folder(args.scratch, **pictures, photos=params.photos)
    drawn_for_start = scratch_folder(args.scratch, **pictures, photos=params.start_photos) / "start"
    trained = scratch_folder(
        args.scratch, **pictures, collect=params.model_dump(exclude=NO_RECIPE), lora=lora.model_dump(),
        generate=args.params.generate.model_dump(), base=folder_hash(args.base))
    # Kept like a batch: computed again after a kill on another machine, it could differ in its last bits.
    start = in_resumable_batches(1, 1, trained / "start", lambda *_: {"weights": shared_start(
        pipe, layout, portraits.size, params, seed, drawn_for_start)[None]})["weights"][0]
    class_latents = class_images(pipe, layout, params, args.params.generate)
    files, manifest = [], []
    for role, split, names, people, role_seed in roles:
        if not people:
            continue
        photos = draw_resumably(people, portraits.size, drawn / role / split)
        rows = pd.DataFrame(manifest_rows(names, [split] * len(names), people))
        if role == "zoo":
            write_portraits(args.out / "people", photos[:, :1], rows[rows["photo"] == 0])
        latents, text = prompted_latents(pipe, photos, rows, params)
        loras = train_resumably(pipe, layout, start, latents, text, class_latents, params, role_seed,
                                trained / role / split, f"{role} LoRAs")
        manifest.append(pd.DataFrame({"person": names, "split": split, "role": role, "photos": photos.shape[1],
                                      "seed": role_seed, "loss": loras["losses"]}))
        files += write_loras(args.out / "loras", f"{role}-{split}", layout, loras["weights"])

    write_csv(args.out / "manifest.csv", pd.concat(manifest).assign(file=files))


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", out="data/zoo", scratch=".scratch/collect")
    source = args.params.collect.source
    if source == "zoo":
        train_zoo(args)
    else:
        # Not loaded before, as a zoo in training begins anew when code that is loaded changes (see `scratch_folder`).
        from w2wpp.sources import SOURCES, read_layout
        SOURCES[source](args.params, read_layout(args.base, args.params.lora), args.out, args.scratch)


if __name__ == "__main__":
    run_stage(main)
