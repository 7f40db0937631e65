"""Evaluate one space on held-out people: inversion, reconstruction, sampling and interpolation."""

import numpy as np
import torch

from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all, score_rungs
from w2wpp.evaluation.prompt_alignment import PromptAlignment
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_json, read_pack, rounded, write_csv, write_json, write_pack
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import load_space


def reconstruction_error(space: WeightSpace, data: Weights) -> float:
    """Squared error of the test people's true LoRAs through a space, as a share of their distance from the mean."""
    true = data.of("true", "test")
    if not len(true):
        raise InputError("data/weights/people.csv", "split", "no LoRAs of test people", "Raise collect.held_out")
    error = ((space.decode(space.encode(true)) - true) / data.std).square().sum(1)
    spread = ((true - data.mean) / data.std).square().sum(1)
    return (error.sum() / spread.sum()).item()


def interpolation_scores(strips: Embeddings, gallery: Gallery) -> dict[str, float]:
    """Faces found on strips [pairs, steps], and the mean evenness of the strips with enough faces."""
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
        weights="data/weights",
        spaces="data/spaces",
        samples="data/samples",
        interpolations="data/interpolations",
        inversions="data/inversions",
        timing="data/timing",
        references="data/references",
        out="data/evaluations",
        metrics="metrics",
    )
    require_photos(args.params)
    name = args.space
    pipe = load_pipeline(args.base, device(), args.params.generate.dtype)
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    align = PromptAlignment(args.params.evaluate, device()) if args.params.evaluate.prompt_alignment == "clip" else None
    space, data = load_space(args.spaces / name / "space.safetensors"), read_weights(args.weights)
    gallery = Gallery.load(args.references / "gallery.safetensors")

    z = read_pack(args.inversions / name / "latents.safetensors")[0]["z"]
    models = {"inversion": space.decode(z)}
    if args.params.portraits.source == "rendered":  # otherwise true LoRAs and photos show different people
        models["reconstruction"] = space.decode(space.encode(data.of("true")))
    pictures, summaries, scores = score_rungs(
        pipe, space.layout, models, gallery, recognizer, args.params.evaluate, args.params.generate
    )
    scores["rung"] = f"{name} " + scores["rung"]

    samples, drawn = read_pack(args.samples / name / "pictures.safetensors")
    seen = embed_all(recognizer, samples["pictures"])
    strips = read_pack(args.interpolations / name / "pictures.safetensors")[0]["pictures"]

    metrics = {
        "latent_dim": space.latent_dim,
        "reconstruction": {"rel_mse": reconstruction_error(space, data)},
        "sampling": {"face_found": float(seen.found.mean())}
        | scoring.diversity_and_novelty(
            seen.vectors[:, 0], seen.found[:, 0], gallery.zoo.vectors[gallery.zoo.found], gallery.mean
        ),
        "interpolation": interpolation_scores(embed_all(recognizer, strips), gallery),
        "inversion": summaries["inversion"] | read_json(args.timing / f"{name}.json"),
    }
    if "reconstruction" in summaries:
        metrics["reconstruction"]["id_score"] = summaries["reconstruction"]["id_score"]
    if align:
        inverted = pictures["inversion"][torch.from_numpy(gallery.rows("test"))]
        metrics["inversion"]["prompt_alignment"] = align(inverted.flatten(0, 1)[None], [args.params.evaluate.prompt])
        metrics["sampling"]["prompt_alignment"] = align(
            samples["pictures"].transpose(0, 1).flatten(1, 2), drawn["prompts"]
        )
    write_json(args.metrics / f"{name}.json", rounded(metrics))
    write_csv(args.out / name / "scores.csv", scores)
    write_pack(args.out / name / "pictures.safetensors", pictures, {"summaries": summaries})


if __name__ == "__main__":
    run_stage(main)
