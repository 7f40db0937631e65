"""Embeddings of faces: a chip is cut out of each picture with a face, and a network embeds chips in batches."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import NamedTuple

import numpy as np
import torch
from tqdm import tqdm

ARCFACE_SIZE = 112  # side, in pixels, of the chips that ArcFace-style networks embed
BATCH = 32
Chip = Callable[[np.ndarray], np.ndarray | None]  # uint8 RGB [h, w, 3] -> [side, side, 3], None without a face
_WORKER: dict[str, Callable] = {}  # filled in forked workers only


class Embeddings(NamedTuple):
    """``vectors`` float32 [n, e], raw (neither centred nor normalised) and 0 where ``found`` bool [n] is False."""

    vectors: np.ndarray
    found: np.ndarray


class ChipRecognizer:
    """What the recognisers share: a face chip is cut out of each picture, then a network embeds chips in batches."""

    name: str
    dim: int
    _chip: Chip
    _network: Callable[[np.ndarray], np.ndarray]  # uint8 RGB [m, side, side, 3] -> float32 [m, e]

    def __init__(self, workers: int | None, progress: str | None) -> None:
        self.workers, self.progress = workers or os.cpu_count() or 1, progress

    def embed(self, images: np.ndarray) -> Embeddings:
        """Embed the most certain face of each picture, uint8 RGB [n, h, w, 3]; ValueError for anything else."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:3]:
            raise ValueError(f"expected uint8 pictures [n, h, w, 3], got {images.dtype} {list(images.shape)}")
        vectors, found = np.zeros((len(images), self.dim), np.float32), np.zeros(len(images), bool)
        faces = face_chips(self._chip, images, self.workers, self.progress)
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads // 2))  # the workers need cores too, and crowded threads are far slower
        try:
            while batch := list(islice(faces, BATCH)):
                rows, stacked = zip(*batch, strict=True)
                vectors[list(rows)] = self._network(np.stack(stacked))
                found[list(rows)] = True
        finally:
            torch.set_num_threads(threads)
        return Embeddings(vectors, found)


def face_chips(
    chip: Chip, images: np.ndarray, workers: int, progress: str | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """(Row, chip) of every picture that has a face, in order.

    Args:
        chip: cuts the face out of a picture, the same for any number of workers.
        images: uint8 RGB [n, h, w, 3].
        workers: processes; one where the platform cannot fork.
        progress: label of a progress bar; None for no bar.
    """
    bar = tqdm(_chips(chip, images, workers), progress, len(images), disable=progress is None)
    return ((row, face) for row, face in enumerate(bar) if face is not None)


def _chips(chip: Chip, images: np.ndarray, workers: int) -> Iterator[np.ndarray | None]:
    # Dlib's detector holds the GIL, so threads gain nothing; forked processes inherit the models loaded here.
    if workers == 1 or len(images) < BATCH or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(chip, images)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _WORKER.update, ({"chip": chip},)) as pool:
        for start in range(0, len(images), 1024):  # so that waiting chips cannot fill the memory
            yield from pool.map(_worker_chip, images[start : start + 1024], chunksize=8)


def _worker_chip(image: np.ndarray) -> np.ndarray | None:
    return _WORKER["chip"](image)
