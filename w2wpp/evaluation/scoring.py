"""Scores on face embeddings, as pure functions of numpy arrays.

Shapes: n people, g generated pictures and p real photos of each, e numbers per embedding. `found` masks go with the
embeddings and are False where the recogniser saw no face; those rows are never read. `reference_mean` [e] is the mean
embedding of a reference population: raw embeddings share a large mean, so every cosine here is taken after removing it.
No function returns NaN; where a score is undefined it raises `ValueError`.
"""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata


def center(vectors: np.ndarray, reference_mean: np.ndarray) -> np.ndarray:
    """Embeddings [..., e] minus `reference_mean` [e], each at length 1, float64; the mean itself gives 0."""
    moved = _finite(vectors, "vectors") - _finite(reference_mean, "reference_mean")
    length = np.linalg.norm(moved, axis=-1, keepdims=True)
    return np.divide(moved, length, out=np.zeros_like(moved), where=length > 0)


def id_cosines(
    generated: np.ndarray,
    generated_found: np.ndarray,
    real: np.ndarray,
    real_found: np.ndarray,
    reference_mean: np.ndarray,
    floor: float,
) -> np.ndarray:
    """Mean centred cosine of each generated picture with the person's real photos that have a face.

    Args:
        generated: [n, g, e] embeddings with `generated_found` [n, g] bool.
        real: [n, p, e] embeddings with `real_found` [n, p] bool.
        reference_mean: [e].
        floor: score of a stranger, from :func:`real_floor_and_ceiling`, and of a picture without a face.

    Returns:
        float64 [n, g], each in [-1, 1].

    Raises:
        ValueError: wrong shapes, no generated picture, or a person none of whose real photos has a face.
    """
    _check_people(generated, generated_found)
    _check_people(real, real_found)
    if len(generated) != len(real):
        raise ValueError(f"{len(generated)} people generated, but real photos of {len(real)}")
    if not np.isfinite(floor):
        raise ValueError("floor is not finite")
    if generated.shape[1] == 0:
        raise ValueError("no generated picture to score")
    _require_face(real_found)
    fake, photos = _unit(generated, generated_found, reference_mean), _unit(real, real_found, reference_mean)
    mean_photo = photos.sum(1) / real_found.sum(1)[:, None]  # [n, e]: a mean of cosines is a cosine with the mean
    return np.clip(np.where(generated_found, np.einsum("nge,ne->ng", fake, mean_photo), floor), -1.0, 1.0)


def id_scores(
    generated: np.ndarray,
    generated_found: np.ndarray,
    real: np.ndarray,
    real_found: np.ndarray,
    reference_mean: np.ndarray,
    floor: float,
) -> np.ndarray:
    """Identity score [n] of each person: the mean of :func:`id_cosines`, whose arguments it takes, in [-1, 1]."""
    return id_cosines(generated, generated_found, real, real_found, reference_mean, floor).mean(1)


def id_obeyed(cosines: np.ndarray, obeyed: np.ndarray, floor: float) -> np.ndarray:
    """Identity score of each person over pictures of prompts that contradict the input photo.

    A picture that obeys its prompt scores its cosine with the person's other photos, at least the floor; any other
    scores the floor. So a copy of the photo, which shows what the photo shows, scores as a stranger does.

    Args:
        cosines: [n, g] from :func:`id_cosines`, where a picture without a face has the floor.
        obeyed: bool [n, g].
        floor: score of a stranger.

    Returns:
        float64 [n], each in [floor, 1].
    """
    cosines, obeyed = _finite(cosines, "cosines"), np.asarray(obeyed)
    if cosines.ndim != 2 or obeyed.shape != cosines.shape or obeyed.dtype != bool or not cosines.size:
        raise ValueError(f"expected [people, pictures] and bool of that shape, got {cosines.shape} and {obeyed.shape}")
    return np.where(obeyed, np.maximum(cosines, floor), floor).mean(1)


def copying(
    generated: np.ndarray,
    generated_found: np.ndarray,
    photo: np.ndarray,
    real: np.ndarray,
    real_found: np.ndarray,
    reference_mean: np.ndarray,
) -> np.ndarray:
    """How much closer a person's generated pictures are to the input photo than the person's other photos are.

    (c(generated, photo) - c(real, photo)) / (1 - c(real, photo)), clipped to [0, 1], c being the mean centred cosine
    of the pictures' vectors. WithAnyone (arXiv 2510.14975) measures copying likewise, among embeddings of faces.

    Args:
        generated: [n, g, e] with ``generated_found`` [n, g] bool, the pictures that count.
        photo: [n, e] of the photo that the model was made from.
        real: [n, p, e] of the person's other photos, with ``real_found`` [n, p] bool.
        reference_mean: [e].

    Returns:
        float64 [n]: 0 for further photos of the person, 1 for the photo itself; 0 where no picture counts.
    """
    _check_people(generated, generated_found)
    _check_people(real, real_found)
    _require_face(real_found)
    seen = center(photo, reference_mean)

    def closeness(vectors: np.ndarray, found: np.ndarray) -> np.ndarray:
        cosines = np.einsum("nge,ne->ng", _unit(vectors, found, reference_mean), seen)
        return cosines.sum(1) / np.maximum(found.sum(1), 1)

    others = closeness(real, real_found)
    share = (closeness(generated, generated_found) - others) / np.maximum(1 - others, 1e-6)
    return np.where(generated_found.any(1), np.clip(share, 0.0, 1.0), 0.0)


def spread(vectors: np.ndarray, reference_mean: np.ndarray) -> np.ndarray:
    """How different each person's pictures [n, g, e] are, g >= 2: mean of 1 - centred cosine over pairs, [n] <= 2."""
    units = center(vectors, reference_mean)
    if units.ndim != 3 or units.shape[1] < 2:
        raise ValueError(f"a spread needs at least two pictures of each person, got shape {units.shape}")
    count = units.shape[1]
    cosine = ((units.sum(1) ** 2).sum(-1) - (units**2).sum((1, 2))) / (count * (count - 1))
    return np.clip(1 - cosine, 0, 2)


def real_floor_and_ceiling(real: np.ndarray, found: np.ndarray, reference_mean: np.ndarray) -> tuple[float, float]:
    """What a stranger and what the person scores, from real photos [n, p, e] with `found` [n, p].

    Returns:
        (floor, ceiling): mean centred cosine over all pairs of photos of two different people, and over all pairs of
        different photos of the same person; each in [-1, 1].

    Raises:
        ValueError: fewer than two people with a face, or no person with two.
    """
    _check_people(real, found)
    units = _unit(real, found, reference_mean)
    count = found.sum(1)  # [n]
    per_person = units.sum(1)  # [n, e]
    # |sum of vectors|^2 is the sum of all their dot products, so no pair has to be visited.
    everything, within, itself = (float((x**2).sum()) for x in (per_person.sum(0), per_person, units))
    same, other = int((count**2).sum() - count.sum()), int(count.sum() ** 2 - (count**2).sum())
    if other == 0:
        raise ValueError("the floor needs photos with a face of at least two people")
    if same == 0:
        raise ValueError("the ceiling needs a person with at least two photos with a face")
    floor, ceiling = (everything - within) / other, (within - itself) / same
    return float(np.clip(floor, -1, 1)), float(np.clip(ceiling, -1, 1))


def normalised(score: float | np.ndarray, floor: float, ceiling: float) -> float | np.ndarray:
    """`score` on the scale where a stranger (`floor`) is 0 and the person's own photos (`ceiling`) are 1."""
    if not (np.isfinite(floor) and np.isfinite(ceiling) and ceiling > floor):
        raise ValueError(f"ceiling {ceiling} must be above floor {floor}")
    return (_finite(score, "score")[()] - floor) / (ceiling - floor)


def tar_at_far(
    generated: np.ndarray,
    generated_found: np.ndarray,
    real: np.ndarray,
    real_found: np.ndarray,
    reference_mean: np.ndarray,
    far: float = 0.01,
) -> float:
    """Verification: the share of genuine pairs accepted where at most a share `far` of the impostor pairs is.

    A genuine pair is a generated picture of person i and a real photo of i. An impostor pair is the same generated
    picture and a real photo of another person. A generated picture without a face is a rejected genuine pair. Real
    photos without a face form no pairs. Pairs are accepted above the threshold, so ties count as rejected.

    Args:
        generated, generated_found, real, real_found, reference_mean: as in `id_scores`.
        far: false acceptance rate, in [0, 1).

    Returns:
        True acceptance rate in [0, 1]; 0 when no generated picture has a face.

    Raises:
        ValueError: fewer than two people, or a person none of whose real photos has a face.
    """
    _check_people(generated, generated_found)
    _check_people(real, real_found)
    if not 0 <= far < 1:
        raise ValueError(f"far is {far}, outside [0, 1)")
    if len(generated) != len(real) or len(real) < 2:
        raise ValueError("verification needs the same people, at least two, generated and real")
    if generated.shape[1] == 0:
        raise ValueError("no generated picture to score")
    _require_face(real_found)
    if not generated_found.any():
        return 0.0
    cosine = np.einsum(
        "nge,mpe->ngmp",
        _unit(generated, generated_found, reference_mean),
        _unit(real, real_found, reference_mean),
        optimize=True,
    )
    usable = generated_found[:, :, None, None] & real_found[None, None]
    own = np.broadcast_to(np.eye(len(real), dtype=bool)[:, None, :, None], cosine.shape)
    threshold = np.quantile(cosine[usable & ~own], 1 - far, method="higher")
    genuine_pairs = generated.shape[1] * int(real_found.sum())
    return float((cosine[usable & own] > threshold).sum() / genuine_pairs)


def verification_auc(real: np.ndarray, found: np.ndarray, reference_mean: np.ndarray) -> float:
    """Area under the ROC curve of real photos: how often a genuine pair is closer than an impostor pair, in [0, 1].

    By ranks (Mann-Whitney), ties counting half, over all pairs of the photos [n, p, e] with `found` [n, p].

    Raises:
        ValueError: fewer than two people with a face, or no person with two.
    """
    _check_people(real, found)
    vectors, person = _unit(real, found, reference_mean)[found], np.nonzero(found)[0]
    first, second = np.triu_indices(len(vectors), 1)
    same = person[first] == person[second]
    genuine, impostor = int(same.sum()), int((~same).sum())
    if genuine == 0 or impostor == 0:
        raise ValueError("verification needs two people with a face, one of them on at least two photos")
    ranks = rankdata((vectors @ vectors.T)[first, second])
    return float((ranks[same].sum() - genuine * (genuine + 1) / 2) / (genuine * impostor))


def bootstrap_mean(
    values: np.ndarray, n: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of one value per person [people] and its percentile bootstrap interval (Efron 1979), people resampled.

    Args:
        values: [people], at least two.
        n: number of resamples.
        seed: of the resampling; the same seed gives the same interval.
        confidence: share of the resampled means inside the interval, in (0, 1).

    Returns:
        (mean, low, high) in the units of `values`.
    """
    values = _finite(values, "values")
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval over people needs at least two values in one row, got shape {values.shape}")
    if n < 1 or not 0 < confidence < 1:
        raise ValueError(f"n is {n} and confidence {confidence}; n must be positive, confidence inside (0, 1)")
    drawn = np.random.default_rng(seed).integers(len(values), size=(n, len(values)))
    low, high = np.quantile(values[drawn].mean(1), [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(values.mean()), float(low), float(high)


def paired_gain(
    a: np.ndarray, b: np.ndarray, n: int = 2000, seed: int = 0, confidence: float = 0.95
) -> tuple[float, float, float]:
    """Mean of `a - b` over the same people [people] with its bootstrap interval; see `bootstrap_mean`."""
    a, b = _finite(a, "a"), _finite(b, "b")
    if a.shape != b.shape:
        raise ValueError(f"a paired gain needs the same people twice, got shapes {a.shape} and {b.shape}")
    return bootstrap_mean(a - b, n, seed, confidence)


def frechet_distance(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between Gaussians fitted to two sets of embeddings (FID, Heusel et al. 2017, arXiv 1706.08500).

    |mean_x - mean_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2)), the last trace being the sum of the singular values of
    C_x^(1/2) C_y^(1/2). It falls with the number of samples, so compare sets of equal size only.

    Args:
        x: [n, e] with n at least 2, faces only.
        y: [m, e] with m at least 2, faces only.

    Returns:
        Distance in squared embedding units, at least 0.
    """
    x, y = _finite(x, "x"), _finite(y, "y")
    if x.ndim != 2 or y.ndim != 2 or x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 2:
        raise ValueError(f"two sets of at least two embeddings of one size are needed, got {x.shape} and {y.shape}")
    between = ((x.mean(0) - y.mean(0)) ** 2).sum()
    spread_x, spread_y = ((v - v.mean(0)) / np.sqrt(len(v) - 1) for v in (x, y))  # C = spread.T @ spread
    # C^(1/2) equals the spread up to a rotation, and rotations leave singular values alone.
    overlap = np.linalg.svd(spread_x @ spread_y.T, compute_uv=False).sum()
    return float(max(0.0, between + (spread_x**2).sum() + (spread_y**2).sum() - 2 * overlap))


def mean_pairwise_distance(vectors: np.ndarray, reference_mean: np.ndarray) -> float:
    """Diversity of embeddings [n, e], faces only: mean of 1 - centred cosine over all pairs, in [0, 2]."""
    units = center(vectors, reference_mean)
    if units.ndim != 2 or len(units) < 2:
        raise ValueError(f"diversity needs at least two embeddings, got shape {np.shape(vectors)}")
    pairs = len(units) * (len(units) - 1)
    mean_cosine = ((units.sum(0) ** 2).sum() - (units**2).sum()) / pairs
    return float(np.clip(1 - mean_cosine, 0, 2))


def diversity_and_novelty(
    vectors: np.ndarray, found: np.ndarray, zoo: np.ndarray, reference_mean: np.ndarray
) -> dict[str, float]:
    """How much people differ from each other, and how much each differs from the most similar zoo person.

    Args:
        vectors: [n, g, e] embeddings of g pictures of each person with `found` [n, g] bool, averaged by person.
        zoo: [z, e] embeddings of the zoo people, faces only.
        reference_mean: [e].

    Returns:
        "diversity": mean of 1 - centred cosine over all pairs; "novelty": mean of 1 - the largest centred cosine with a
        zoo person; both in [0, 2], and 0 if fewer than two people have a face.
    """
    people = [each[face].mean(0) for each, face in zip(vectors, found, strict=True) if face.any()]
    if len(people) < 2:
        return {"diversity": 0.0, "novelty": 0.0}
    nearest = (center(np.stack(people), reference_mean) @ center(zoo, reference_mean).T).max(1)
    return {
        "diversity": mean_pairwise_distance(np.stack(people), reference_mean),
        "novelty": float(np.clip(1 - nearest, 0, 2).mean()),
    }


def evenness(path_embeddings: np.ndarray, found: np.ndarray) -> float:
    """How evenly identity changes along an interpolation: mean step / largest step, 1 when all steps are equal.

    A step is the Euclidean distance between the embeddings of consecutive pictures that have a face, so a missing face
    makes one longer step. A path with fewer than three faces, or one that never moves, gets 0.

    Args:
        path_embeddings: [steps, e] in the order of the path, at least three.
        found: bool [steps].

    Returns:
        Share in [0, 1].
    """
    path, found = np.asarray(path_embeddings, dtype=np.float64), np.asarray(found)
    if path.ndim != 2 or len(path) < 3 or found.shape != path.shape[:1] or found.dtype != bool:
        raise ValueError(f"a path needs [steps >= 3, e] and bool [steps], got {path.shape} and {found.shape}")
    step = np.linalg.norm(np.diff(_finite(path[found], "path_embeddings"), axis=0), axis=1)
    if len(step) < 2 or step.max() == 0:
        return 0.0
    return float(min(1.0, (step / step.max()).mean()))


def _finite(values: float | np.ndarray, name: str) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds a value that is not finite")
    return values


def _unit(vectors: np.ndarray, found: np.ndarray, reference_mean: np.ndarray) -> np.ndarray:
    units = np.zeros(vectors.shape)
    units[found] = center(vectors[found], reference_mean)
    return units


def _check_people(vectors: np.ndarray, found: np.ndarray) -> None:
    if vectors.ndim != 3 or found.shape != vectors.shape[:2] or found.dtype != bool:
        shapes = f"{vectors.shape} and {found.dtype} {found.shape}"
        raise ValueError(f"expected [people, pictures, e] and bool [people, pictures], got {shapes}")


def _require_face(real_found: np.ndarray) -> None:
    faceless = np.flatnonzero(~real_found.any(1))
    if len(faceless):
        raise ValueError(f"no face on any real photo of {len(faceless)} people, the first being number {faceless[0]}")
