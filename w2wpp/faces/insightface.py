"""Insightface: ArcFace-style networks of one ONNX file, and packs that bring a detector of their own."""

import os
from functools import partial
from typing import Any

import numpy as np

from w2wpp.faces.dlib import ATTEMPTS, FaceFinder, arcface_chip, enlarge
from w2wpp.faces.embeddings import ARCFACE_SIZE, ChipRecognizer
from w2wpp.files.errors import InputError
from w2wpp.files.folders import expanded

RESTORED = "`git checkout data/arcface` brings back the shipped one"
PACKS = "https://github.com/deepinsight/insightface/releases/download/v0.7"


class InsightFaceRecognizer(ChipRecognizer):
    """An ArcFace-style network through insightface: one ONNX file, or a pack that brings its own detector.

    Args:
        spec: `insightface:<path.onnx>` gets faces found by dlib and aligned to 112x112; `insightface:<pack name>`
            is a folder of ONNX files in `$INSIGHTFACE_HOME/models` (or `~/.insightface`), never downloaded.
        workers, progress: as in `DlibRecognizer`; a pack uses one process.

    Raises:
        InputError: the file or folder is missing or is not an ArcFace-style network.
    """

    def __init__(self, spec: str, workers: int | None = None, progress: str | None = None) -> None:
        target = spec.removeprefix("insightface:")
        is_file = target.endswith(".onnx")
        super().__init__(workers if is_file else 1, progress)  # a pack's detector would not survive a fork
        detector, network = (None, _load_arcface(target)) if is_file else load_pack(target)
        self._chip = partial(arcface_chip, FaceFinder()) if is_file else partial(_pack_chip, detector)
        self._network = partial(_arcface_features, network)
        self.name, self.dim = spec, self._network(np.zeros((1, ARCFACE_SIZE, ARCFACE_SIZE, 3), np.uint8)).shape[1]


def load_pack(pack: str) -> tuple[Any, Any]:
    """Detector and recogniser of an insightface pack, which is never downloaded.

    Raises:
        InputError: the pack's folder has no ONNX file, or not those of a detector and a recogniser.
    """
    folder = expanded(os.environ.get("INSIGHTFACE_HOME", "~/.insightface")) / "models" / pack
    if not any(folder.glob("*.onnx")):
        remedy = (
            f"Unpack the ONNX files of {PACKS}/{pack}.zip into {folder}, or set `recognizer: dlib` (and `faces: "
            "dlib`), which needs no download"
        )
        raise InputError("recognizer insightface", pack, f"no ONNX file in {folder}", remedy)
    from insightface.app import FaceAnalysis

    try:
        analysis = FaceAnalysis(str(folder), allowed_modules=["detection", "recognition"])
        analysis.prepare(ctx_id=0)
        return analysis.models["detection"], analysis.models["recognition"]
    except Exception as error:  # insightface lets those of onnxruntime through, and KeyError where a network is missing
        raise InputError("recognizer insightface", pack, f"{folder} is not a usable pack ({error!r})") from error


def pack_points(detector: Any, picture: np.ndarray) -> list[np.ndarray]:
    """The five landmarks, complex [5], of each face that a detector finds on uint8 RGB [h, w, 3], largest first."""
    boxes, points = detector.detect(np.ascontiguousarray(picture[..., ::-1]))
    if points is None:
        return []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return [points[row].astype(float) @ (1, 1j) for row in np.argsort(-areas, kind="stable")]


def _pack_chip(detector: Any, image: np.ndarray) -> np.ndarray | None:
    from insightface.utils.face_align import norm_crop

    picture = np.ascontiguousarray(enlarge(image, *ATTEMPTS[-1])[..., ::-1])
    _, landmarks = detector.detect(picture, max_num=1)
    return None if landmarks is None or len(landmarks) == 0 else norm_crop(picture, landmarks[0])[..., ::-1]


def _arcface_features(network: Any, chips: np.ndarray) -> np.ndarray:
    bgr = [np.ascontiguousarray(chip[..., ::-1]) for chip in chips]
    size = 1 if network.input_shape[0] == 1 else len(bgr)
    return np.concatenate([network.get_feat(bgr[i : i + size]) for i in range(0, len(bgr), size)])


def _load_arcface(path: str) -> Any:
    from insightface import model_zoo

    file = expanded(path)
    if not file.is_file():
        raise InputError("recognizer insightface", path, "no such file", f"Give the path of an ONNX file; {RESTORED}")
    try:
        network = model_zoo.get_model(str(file))
    except Exception as error:  # insightface lets the errors of onnx, onnxruntime and its own asserts through
        raise InputError(
            "recognizer insightface",
            path,
            f"not a readable ONNX network ({error!r})",
            f"Give the path of another; {RESTORED}",
        ) from error
    if getattr(network, "taskname", None) != "recognition" or network.input_size != (ARCFACE_SIZE, ARCFACE_SIZE):
        raise InputError("recognizer insightface", path, "not an ArcFace-style network with 112x112 input")
    return network
