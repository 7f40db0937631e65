"""Compare ways to train a person's LoRA: what of the UNet it adapts, from which start, and what of it is chance.

Every validation person gets two LoRAs by each of `RECIPES`, from different photos, on the shipped base. Their pictures
are scored against further photos. How alike the two LoRAs' deviations from the mean are says how much of them is about
the person: the rest is what no space of weights can predict. Writes docs/lora_trials.md.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from w2wpp import scoring
from w2wpp.denoising import generate
from w2wpp.dreambooth import IDENTITY_PROMPT, class_images, prompted_latents, train_loras
from w2wpp.evaluation import embed_all
from w2wpp.layout import WeightLayout
from w2wpp.params import load_params
from w2wpp.pipeline import load_pipeline
from w2wpp.populations import draw, manifest_rows, person_names, sample_people, with_photos
from w2wpp.recognizers import load_recognizer
from w2wpp.runtime import device, run_stage
from w2wpp.starts import shared_start
from w2wpp.storage import scratch_folder

ROOT = Path(__file__).resolve().parents[1]
ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PROJECTIONS, FEED_FORWARD = ["proj_in", "proj_out"], ["ff.net.0.proj", "ff.net.2"]
MOST = ["proj_in", "proj_out", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
EVERYWHERE = ATTENTION + FEED_FORWARD + PROJECTIONS
HIGH = ["down_blocks.0", "up_blocks.0.attentions.1", "up_blocks.1"]       # where people's gradients differ most
BOTH = {"start": "kaiming", "trained": "both", "adam_epsilon": 1e-8, "mirrored": False}
ONLY_B = {"start": "gradients", "trained": "B", "adam_epsilon": 1e-3, "mirrored": False}
# What is told of them, then changes to `lora` and to `collect`; the first is the choice of weights2weights.
RECIPES = {
    "q and v, A and B": ({"rank": 1, "alpha": 4.0, "targets": ["to_q", "to_v"], "blocks": []}, BOTH | {"lr": 2e-2}),
    "projections, A and B": ({"rank": 6, "alpha": 12.0, "targets": PROJECTIONS, "blocks": []}, BOTH | {"lr": 1e-2}),
    "projections, A and B, large epsilon": ({"rank": 6, "alpha": 12.0, "targets": PROJECTIONS, "blocks": []},
                                            BOTH | {"lr": 1e-2, "adam_epsilon": 1e-3}),
    "projections, B, random A": ({"rank": 12, "alpha": 24.0, "targets": PROJECTIONS, "blocks": []},
                                 BOTH | {"lr": 1e-2, "trained": "B"}),
    "projections, B, A of gradients": ({"rank": 12, "alpha": 24.0, "targets": PROJECTIONS, "blocks": []},
                                       ONLY_B | {"lr": 3e-2}),
    "every linear layer, B": ({"rank": 6, "alpha": 12.0, "targets": EVERYWHERE, "blocks": []}, ONLY_B | {"lr": 3e-2}),
    "most of the high blocks, B": ({"rank": 8, "alpha": 16.0, "targets": MOST, "blocks": HIGH}, ONLY_B | {"lr": 2e-2}),
    "most of the high blocks, B, mirrored": ({"rank": 8, "alpha": 16.0, "targets": MOST, "blocks": HIGH},
                                             ONLY_B | {"lr": 2e-2, "mirrored": True}),
}


def agreement(one: Tensor, other: Tensor) -> float:
    """Mean cosine between two LoRAs of a person, weight vectors [n, d] each, less the mean over all."""
    mean = torch.cat([one, other]).mean(0)
    return torch.nn.functional.cosine_similarity(one - mean, other - mean).mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch/lora_trials")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    args = parser.parse_args()
    shipped = load_params(ROOT / "params.yaml")
    photos, keep, seed = shipped.collect.photos, shipped.portraits.score_photos, shipped.seed
    size = shipped.portraits.size
    pipe = load_pipeline(ROOT / "data/base", device())
    recognizer = load_recognizer(shipped.recognizer)

    people = sample_people(seed, "validation", shipped.portraits.validation, 2 * photos + keep)
    names, splits = person_names("validation", args.people), ["validation"] * args.people
    images = draw(people, size, "validation people")
    real = embed_all(recognizer, images[:, -keep:])
    mean = real.vectors[real.found].mean(0)
    floor, ceiling = scoring.real_floor_and_ceiling(real.vectors, real.found, mean)
    real_vectors, real_found = real.vectors[:args.people], real.found[:args.people]

    lines = ["# How to train a person's LoRA", "",
             f"Two LoRAs each of {args.people} validation people, {photos} photos and {shipped.collect.steps} steps of "
             f"{shipped.collect.photos_per_step} photos per LoRA. ID scores are against other photos, where a stranger "
             "is 0 and own photos are 1. Agreement is the mean cosine between a person's two LoRAs, each less the mean "
             "LoRA: what a space of weights could predict of them at best.",
             "`python benchmarks/lora_trials.py` repeats it.", "",
             "| recipe | rank | numbers trained | ID score, normalised | TAR at FAR 1 % | agreement | seconds |",
             "|---|---:|---:|---:|---:|---:|---:|"]
    for name in args.recipes:
        lora, collect = RECIPES[name]
        settings = shipped.model_copy(update={"lora": shipped.lora.model_copy(update=lora),
                                              "collect": shipped.collect.model_copy(update=collect)})
        params, lora = settings.collect, settings.lora
        drawn = scratch_folder(args.scratch, seed=seed, size=size, photos=params.start_photos) / "start"
        layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)
        start = shared_start(pipe, layout, size, params, seed, drawn)
        class_latents = class_images(pipe, layout, params, settings.generate)
        started, loras = time.perf_counter(), []
        for first in (0, photos):
            shown = with_photos(people[:args.people], first, first + photos)
            rows = pd.DataFrame(manifest_rows(names, splits, shown))
            latents, text = prompted_latents(pipe, images[:args.people, first:first + photos], rows, params)
            loras.append(train_loras(pipe, layout, start, latents, text, class_latents, params, seed, name)[0])
        seconds = (time.perf_counter() - started) / 2 / args.people
        drawn = generate(pipe, layout, loras[0], [IDENTITY_PROMPT], settings.evaluate.seeds, settings.generate, name)
        seen = embed_all(recognizer, drawn[:, 0])
        score = np.mean(scoring.id_scores(seen.vectors, seen.found, real_vectors, real_found, mean, floor))
        tar = scoring.tar_at_far(seen.vectors, seen.found, real_vectors, real_found, mean)
        trained = layout.dimension if params.trained == "both" else int(layout.in_B.sum())
        lines.append(f"| {name} | {lora.rank} | {trained:,} | {scoring.normalised(score, floor, ceiling):.2f} | "
                     f"{tar:.2f} | {agreement(*loras):.2f} | {seconds:.1f} |")
        print(lines[-1], flush=True)
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs/lora_trials.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
