"""Evaluate one space on held-out people: inversion, reconstruction, editing, sampling and interpolation."""

from argparse import Namespace

import numpy as np
import pandas as pd
import torch
from diffusers import StableDiffusionPipeline

from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation import scoring
from w2wpp.evaluation.editing import COLUMNS, editing_summary, measure_edits
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.evaluation.prompt_alignment import PromptAlignment
from w2wpp.evaluation.protocol import draw_models, measured, score_rung
from w2wpp.evaluation.samples import RealPeople, kinship
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import Recognizer, load_recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, read_json, read_pack, rounded, write_csv, write_json, write_pack
from w2wpp.inversion.editing import Directions
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import load_space
from w2wpp.world.attributes import attribute_shares
from w2wpp.world.edits import EDITS
from w2wpp.world.judge import load_judge
from w2wpp.world.probes import load_probe


def reconstruction_error(space: WeightSpace, data: Weights, split: str) -> float:
    """Squared error of held-out people's true LoRAs through a space, as a share of their distance from the mean."""
    true = data.of("true", split)
    if not len(true):
        raise InputError("data/weights/people.csv", "split", f"no LoRAs of {split} people", "Raise collect.held_out")
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


def editing_scores(
    args: Namespace, pipe: StableDiffusionPipeline, gallery: Gallery, recognizer: Recognizer
) -> tuple[dict, pd.DataFrame | None]:
    """What edits change, as metrics and person by person; the latter None where no edits are measured."""
    folder, params = args.edits / args.space, args.params.edit
    directions = Directions.load(folder / "directions.safetensors")
    if not directions.names:
        return {}, None
    metrics = {"direction_similarity": directions.similarity(params.disentangle)}
    if not (folder / "edits.csv").is_file():
        return metrics, None
    table = read_csv(folder / "edits.csv", COLUMNS)
    table["person"] = [gallery.people.index(name) for name in table["person"]]
    table = table[gallery.scored[table["person"]]]
    probe = load_probe(args.probe / "probe.safetensors", args.params.portraits.size)
    pictures = read_pack(folder / "pictures.safetensors")[0]["pictures"]
    targets = {name: each.target for name, each in EDITS.items()}
    scores = measure_edits(pipe, table, pictures, targets, gallery, probe.shares, recognizer)
    summary = editing_summary(scores, params.flip_rate, args.params.evaluate.bootstrap)
    return metrics | summary, scores.assign(person=[gallery.people[row] for row in scores["person"]])


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
        edits="data/edits",
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

    found = read_pack(args.inversions / name / "latents.safetensors")[0]
    models = {"inversion": space.decode(found["z"])}
    if "weights" in found:
        models["refined"] = found["weights"]
    pictures = {
        rung: draw_models(
            pipe, space.layout, weights, len(weights), judge, params, drawing, f"people of {name}, {rung}"
        )
        for rung, weights in models.items()
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
    seen, sampled = embed_all(recognizer, samples["pictures"]), embed_all(recognizer, samples["scored"])
    faces, attributes, kin = gallery.zoo.vectors[gallery.zoo.found], {}, 0.0
    if rendered:
        probe = load_probe(args.probe / "probe.safetensors", args.params.portraits.size)
        attributes = attribute_shares(probe, samples["scored"])
    if "donors" in samples:
        kin = kinship(sampled, embed_all(recognizer, samples["donors"]), faces, gallery.mean)
    real_people = RealPeople.load(args.references / "real_people.safetensors")
    strips = read_pack(args.interpolations / name / "pictures.safetensors")[0]["pictures"]

    metrics = {
        "latent_dim": space.latent_dim,
        "reconstruction": {"rel_mse": reconstruction_error(space, data, split)},
        "sampling": {"face_found": float(seen.found.mean()), "kinship": kin}
        | scoring.diversity_and_novelty(seen.vectors[:, 0], seen.found[:, 0], faces, gallery.mean)
        | real_people.compare(sampled, attributes),
        "interpolation": interpolation_scores(embed_all(recognizer, strips), gallery),
        "inversion": summaries["inversion"] | read_json(args.timing / f"{name}.json"),
    }
    editing, edited = editing_scores(args, pipe, gallery, recognizer)
    if editing:
        metrics["editing"] = editing
    if edited is not None:
        write_csv(args.out / name / "edits.csv", edited)
    if "refined" in summaries:
        metrics["refined"] = summaries["refined"]
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
