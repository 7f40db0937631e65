"""Make drawings, paintings, prints and the like of held-out people's photos, and train a DreamBooth LoRA of each.

Nothing here depends on a space: the pictures that `outside` inverts, the probe of style that judges what is drawn then,
and the rung that spaces are compared with, which starts at the mean LoRA of the zoo and stops in time.

Where the held-out people's photos are from a folder, there is no restorer for such pictures, and nothing is made.
"""

from functools import partial

import pandas as pd
import torch

from w2wpp.compute.batches import batches_of, finish, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.evaluation.gallery import Gallery
from w2wpp.evaluation.outside import Bench, RealPhotos, frechet_floor
from w2wpp.evaluation.style_probe import PHOTO, drawn_latents, fit_style_probe
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.faces.styles import STYLES, styled
from w2wpp.files.storage import folder_hash, rounded, write_csv, write_json, write_pack
from w2wpp.inversion.restoration import load_restorer, unexplained
from w2wpp.lora.weights import read_weights
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.zoo import train_batch


def main() -> None:
    args = stage_arguments(
        __doc__,
        base="data/base",
        portraits="data/portraits",
        zoo="data/zoo/people",
        weights="data/weights",
        restorer="data/restorer",
        references="data/references",
        out="data/outside/references",
        metrics="metrics",
        scratch=".scratch/outside",
    )
    require_photos(args.params)
    params, evaluate = args.params.outside, args.params.evaluate
    if args.params.portraits.source != "rendered":
        write_pack(args.out / "pictures.safetensors", {})
        write_json(args.metrics / "outside.json", {})
        return
    pipe, data = load_pipeline(args.base, device()), read_weights(args.weights)
    held_out, gallery = (
        read_portraits(args.portraits).of_split(args.params.split),
        Gallery.load(args.references / "gallery.safetensors"),
    )
    photos, rows = held_out.images[:, 0], held_out.manifest[held_out.manifest["photo"] == 0]
    pictures = {style: styled(photos, style) for style in STYLES}

    zoo = read_portraits(args.zoo).images[: params.probe_people, 0]
    kinds = {PHOTO: zoo} | {style: styled(zoo, style) for style in STYLES}
    looks = {kind: drawn_latents(pipe, each) for kind, each in kinds.items()}
    kept = max(1, len(zoo) // 5)
    probe = fit_style_probe({style: each[kept:] for style, each in looks.items()})
    right = {kind: (probe(each[:kept]) == probe.styles.index(kind)).double().mean() for kind, each in looks.items()}

    real = RealPhotos.of(pipe, held_out.images[:, -args.params.portraits.score_photos :])
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    bench = Bench(pipe, data.layout, gallery, real, probe, recognizer, evaluate, args.params.generate)
    collect = args.params.collect.model_copy(
        update={"steps": params.dreambooth_steps, "class_images_per_step": 0, "mirrored": False}
    )
    work = partial(train_batch, pipe, data.layout, data.mean, torch.zeros(1, *looks[PHOTO].shape[1:]), collect)
    restorer, seen = load_restorer(args.restorer / "restorer.safetensors"), encode_images(pipe, photos)
    metrics: dict = {
        "probe_accuracy": {kind: share.item() for kind, share in right.items()},
        "photo_frechet_floor": frechet_floor(real, gallery.scored),
        "unexplained": {
            style: unexplained(restorer, some, encode_images(pipe, some), seen) for style, some in pictures.items()
        },
        "dreambooth": {},
    }
    scores, drawn = [], dict(pictures)
    for style, some in pictures.items():

        def inputs(first: int, count: int, style: str = style, some: torch.Tensor = some) -> tuple:
            people = slice(first, first + count)
            return (
                some[people, None],
                rows[people],
                args.params.seed,
                f"DreamBooth, {style} {first + count}/{len(some)}",
            )

        scratch = scratch_folder(
            args.scratch,
            "loras",
            style=style,
            seed=args.params.seed,
            collect=collect.model_dump(),
            base=folder_hash(args.base),
            weights=folder_hash(args.weights),
            portraits=folder_hash(args.portraits),
            split=args.params.split,
        )
        batches = batches_of(len(some), collect.people_at_once, scratch, inputs)
        finish(batches, work, f"DreamBooth, {style}", args.params.engine)
        drawn[f"{style} dreambooth"], table, metrics["dreambooth"][style] = bench.score(
            joined(batches)["weights"], encode_images(pipe, some), params.seeds, f"DreamBooth, {style}"
        )
        scores.append(table.assign(style=style, rung="dreambooth"))
    probe.save(args.out / "style_probe.safetensors")
    write_pack(args.out / "pictures.safetensors", drawn)
    write_csv(args.out / "scores.csv", pd.concat(scores))
    write_json(args.metrics / "outside.json", rounded(metrics))


if __name__ == "__main__":
    run_stage(main)
