"""Compare what LoRAs of several shapes keep of a person: which layers they adapt, at which rank, in how many numbers.

Trains LoRAs of validation people with the settings of params.yaml on the shipped base, for every shape in `SHAPES`, and
scores their pictures against other photos of these people. Writes docs/lora_trials.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from w2wpp import scoring
from w2wpp.adapters import initial_weights
from w2wpp.denoising import generate
from w2wpp.dreambooth import IDENTITY_PROMPT, photo_prompts, train_loras
from w2wpp.evaluation import embed_all
from w2wpp.layout import WeightLayout
from w2wpp.params import load_params
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import encode_images, load_pipeline
from w2wpp.populations import draw, manifest_rows, person_names, sample_people
from w2wpp.recognizers import load_recognizer
from w2wpp.runtime import device, run_stage

ROOT = Path(__file__).resolve().parents[1]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PROJECTIONS, FEED_FORWARD = ["proj_in", "proj_out"], ["ff.net.0.proj", "ff.net.2"]
# What is adapted: rank, alpha, learning rate, targets. The first is the choice of weights2weights.
SHAPES = {
    "q and v": (1, 4.0, 2e-2, ["to_q", "to_v"]),
    "all of attention": (4, 16.0, 1e-2, ATTENTION),
    "feed-forward": (1, 4.0, 1e-2, FEED_FORWARD),
    "projections, rank 4": (4, 8.0, 1e-2, PROJECTIONS),
    "projections, rank 6": (6, 12.0, 1e-2, PROJECTIONS),
    "projections, rank 8": (8, 16.0, 1e-2, PROJECTIONS),
    "every linear layer, rank 1": (1, 4.0, 1e-2, ATTENTION + FEED_FORWARD + PROJECTIONS),
    "every linear layer, rank 8": (8, 16.0, 5e-3, ATTENTION + FEED_FORWARD + PROJECTIONS),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--people", type=int, default=12)
    args = parser.parse_args()
    settings = load_params(ROOT / "params.yaml")
    params, keep, seed = settings.collect, settings.portraits.score_photos, settings.seed
    pipe = load_pipeline(ROOT / "data/base", device())
    recognizer = load_recognizer(settings.recognizer)

    validation = sample_people(seed, "validation", settings.portraits.validation, settings.portraits.photos)
    images = draw(validation, settings.portraits.size, "validation people")
    real = embed_all(recognizer, images[:, -keep:])
    mean = real.vectors[real.found].mean(0)
    floor, ceiling = scoring.real_floor_and_ceiling(real.vectors, real.found, mean)
    real_vectors, real_found = real.vectors[:args.people], real.found[:args.people]
    photos = images[:args.people, :params.photos]
    latents = encode_images(pipe, photos.flatten(0, 1)).unflatten(0, photos.shape[:2])
    shown = [(identity, nuisances[:params.photos]) for identity, nuisances in validation[:args.people]]
    rows = pd.DataFrame(manifest_rows(person_names("validation", args.people), ["validation"] * args.people, shown))
    text = photo_prompts(pipe, rows, params.captions).unflatten(0, photos.shape[:2])

    lines = ["# What of the UNet to adapt", "",
             f"{args.people} validation people, {params.photos} photos each, {params.steps} steps of "
             f"{params.photos_per_step} photos and {params.class_images_per_step} class images; ID scores against "
             "other photos, where a stranger is 0 and own photos are 1.",
             "`python benchmarks/lora_trials.py` repeats it.", "",
             "| adapted | rank | numbers | loss | ID score, normalised | TAR at FAR 1 % | seconds per person |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    for name, (rank, alpha, lr, targets) in SHAPES.items():
        layout = WeightLayout.of_unet(pipe.unet, rank, alpha, targets)
        unadapted = torch.zeros(1, layout.dimension)
        shared = generate(pipe, layout, unadapted, [CLASS_PROMPT], params.class_images, settings.generate, "class")
        class_latents = encode_images(pipe, shared[0, 0])
        started = time.perf_counter()
        weights, losses = train_loras(pipe, layout, initial_weights(layout, seed), latents, text, class_latents,
                                      params.model_copy(update={"lr": lr}), seed, name)
        seconds = (time.perf_counter() - started) / args.people
        drawn = generate(pipe, layout, weights, [IDENTITY_PROMPT], settings.evaluate.seeds, settings.generate, name)
        seen = embed_all(recognizer, drawn[:, 0])
        score = np.mean(scoring.id_scores(seen.vectors, seen.found, real_vectors, real_found, mean, floor))
        tar = scoring.tar_at_far(seen.vectors, seen.found, real_vectors, real_found, mean)
        lines.append(f"| {name} | {rank} | {layout.dimension:,} | {losses.mean():.3f} | "
                     f"{scoring.normalised(score, floor, ceiling):.2f} | {tar:.2f} | {seconds:.1f} |")
        print(lines[-1])
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs/lora_trials.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
