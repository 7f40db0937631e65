"""Measures that depend on no space: the world by a recogniser, the base model, and the reference rungs."""

import numpy as np
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.codec import psnr_db
from w2wpp.diffusion.pipeline import reconstruct, to_pixels
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery
from w2wpp.faces.embeddings import Embeddings
from w2wpp.lora.weights import Weights, variance_shares

CODEC_PHOTOS = 500  # photos of held-out people on which the codec is measured


def world_metrics(gallery: Gallery) -> dict[str, float]:
    """How well the recogniser tells the held-out people apart by their photos, and how varied they are."""
    can, real, faces = gallery.scored, gallery.real, gallery.zoo.vectors[gallery.zoo.found]
    return {
        "face_found": float(real.found.mean()),
        "id_floor": gallery.floor,
        "id_ceiling": gallery.ceiling,
        "verification_auc": scoring.verification_auc(real.vectors[can], real.found[can], gallery.mean),
        **scoring.diversity_and_novelty(real.vectors[can], real.found[can], faces, gallery.mean),
    }


def codec_metrics(pipe: StableDiffusionPipeline, images: Tensor) -> dict[str, float]:
    """Peak signal-to-noise ratio, in dB, of the codec on the first photos of uint8 [n, photos, h, w, 3]."""
    originals = images.flatten(0, 1)[:CODEC_PHOTOS]
    return {"codec_psnr_db": psnr_db(reconstruct(pipe, originals), to_pixels(originals))}


def class_metrics(drawn: Embeddings, zoo: Embeddings) -> dict[str, float]:
    """Faces on pictures [m] of the base model, and the distance of their distribution from photos [z] of the zoo.

    Returns:
        "face_found"; and, if there are two faces of each, "embedding_frechet" and "embedding_frechet_floor", its value
        between two sets of photos.
    """
    metrics = {"face_found": float(drawn.found.mean())}
    fakes, faces = drawn.vectors[drawn.found], zoo.vectors[zoo.found]
    equal = min(len(fakes), len(faces) // 2)  # The distance depends on the sizes of the sets.
    if equal >= 2:
        metrics["embedding_frechet"] = scoring.frechet_distance(fakes[:equal], faces[:equal])
        metrics["embedding_frechet_floor"] = scoring.frechet_distance(faces[equal : 2 * equal], faces[:equal])
    return metrics


def zoo_metrics(data: Weights) -> dict:
    """Size of the zoo and of its LoRAs, and the variance within and between people if some have two LoRAs."""
    shares = variance_shares(data)
    return {"people": len(data.zoo), "dimension": data.layout.dimension, **({"variance": shares} if shares else {})}


def nearest_zoo_person(photo: Embeddings, zoo: Embeddings, mean: np.ndarray) -> np.ndarray:
    """Row of the zoo person whose photo is closest to each held-out person's photo [n]; 0 where no face is found."""
    similarity = scoring.center(photo.vectors, mean) @ scoring.center(zoo.vectors, mean).T
    return np.where(photo.found, np.where(zoo.found, similarity, -np.inf).argmax(1), 0)


def reference_rungs(
    data: Weights,
    gallery: Gallery,
    zoo_names: list[str],
    rows: list[int],
    split: str,
    rendered: bool,
) -> dict[str, Tensor]:
    """Weight vectors by rung: the mean LoRA [1, d], and of each held-out person [n, d] the others.

    Args:
        zoo_names: of the people whose photos the gallery has.
        rows: of the LoRAs of these people in the zoo; those that were refused have none.
        split: of the held-out people.
        rendered: whether the held-out people have LoRAs of one photo and of several ("one-photo" and "true").
    """
    names = data.names("zoo")
    kept = [zoo_names.index(names[row]) for row in rows]
    photo = Embeddings(gallery.photos.vectors[:, 0], gallery.photos.found[:, 0])
    nearest = nearest_zoo_person(photo, Embeddings(gallery.zoo.vectors[kept], gallery.zoo.found[kept]), gallery.mean)
    rungs = {"mean": data.mean[None], "nearest": data.zoo.rows([rows[number] for number in nearest]).float()}
    return rungs | ({role: data.of(role, split) for role in ("one-photo", "true")} if rendered else {})
