"""Collect the zoo: one DreamBooth LoRA per zoo person, and the held-out people's own LoRAs as references.

Some zoo people get a second LoRA from other photos and another seed, to tell differences between people from chance.
Of every held-out person there are two references, neither of which a space may learn from: the LoRA of several photos
(the true LoRA) and the LoRA of the one photo that inversion sees. Resumes at the last finished batch after a kill.
"""

from pathlib import Path

import pandas as pd
import torch

from w2wpp.adapters import initial_weights
from w2wpp.denoising import generate
from w2wpp.dreambooth import photo_prompts, train_loras
from w2wpp.layout import WeightLayout
from w2wpp.params import CollectParams, GenerateParams
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import encode_images, load_pipeline
from w2wpp.populations import (
    Person,
    draw_resumably,
    manifest_rows,
    person_names,
    sample_people,
    write_portraits,
)
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.storage import folder_hash, scratch_folder, write_csv, write_pack
from w2wpp.training import chunks, in_resumable_batches

LORAS_PER_FILE = 500


def with_photos(people: list[Person], first: int, last: int) -> list[Person]:
    """The same people with photos first .. last - 1 alone."""
    return [(identity, nuisances[first:last]) for identity, nuisances in people]


def class_images(pipe, layout: WeightLayout, params: CollectParams, how: GenerateParams) -> torch.Tensor:
    """Latents [class_images, c, h, w] of the base model's own pictures of the class prompt."""
    unadapted = torch.zeros(1, layout.dimension)
    pictures = generate(pipe, layout, unadapted, [CLASS_PROMPT], params.class_images, how, "class images")
    return encode_images(pipe, pictures[0, 0])


def train_resumably(pipe, layout, start, latents, text, class_latents, params: CollectParams, seed: int,
                    scratch: Path, what: str) -> dict[str, torch.Tensor]:
    """The "weights" [n, d] and "losses" [n] of `train_loras`; finished batches are read back from `scratch`."""
    def train(first: int, count: int) -> dict[str, torch.Tensor]:
        some = slice(first, first + count)
        weights, losses = train_loras(pipe, layout, start, latents[some], text[some], class_latents, params, seed,
                                      f"{what} {some.stop}/{len(latents)}")
        return {"weights": weights, "losses": losses}

    return in_resumable_batches(len(latents), params.people_at_once, scratch, train)


def write_loras(folder: Path, name: str, layout: WeightLayout, weights: torch.Tensor) -> list[str]:
    """Write float16 packs of the LoRAs of weights [n, d]; returns the name of each one's file.

    Packs are small so that a zoo that grows leaves the files that are there as they are.
    """
    files = []
    for first, count in chunks(len(weights), LORAS_PER_FILE):
        files += [f"{name}-{first:05d}.safetensors"] * count
        stacked = layout.stack(weights[first:first + count])
        write_pack(folder / files[-1], {key: part.to(torch.float16).contiguous() for key, part in stacked.items()},
                   {"layout": layout.to_meta()})
    return files


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", out="data/zoo", scratch=".scratch/collect")
    params, portraits = args.params.collect, args.params.portraits
    lora, seed = args.params.lora, args.params.seed
    pipe = load_pipeline(args.base, device())
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets)

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

    # How many people there are is no part of the recipe, so that a zoo can grow.
    drawn = scratch_folder(args.scratch, seed=seed, size=portraits.size, photos=params.photos)
    trained = scratch_folder(
        args.scratch, seed=seed, size=portraits.size, collect=params.model_dump(exclude={"people", "repeated"}),
        lora=lora.model_dump(), generate=args.params.generate.model_dump(),
        base=folder_hash(args.base))
    start = initial_weights(layout, seed)
    class_latents = class_images(pipe, layout, params, args.params.generate)
    files, manifest = [], []
    for role, split, names, people, role_seed in roles:
        if not people:
            continue
        photos = draw_resumably(people, portraits.size, drawn / role / split)
        rows = pd.DataFrame(manifest_rows(names, [split] * len(names), people))
        if role == "zoo":
            write_portraits(args.out / "people", photos[:, :1], rows[rows["photo"] == 0])
        latents = encode_images(pipe, photos.flatten(0, 1)).unflatten(0, photos.shape[:2])
        text = photo_prompts(pipe, rows, params.captions).unflatten(0, photos.shape[:2])
        loras = train_resumably(pipe, layout, start, latents, text, class_latents, params, role_seed,
                                trained / role / split, f"{role} LoRAs")
        manifest.append(pd.DataFrame({"person": names, "split": split, "role": role, "photos": photos.shape[1],
                                      "seed": role_seed, "loss": loras["losses"]}))
        files += write_loras(args.out / "loras", f"{role}-{split}", layout, loras["weights"])

    write_csv(args.out / "manifest.csv", pd.concat(manifest).assign(file=files))


if __name__ == "__main__":
    run_stage(main)
