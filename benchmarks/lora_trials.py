"""Compare recipes of a person's LoRA: the adapted layers of the UNet, the initial weights, and the within-person
variance.

Some validation people get two LoRAs by each of `RECIPES`, from different photos and seeds, on the shipped base. Their
pictures are scored against further photos. The agreement of the two LoRAs' deviations from the mean shows how much of
them is about the person; the rest is chance. The results are lora_trials.md and lora_trials.json; trials in the latter
are not run again.
"""

import time
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor
from trials import ROOT, run_trials, trials_parser

from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.dreambooth import class_images, prompted_latents, train_loras
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import embed_all
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.recognizers import Recognizer, load_recognizer
from w2wpp.files.storage import folder_hash
from w2wpp.lora.layout import WeightLayout
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import CollectParams, Params, load_params
from w2wpp.run.stage import run_stage
from w2wpp.world.drawing import draw, photo_folder
from w2wpp.world.populations import Person, manifest_rows, person_names, sample_people, with_photos
from w2wpp.world.start import shared_start

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
PROJECTIONS, FEED_FORWARD = ["proj_in", "proj_out"], ["ff.net.0.proj", "ff.net.2"]
EVERYWHERE = ATTENTION + FEED_FORWARD + PROJECTIONS
BOTH = {"start": "kaiming", "trained": "both", "adam_epsilon": 1e-8, "mirrored": False}
ONLY_B = {"start": "gradients", "trained": "B", "adam_epsilon": 1e-3, "mirrored": False}
# By name: changes to `lora` and to `collect` of params.yaml.
RECIPES = {
    "as shipped": ({}, {}),
    "as shipped, twice the steps": ({}, {"steps": 1200}),
    "as shipped, twice the learning rate": ({}, {"lr": 4e-2}),
    "as shipped, four times the learning rate": ({}, {"lr": 8e-2}),
    "as shipped, twice the rank": ({"rank": 24, "alpha": 48.0}, {}),
    "as shipped, mirrored": ({}, {"mirrored": True}),
    "as shipped, but A and B trained": ({}, {"trained": "both"}),
    "q and v, A and B, as weights2weights": (
        {"rank": 1, "alpha": 4.0, "targets": ["to_q", "to_v"], "blocks": []},
        BOTH | {"lr": 2e-2},
    ),
    "projections, A and B": ({"rank": 6, "alpha": 12.0, "targets": PROJECTIONS, "blocks": []}, BOTH | {"lr": 1e-2}),
    "projections, A and B, large epsilon": (
        {"rank": 6, "alpha": 12.0, "targets": PROJECTIONS, "blocks": []},
        BOTH | {"lr": 1e-2, "adam_epsilon": 1e-3},
    ),
    "projections, B, random A": (
        {"rank": 12, "alpha": 24.0, "targets": PROJECTIONS, "blocks": []},
        BOTH | {"lr": 1e-2, "trained": "B"},
    ),
    "projections, B, A of gradients": (
        {"rank": 12, "alpha": 24.0, "targets": PROJECTIONS, "blocks": []},
        ONLY_B | {"lr": 3e-2},
    ),
    "every linear layer, B": ({"rank": 6, "alpha": 12.0, "targets": EVERYWHERE, "blocks": []}, ONLY_B | {"lr": 3e-2}),
}


def agreement(one: Tensor, other: Tensor) -> float:
    """Mean cosine between the two LoRAs of a person.

    Args:
        one, other: weight vectors [n, d] of the same n people. The mean of each set is subtracted. A common mean would
            count the shared part of each set as disagreement, and part of each person as shared.
    """
    return torch.nn.functional.cosine_similarity(one - one.mean(0), other - other.mean(0)).mean().item()


def try_recipe(
    name: str,
    shipped: Params,
    pipe: StableDiffusionPipeline,
    recognizer: Recognizer,
    people: list[Person],
    images: Tensor,
    real: Embeddings,
    scratch: Path,
) -> dict:
    """Scores of one of `RECIPES`.

    Args:
        people: n people to train LoRAs of.
        images: uint8 [m, 2 p + q, size, size, 3] of m >= n people, those n first; each LoRA trains on p photos.
        real: embeddings of everybody's last q photos, [m, q]. All m people determine the score of a stranger.
        scratch: folder of the renders that determine the initial weights.
    """
    changed_lora, changed_collect = RECIPES[name]
    lora, params = shipped.lora.model_copy(update=changed_lora), shipped.collect.model_copy(update=changed_collect)
    size, seed, count, photos = shipped.portraits.size, shipped.seed, len(people), params.photos
    rendered = photo_folder(scratch, seed, "base", params.start_photos, size)
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)
    start = shared_start(pipe, layout, size, params, seed, rendered)
    class_latents = class_images(pipe, layout, params, shipped.generate)
    started, loras = time.perf_counter(), []
    for number in (0, 1):
        first = number * photos
        shown = with_photos(people, first, first + photos)
        rows = pd.DataFrame(manifest_rows(person_names("validation", count), ["validation"] * count, shown))
        latents, text = prompted_latents(pipe, images[:count, first : first + photos], rows, params)
        loras.append(train_loras(pipe, layout, start, latents, text, class_latents, params, seed + number, name)[0])
    seconds = (time.perf_counter() - started) / 2 / count

    drawn = generate(pipe, layout, loras[0], [IDENTITY_PROMPT], shipped.evaluate.seeds, shipped.generate, name)
    seen = embed_all(recognizer, drawn[:, 0])
    mean = real.vectors[real.found].mean(0)
    floor, ceiling = scoring.real_floor_and_ceiling(real.vectors, real.found, mean)
    theirs = real.vectors[:count], real.found[:count]
    score = np.mean(scoring.id_scores(seen.vectors, seen.found, *theirs, mean, floor))
    return {
        "rank": lora.rank,
        "seconds": seconds,
        "agreement": agreement(*loras),
        "trained": layout.dimension if params.trained == "both" else int(layout.in_B.sum()),
        "id_score_normalised": float(scoring.normalised(score, floor, ceiling)),
        "tar_at_far1": scoring.tar_at_far(seen.vectors, seen.found, *theirs, mean),
    }


def table(results: dict, people: int, collect: CollectParams) -> str:
    """The results as the Markdown page docs/lora_trials.md."""
    lines = [
        "# How to train a person's LoRA",
        "",
        "[Choices of this world](explanation/choices.md) draws the conclusions. "
        f"Each of {people} validation people gets two LoRAs, from different photos and seeds. A LoRA has "
        f"{collect.photos} photos and, unless the table says otherwise, {collect.steps} steps of "
        f"{collect.photos_per_step} photos. Normalised ID scores are against other photos: a stranger scores 0, the "
        "person's own photos score 1. Agreement is the mean cosine between a person's two LoRAs, each less the mean "
        "LoRA of its seed; it is 0 if all differences from that mean are chance. `python benchmarks/lora_trials.py` "
        "repeats the trials.",
        "",
        *markdown_table(
            ["recipe", "rank", "numbers trained", "ID score, normalised", "TAR at FAR 1 %", "agreement", "seconds"],
            [
                (
                    name,
                    r["rank"],
                    f"{r['trained']:,}",
                    f"{r['id_score_normalised']:.2f}",
                    f"{r['tar_at_far1']:.2f}",
                    f"{r['agreement']:.2f}",
                    f"{r['seconds']:.1f}",
                )
                for name, r in results.items()
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = trials_parser(__doc__, "lora_trials")
    parser.add_argument("--people", type=int, default=16, help="how many validation people")
    args = parser.parse_args()
    shipped = load_params(ROOT / "params.yaml")
    collect, keep = shipped.collect, shipped.portraits.score_photos
    pipe, recognizer = load_pipeline(ROOT / "data/base", device()), load_recognizer(shipped.recognizer)
    people = sample_people(shipped.seed, "validation", shipped.portraits.validation, 2 * collect.photos + keep)
    images = draw(people, shipped.portraits.size, "validation people")
    real = embed_all(recognizer, images[:, -keep:])

    setting = {
        "people": args.people,
        "base": folder_hash(ROOT / "data/base"),
        "pictures": shipped.evaluate.seeds,
        **shipped.model_dump(include={"seed", "recognizer", "lora", "collect", "generate", "portraits"}),
    }
    trials = {
        name: (
            changes,
            partial(try_recipe, name, shipped, pipe, recognizer, people[: args.people], images, real, args.scratch),
        )
        for name, changes in RECIPES.items()
    }
    results = run_trials(args.out / "lora_trials.json", setting, trials)
    (args.out / "lora_trials.md").write_text(table(results, args.people, collect))


if __name__ == "__main__":
    run_stage(main)
