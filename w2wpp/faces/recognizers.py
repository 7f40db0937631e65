"""Who is in a picture: the recognisers, by their specs in params.yaml."""

from typing import Protocol

import numpy as np

from w2wpp.faces.dlib import DlibRecognizer
from w2wpp.faces.embeddings import Embeddings
from w2wpp.faces.insightface import InsightFaceRecognizer
from w2wpp.files.errors import ArgumentError


class Recognizer(Protocol):
    """Embeds the most certain face of each picture, uint8 RGB [n, h, w, 3]; ``name`` is its spec, ``dim`` is e."""

    name: str
    dim: int

    def embed(self, images: np.ndarray) -> Embeddings: ...


def load_recognizer(spec: str, workers: int | None = None, progress: str | None = None) -> Recognizer:
    """The recogniser that ``spec`` names: ``dlib`` or ``insightface:<pack name or path.onnx>``.

    Raises:
        InputError: any other spec (naming the argument ``recognizer``), or its files are missing.
    """
    if spec == "dlib":
        return DlibRecognizer(workers, progress)
    if isinstance(spec, str) and spec.startswith("insightface:") and spec != "insightface:":
        return InsightFaceRecognizer(spec, workers, progress)
    raise ArgumentError(
        None,
        "recognizer",
        f"unknown recogniser {spec!r}",
        "Use dlib, insightface:<pack name> or insightface:<path.onnx>",
    )
