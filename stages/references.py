"""Score what does not depend on a space: the world, the base model, and the rungs that every space is compared with.

Of the base model: faces, the distribution of its people, and whether it obeys prompts, as the true LoRAs must too.

The rungs: the mean LoRA, the LoRA of the zoo person who looks most like the photo, the LoRA of that one photo, and the
true LoRA of several photos.
"""

import numpy as np
import torch

from w2wpp import scoring
from w2wpp.codec import psnr_db
from w2wpp.denoising import generate
from w2wpp.errors import InputError
from w2wpp.evaluation import Gallery, embed_all, rounded, score_rungs
from w2wpp.params import require_photos
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import IDENTITY_TOKEN, load_pipeline, to_pixels
from w2wpp.populations import read_portraits
from w2wpp.probes import FACTORS, PHOTO_FACTORS, load_probe, obedience
from w2wpp.recognizers import Embeddings, load_recognizer
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.storage import write_csv, write_json, write_pack
from w2wpp.weights import read_weights, variance_shares


def nearest_zoo_person(photo: Embeddings, zoo: Embeddings, mean: np.ndarray) -> np.ndarray:
    """Row of the zoo person whose photo is closest to each held-out person's photo [n]; 0 where no face is found."""
    similarity = scoring.center(photo.vectors, mean) @ scoring.center(zoo.vectors, mean).T
    return np.where(photo.found, np.where(zoo.found, similarity, -np.inf).argmax(1), 0)


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", portraits="data/portraits", zoo="data/zoo/people",
                           weights="data/weights", probe="data/probe", out="data/references", metrics="metrics")
    require_photos(args.params)
    params, keep = args.params.evaluate, args.params.portraits.score_photos
    pipe = load_pipeline(args.base, device())
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    held_out, zoo, data = read_portraits(args.portraits), read_portraits(args.zoo), read_weights(args.weights)

    if not data.names("true") == data.names("one-photo") == held_out.names:
        raise InputError(str(args.weights / "people.csv"), "person", "not the people of the portraits, in their order",
                         "See data/weights/quarantine.csv for refused LoRAs, then run `dvc repro -f collect`")

    real = embed_all(recognizer, held_out.images[:, -keep:])
    gallery = Gallery.build(held_out.names, held_out.splits, real, embed_all(recognizer, zoo.images[:, 0]))
    gallery.save(args.out / "gallery.safetensors")
    test = gallery.rows("test")
    world = {"face_found": float(real.found.mean()), "id_floor": gallery.floor, "id_ceiling": gallery.ceiling,
             "verification_auc": scoring.verification_auc(real.vectors[test], real.found[test], gallery.mean)}

    with torch.no_grad():
        originals = to_pixels(held_out.images.flatten(0, 1)[:500])
        psnr = psnr_db(pipe.vae(originals.to(device())).cpu(), originals)
    base_weights = torch.zeros(1, data.layout.dimension)
    samples = generate(pipe, data.layout, base_weights, [CLASS_PROMPT], params.class_samples, args.params.generate,
                       "class samples")[0, 0]
    drawn = embed_all(recognizer, samples)
    base = {"codec_psnr_db": psnr, "face_found": float(drawn.found.mean())}
    fakes, faces = drawn.vectors[drawn.found], gallery.zoo.vectors[gallery.zoo.found]
    equal = min(len(fakes), len(faces) // 2)  # the distance depends on the sizes of the sets
    if equal >= 2:
        base["embedding_frechet"] = scoring.frechet_distance(fakes[:equal], faces[:equal])
        base["embedding_frechet_floor"] = scoring.frechet_distance(faces[equal:2 * equal], faces[:equal])

    photo = embed_all(recognizer, held_out.images[:, 0])
    kept = [zoo.names.index(name) for name in data.names("zoo")]  # those whose LoRA was not refused
    nearest = nearest_zoo_person(photo, Embeddings(gallery.zoo.vectors[kept], gallery.zoo.found[kept]), gallery.mean)
    rungs = {"mean": data.mean.expand(len(held_out.names), -1),
             "nearest": data.of("zoo")[nearest],
             "one-photo": data.of("one-photo"), "true": data.of("true")}
    probe, how = load_probe(args.probe / "probe.safetensors", args.params.portraits.size), args.params.generate
    base["prompt_accuracy"] = obedience(probe, FACTORS, lambda prompts: generate(
        pipe, data.layout, base_weights, prompts, params.prompted_samples, how, "prompts to the base model")[0], "a")
    asked = rungs["true"][np.flatnonzero(test)[:params.prompted_people]]
    accuracy = obedience(probe, PHOTO_FACTORS, lambda prompts: generate(
        pipe, data.layout, asked, prompts, params.seeds, how, "prompts to true LoRAs").transpose(0, 1).flatten(1, 2),
        IDENTITY_TOKEN)

    pictures, summaries, scores = score_rungs(pipe, data.layout, rungs, gallery, recognizer, args.params)

    write_csv(args.out / "scores.csv", scores)
    write_pack(args.out / "pictures.safetensors", {"class": samples, **pictures}, {"summaries": summaries})
    write_json(args.metrics / "world.json", rounded(world))
    write_json(args.metrics / "base.json", rounded(base))
    relative = {name: share / max(base["prompt_accuracy"][name], 0.01) for name, share in accuracy.items()}
    write_json(args.metrics / "zoo.json", rounded(
        {"people": len(data.of("zoo")), "dimension": data.layout.dimension, "prompt_accuracy": accuracy,
         "prompt_accuracy_relative": relative, "variance": variance_shares(data)} | summaries["true"]))


if __name__ == "__main__":
    run_stage(main)
