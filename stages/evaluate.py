"""Evaluate one space on held-out people: inversion, reconstruction, sampling and interpolation."""

import numpy as np
import torch

from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.evaluation.prompt_alignment import PromptAlignment
from w2wpp.evaluation.protocol import draw_models, measured, score_rung
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_json, read_pack, rounded, write_csv, write_json, write_pack
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import load_space
from w2wpp.world.judge import load_judge


def reconstruction_error(space: WeightSpace, data: Weights, split: str) -> float:
    """Squared error of held-out people's true LoRAs through a space, as a share of their distance from the mean."""
    true = data.of("true", split)
    if not len(true):
        raise InputError("data/weights/people.csv", "split", f"no LoRAs of {split} people", "Raise collect.held_out")
    error = ((space.decode(space.encode(true)) - true) / data.std).square().sum(1)
    spread = ((true - data.mean) / data.std).square().sum(1)
    return (error.sum() / spread.sum()).item()


def interpolation_scores(strips: Embeddings, gallery: Gallery) -> dict[str, float]:
    """Faces found on strips [pairs, steps], and the mean evenness of the strips on which it can be judged."""
    evenness = [
        scoring.evenness(scoring.center(vectors, gallery.mean), found)
        for vectors, found in zip(strips.vectors, strips.found, strict=True)
        if found.sum() >= 3
    ]
    return {"evenness": float(np.mean(evenness)) if evenness else 0.0, "face_found": float(strips.found.mean())}


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        base="data/base",
        portraits="data/portraits",
        probe="data/probe",
        weights="data/weights",
        spaces="data/spaces",
        samples="data/samples",
        interpolations="data/interpolations",
        inversions="data/inversions",
        timing="data/timing",
        styles="data/outside",
        references="data/references",
        out="data/evaluations",
        metrics="metrics",
    )
    require_photos(args.params)
    name, split, params, drawing = args.space, args.params.split, args.params.evaluate, args.params.generate
    rendered = args.params.portraits.source == "rendered"
    pipe = load_pipeline(args.base, device(), drawing.dtype)
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    align = PromptAlignment(params, device()) if params.prompt_alignment == "clip" else None
    space, data = load_space(args.spaces / name / "space.safetensors"), read_weights(args.weights)
    held_out = read_portraits(args.portraits).of_split(split)
    gallery = Gallery.load(args.references / "gallery.safetensors")
    judge = load_judge(args.probe, held_out, args.params.portraits.size) if rendered else None

    z = read_pack(args.inversions / name / "latents.safetensors")[0]["z"]
    pictures = {
        "inversion": draw_models(
            pipe, space.layout, space.decode(z), len(z), judge, params, drawing, f"inverted into {name}"
        )
    }
    if rendered:  # or true LoRAs are of other people than the photos
        through = space.decode(space.encode(data.of("true", split)))
        pictures["reconstruction"] = draw_models(
            pipe, space.layout, through, len(through), None, params, drawing, f"true LoRAs through {name}"
        )
    scored = {
        rung: score_rung(pipe, each, gallery, held_out.images, judge, recognizer, params.bootstrap)
        for rung, each in pictures.items()
    }
    summaries = {rung: summary for rung, (summary, _) in scored.items()}

    samples, drawn = read_pack(args.samples / name / "pictures.safetensors")
    seen = embed_all(recognizer, samples["pictures"])
    strips = read_pack(args.interpolations / name / "pictures.safetensors")[0]["pictures"]

    metrics = {
        "latent_dim": space.latent_dim,
        "reconstruction": {"rel_mse": reconstruction_error(space, data, split)},
        "sampling": {"face_found": float(seen.found.mean())}
        | scoring.diversity_and_novelty(
            seen.vectors[:, 0], seen.found[:, 0], gallery.zoo.vectors[gallery.zoo.found], gallery.mean
        ),
        "interpolation": interpolation_scores(embed_all(recognizer, strips), gallery),
        "inversion": summaries["inversion"] | read_json(args.timing / f"{name}.json"),
    }
    if outside := read_json(args.styles / name / "metrics.json"):
        metrics["outside"] = outside
    if "reconstruction" in summaries:
        metrics["reconstruction"]["id_score"] = summaries["reconstruction"]["id_score"]
    if align:
        inverted = pictures["inversion"].plain[torch.from_numpy(gallery.scored)]
        metrics["inversion"]["prompt_alignment"] = align(inverted.flatten(0, 1)[None], [params.prompt])
        metrics["sampling"]["prompt_alignment"] = align(
            samples["pictures"].transpose(0, 1).flatten(1, 2), drawn["prompts"]
        )
    write_json(args.metrics / f"{name}.json", rounded(metrics))
    write_csv(
        args.out / name / "scores.csv", measured({f"{name} {rung}": table for rung, (_, table) in scored.items()})
    )
    kept = {key: tensor for rung, each in pictures.items() for key, tensor in each.tensors(rung).items()}
    write_pack(args.out / name / "pictures.safetensors", kept, {"summaries": summaries})


if __name__ == "__main__":
    run_stage(main)
