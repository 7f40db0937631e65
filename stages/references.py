"""Score what does not depend on a space: the world, the base model, and the rungs that every space is compared with.

Of the base model: faces, the distribution of its people, and whether it obeys prompts, as the true LoRAs must too.

The rungs: the mean LoRA, the LoRA of the zoo person who looks most like the photo, the LoRA of that one photo, and the
true LoRA of several photos.

Where the held-out people's photos are from a folder, nobody has trained LoRAs of them, the zoo has no photos, and the
probe does not know such pictures: zoo people are then seen through their LoRAs, and the last two rungs and what the
probe says are left out.
"""

import numpy as np
import torch

from w2wpp.codec import psnr_db
from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import check_photo_size, load_pipeline, reconstruct, to_pixels
from w2wpp.diffusion.prompts import CLASS_PROMPT, IDENTITY_TOKEN
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import build_gallery, draw_zoo, embed_all, score_rungs
from w2wpp.faces.portraits import read_portraits, write_portraits
from w2wpp.faces.recognizers import Embeddings, load_recognizer
from w2wpp.files.errors import InputError
from w2wpp.files.storage import rounded, write_csv, write_json, write_pack
from w2wpp.lora.weights import Weights, read_weights, variance_shares
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.probes import FACTORS, PHOTO_FACTORS, load_probe, obedience


def check_people(data: Weights, names: list[str], rendered: bool, where: str) -> None:
    """Refuse held-out people who have not the LoRAs that they should have, or who are in the zoo."""
    if rendered and not data.names("true") == data.names("one-photo") == names:
        raise InputError(where, "person", "not the people of the portraits, in their order",
                         "See data/weights/quarantine.csv for refused LoRAs, then run `dvc repro -f collect`")
    known = sorted(set(names) & set(data.names("zoo")))
    if known:
        raise InputError(where, "person", f"{known[0]!r} is in the zoo and among the {len(names)} held-out people, of "
                         "whom the zoo must not know", "Rename the one in portraits.path, or take the LoRA away if it "
                         "is the same person's")


def nearest_zoo_person(photo: Embeddings, zoo: Embeddings, mean: np.ndarray) -> np.ndarray:
    """Row of the zoo person whose photo is closest to each held-out person's photo [n]; 0 where no face is found."""
    similarity = scoring.center(photo.vectors, mean) @ scoring.center(zoo.vectors, mean).T
    return np.where(photo.found, np.where(zoo.found, similarity, -np.inf).argmax(1), 0)


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", portraits="data/portraits", zoo="data/zoo/people",
                           weights="data/weights", probe="data/probe", out="data/references", metrics="metrics")
    require_photos(args.params)
    params, keep = args.params.evaluate, args.params.portraits.score_photos
    rendered, how = args.params.portraits.source == "rendered", args.params.generate
    pipe = load_pipeline(args.base, device(), how.dtype)
    recognizer = load_recognizer(args.params.recognizer, progress="faces")
    held_out, data = read_portraits(args.portraits), read_weights(args.weights)
    check_photo_size(pipe, held_out.images)
    check_people(data, held_out.names, rendered, str(args.weights / "people.csv"))

    if rendered:
        zoo, rows = read_portraits(args.zoo), list(range(len(data.zoo)))
    else:
        zoo, rows = draw_zoo(pipe, data, params, how)
        write_portraits(args.out / "zoo", zoo.images, zoo.manifest)
    real = embed_all(recognizer, held_out.images[:, -keep:])
    gallery = build_gallery(held_out, real, embed_all(recognizer, zoo.images[:, 0]), recognizer.name)
    gallery.save(args.out / "gallery.safetensors")
    test, faces = gallery.rows("test"), gallery.zoo.vectors[gallery.zoo.found]
    world = {"face_found": float(real.found.mean()), "id_floor": gallery.floor, "id_ceiling": gallery.ceiling,
             "verification_auc": scoring.verification_auc(real.vectors[test], real.found[test], gallery.mean),
             **scoring.diversity_and_novelty(real.vectors[test], real.found[test], faces, gallery.mean)}

    originals = held_out.images.flatten(0, 1)[:500]
    psnr = psnr_db(reconstruct(pipe, originals), to_pixels(originals))
    base_weights = torch.zeros(1, data.layout.dimension)
    samples = generate(pipe, data.layout, base_weights, [CLASS_PROMPT], params.class_samples, how,
                       "class samples")[0, 0]
    drawn = embed_all(recognizer, samples)
    base = {"codec_psnr_db": psnr, "face_found": float(drawn.found.mean())}
    fakes = drawn.vectors[drawn.found]
    equal = min(len(fakes), len(faces) // 2)  # the distance depends on the sizes of the sets
    if equal >= 2:
        base["embedding_frechet"] = scoring.frechet_distance(fakes[:equal], faces[:equal])
        base["embedding_frechet_floor"] = scoring.frechet_distance(faces[equal:2 * equal], faces[:equal])

    photo = embed_all(recognizer, held_out.images[:, 0])
    names = data.names("zoo")
    kept = [zoo.names.index(names[row]) for row in rows]  # those whose LoRA was not refused
    nearest = nearest_zoo_person(photo, Embeddings(gallery.zoo.vectors[kept], gallery.zoo.found[kept]), gallery.mean)
    rungs = {"mean": data.mean[None],
             "nearest": data.zoo.rows([rows[number] for number in nearest]).float()}
    told = {"people": len(data.zoo), "dimension": data.layout.dimension}
    if shares := variance_shares(data):
        told["variance"] = shares
    if rendered:
        rungs |= {"one-photo": data.of("one-photo"), "true": data.of("true")}
        probe = load_probe(args.probe / "probe.safetensors", args.params.portraits.size)
        obeyed = base["prompt_accuracy"] = obedience(probe, FACTORS, lambda prompts: generate(
            pipe, data.layout, base_weights, prompts, params.prompted_samples, how.prompted,
            "prompts to the base model")[0], "a")
        asked = rungs["true"][np.flatnonzero(test)[:params.prompted_people]]
        accuracy = told["prompt_accuracy"] = obedience(probe, PHOTO_FACTORS, lambda prompts: generate(
            pipe, data.layout, asked, prompts, params.seeds, how.prompted,
            "prompts to true LoRAs").transpose(0, 1).flatten(1, 2), IDENTITY_TOKEN)
        told["prompt_accuracy_relative"] = {name: share / max(obeyed[name], 0.01) for name, share in accuracy.items()}

    pictures, summaries, scores = score_rungs(pipe, data.layout, rungs, gallery, recognizer, params, how)

    write_csv(args.out / "scores.csv", scores)
    write_pack(args.out / "pictures.safetensors", {"class": samples, **pictures}, {"summaries": summaries})
    write_json(args.metrics / "world.json", rounded(world))
    write_json(args.metrics / "base.json", rounded(base))
    write_json(args.metrics / "zoo.json", rounded(told | summaries.get("true", {})))


if __name__ == "__main__":
    run_stage(main)
