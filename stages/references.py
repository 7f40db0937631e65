"""Measure the references that depend on no space: the world, the base model, and the reference rungs.

For the base model, the stage measures faces, the distribution of its people, and whether it obeys prompts. It also
measures whether true LoRAs obey prompts.

The rungs are the mean LoRA, the LoRA of the zoo person most similar to the photo, the LoRA of that one photo, and the
true LoRA of several photos.

If the held-out people's photos are from a folder, these people have no trained LoRAs and the zoo has no photos. The
LoRAs of zoo people then draw their pictures, and the last two rungs and the probe's measures are left out.
"""

import numpy as np
import torch

from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.prompts import CLASS_PROMPT
from w2wpp.evaluation.gallery import build_gallery, draw_zoo, embed_all, score_rungs
from w2wpp.evaluation.references import (
    class_metrics,
    codec_metrics,
    reference_rungs,
    world_metrics,
    zoo_metrics,
)
from w2wpp.faces.portraits import read_portraits, write_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import rounded, write_csv, write_json, write_pack
from w2wpp.lora.weights import read_weights
from w2wpp.run.held_out import check_people, check_photo_size
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.obedience import base_obedience, lora_obedience, relative_obedience
from w2wpp.world.probes import load_probe


def main() -> None:
    args = stage_arguments(
        __doc__,
        base="data/base",
        portraits="data/portraits",
        zoo="data/zoo/people",
        weights="data/weights",
        probe="data/probe",
        out="data/references",
        metrics="metrics",
    )
    require_photos(args.params)
    params, portraits, drawing = args.params.evaluate, args.params.portraits, args.params.generate
    rendered = portraits.source == "rendered"
    pipe = load_pipeline(args.base, device(), drawing.dtype)
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    held_out, data = read_portraits(args.portraits), read_weights(args.weights)
    check_photo_size(pipe, held_out.images)
    check_people(data, held_out.names, rendered, str(args.weights / "people.csv"))

    if rendered:
        zoo, rows = read_portraits(args.zoo), list(range(len(data.zoo)))
    else:
        zoo, rows = draw_zoo(pipe, data, params, drawing)
        write_portraits(args.out / "zoo", zoo.images, zoo.manifest)
    real = embed_all(recognizer, held_out.images[:, -portraits.score_photos :])
    gallery = build_gallery(held_out, real, embed_all(recognizer, zoo.images[:, 0]), recognizer.name)
    gallery.save(args.out / "gallery.safetensors")

    base_weights = torch.zeros(1, data.layout.dimension)
    samples = generate(pipe, data.layout, base_weights, [CLASS_PROMPT], params.class_samples, drawing, "class samples")[
        0, 0
    ]
    base = codec_metrics(pipe, held_out.images) | class_metrics(embed_all(recognizer, samples), gallery.zoo)
    of_zoo = zoo_metrics(data)
    rungs = reference_rungs(data, embed_all(recognizer, held_out.images[:, 0]), gallery, zoo.names, rows, rendered)
    if rendered:
        probe = load_probe(args.probe / "probe.safetensors", portraits.size)
        people = rungs["true"][np.flatnonzero(gallery.rows("test"))[: params.prompted_people]]
        base["prompt_accuracy"] = base_obedience(
            probe, pipe, data.layout, base_weights, params.prompted_samples, drawing.prompted
        )
        shares = lora_obedience(probe, pipe, data.layout, people, params.seeds, drawing.prompted)
        of_zoo |= {
            "prompt_accuracy": shares,
            "prompt_accuracy_relative": relative_obedience(shares, base["prompt_accuracy"]),
        }
    pictures, summaries, scores = score_rungs(pipe, data.layout, rungs, gallery, recognizer, params, drawing)

    write_csv(args.out / "scores.csv", scores)
    write_pack(args.out / "pictures.safetensors", {"class": samples, **pictures}, {"summaries": summaries})
    write_json(args.metrics / "world.json", rounded(world_metrics(real, gallery)))
    write_json(args.metrics / "base.json", rounded(base))
    write_json(args.metrics / "zoo.json", rounded(of_zoo | summaries.get("true", {})))


if __name__ == "__main__":
    run_stage(main)
