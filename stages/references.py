"""Measure the references that depend on no space: the world, the base model, and the reference rungs.

Of the base model: faces, the distribution of its people, and whether it obeys prompts.

The rungs: the mean LoRA, the LoRA of the zoo person who looks most like the photo, the LoRA of that one photo, the
true LoRA of several photos, and the photo itself, printed whatever the prompt.

Where the held-out people's photos are from a folder, nobody has trained LoRAs of them, the zoo has no photos, and the
probe does not know such pictures: zoo people are then seen through their LoRAs; LoRAs of held-out people and all that
the probe says are left out.

Sampled people are compared with real ones whom no LoRA knows. What other real people score, and zoo people as their own
LoRAs draw them, is what samples can reach.
"""

import torch
from diffusers import StableDiffusionPipeline

from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline, reconstruct, to_images
from w2wpp.diffusion.prompts import CLASS_PROMPT
from w2wpp.evaluation.gallery import build_gallery, draw_zoo, embed_all
from w2wpp.evaluation.protocol import copies, draw_models, measured, score_rung
from w2wpp.evaluation.references import (
    class_metrics,
    codec_metrics,
    reference_rungs,
    world_metrics,
    zoo_metrics,
)
from w2wpp.evaluation.samples import RealPeople
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.portraits import Portraits, read_portraits, write_portraits
from w2wpp.faces.recognizers import Recognizer, load_recognizer
from w2wpp.files.storage import rounded, write_csv, write_json, write_pack
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.held_out import check_people, check_photo_size
from w2wpp.run.params import Params, require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.attributes import attribute_shares
from w2wpp.world.drawing import draw
from w2wpp.world.judge import load_judge
from w2wpp.world.obedience import base_obedience
from w2wpp.world.populations import sample_people
from w2wpp.world.probes import Probe, load_probe


def sampling_rungs(
    pipe: StableDiffusionPipeline, data: Weights, zoo: Portraits, recognizer: Recognizer, probe: Probe, params: Params
) -> tuple[RealPeople, dict, dict]:
    """What sampled people are compared with, and the best that they can be.

    Returns:
        People of the base model's, whom no LoRA knows, with attributes of the zoo's population; and metrics of as many
        other ones, and of zoo people as their LoRAs draw them.
    """
    count, size = params.sample.scored, params.portraits.size

    def attributes(photos: torch.Tensor) -> dict[str, float]:
        # Through the codec, as all that the probe knows.
        return attribute_shares(probe, to_images(reconstruct(pipe, photos)))

    photos = draw(sample_people(params.seed, "base", 2 * count, 1), size, "photos")[:, 0]
    seen = embed_all(recognizer, photos)
    known, others = (Embeddings(seen.vectors[half], seen.found[half]) for half in (slice(count), slice(count, None)))
    real = RealPeople(known.vectors[known.found], attributes(zoo.images[:, 0]))
    rows = torch.linspace(0, len(data.zoo) - 1, min(count, len(data.zoo))).round().int().tolist()
    prompts, seeds = params.sample.prompts[:1], [[number] for number in range(len(rows))]
    drawn = generate(pipe, data.layout, data.zoo.rows(rows), prompts, seeds, params.generate, "zoo people")[:, 0, 0]
    return (
        real,
        real.compare(others, attributes(photos[count:])),
        real.compare(embed_all(recognizer, drawn), attribute_shares(probe, drawn)),
    )


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
    split, rendered = args.params.split, portraits.source == "rendered"
    pipe = load_pipeline(args.base, device(), drawing.dtype)
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    held_out, data = read_portraits(args.portraits).of_split(split), read_weights(args.weights)
    check_photo_size(pipe, held_out.images)
    check_people(data, held_out.names, split, rendered, str(args.weights / "people.csv"))

    if rendered:
        zoo, rows = read_portraits(args.zoo), list(range(len(data.zoo)))
    else:
        zoo, rows = draw_zoo(pipe, data, params, drawing)
        write_portraits(args.out / "zoo", zoo.images, zoo.manifest)
    gallery = build_gallery(held_out, portraits.score_photos, zoo, recognizer)
    gallery.save(args.out / "gallery.safetensors")

    base_weights = torch.zeros(1, data.layout.dimension)
    samples = generate(pipe, data.layout, base_weights, [CLASS_PROMPT], params.class_samples, drawing, "class samples")
    base = codec_metrics(pipe, held_out.images) | class_metrics(embed_all(recognizer, samples[0, 0]), gallery.zoo)
    world, of_zoo, judge = world_metrics(gallery), zoo_metrics(data), None
    if rendered:
        judge = load_judge(args.probe, held_out, portraits.size)
        probe = load_probe(args.probe / "probe.safetensors", portraits.size)
        base["prompt_accuracy"] = base_obedience(
            probe, pipe, data.layout, base_weights, params.prompted_samples, drawing.prompted
        )
        real_people, world["sampling"], of_zoo["sampling"] = sampling_rungs(
            pipe, data, zoo, recognizer, probe, args.params
        )
    else:
        real_people = RealPeople(gallery.zoo.vectors[gallery.zoo.found][: args.params.sample.scored], {})
    real_people.save(args.out / "real_people.safetensors")

    models = reference_rungs(data, gallery, zoo.names, rows, split, rendered)
    pictures = {
        rung: draw_models(pipe, data.layout, weights, len(held_out.names), judge, params, drawing, f"{rung} LoRAs")
        for rung, weights in models.items()
    } | {"photo": copies(held_out.images[:, 0], judge, params.seeds)}
    scored = {
        rung: score_rung(pipe, drawn, gallery, held_out.images, judge, recognizer, params.bootstrap)
        for rung, drawn in pictures.items()
    }
    summaries = {rung: summary for rung, (summary, _) in scored.items()}

    write_csv(args.out / "scores.csv", measured({rung: table for rung, (_, table) in scored.items()}))
    kept = {"class": samples[0, 0]}
    for rung, drawn in pictures.items():
        kept |= drawn.tensors(rung)
    write_pack(args.out / "pictures.safetensors", kept, {"summaries": summaries})
    write_json(args.metrics / "world.json", rounded(world))
    write_json(args.metrics / "base.json", rounded(base))
    write_json(args.metrics / "zoo.json", rounded(of_zoo | summaries.get("true", {})))


if __name__ == "__main__":
    run_stage(main)
