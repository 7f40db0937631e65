"""Dlib: faces found by its detector and five landmarks, and its ResNet that embeds them, from weights of a package.

King 2009, JMLR 10 (detector: HOG and SVM), Kazemi & Sullivan 2014 (landmarks); ResNet by King 2017.
"""

import math
import os
import re
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import dlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from w2wpp.faces.embeddings import ARCFACE_SIZE, ChipRecognizer, face_chips
from w2wpp.files.errors import InputError

LEAST_CERTAIN = 0.3
WEIGHTS_PACKAGE = "face_recognition_models"
# (shorter side in pixels, edge padding as a share of it): first fast, then for blurred or picture-filling faces.
ATTEMPTS = ((192, 0.0), (256, 0.25))
# Dlib's five landmarks in the 112x112 ArcFace frame (insightface's arcface_dst), averaged over faces of both kinds.
ARCFACE_LANDMARKS = np.array([[79.5, 51.8], [66.2, 51.8], [32.5, 51.8], [45.8, 51.8], [56.0, 79.5]])


class DlibRecognizer(ChipRecognizer):
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


class FaceFinder:
    """Finds faces of a picture and their five landmarks, with dlib."""

    def __init__(self) -> None:
        self._detector = dlib.get_frontal_face_detector()
        self._landmarks = dlib.shape_predictor(str(weights_file("shape_predictor_5_face_landmarks.dat")))

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
            picture = enlarge(image, side, padding)
            boxes, scores, _ = self._detector.run(picture, 0, 0.0)
            if len(boxes):
                break
        return picture, boxes, scores


def dlib_points(finder: FaceFinder, picture: np.ndarray) -> list[np.ndarray]:
    """The five landmarks, complex [5], of each face on a picture uint8 RGB [h, w, 3], largest first."""
    seen, faces = finder.largest_first(picture)
    # A second attempt sees the picture with a border around it, at the same scale.
    height, width = ((larger - given) / 2 for larger, given in zip(seen.shape[:2], picture.shape[:2], strict=True))
    return [np.array([complex(point.x, point.y) for point in face.parts()]) - complex(width, height) for face in faces]


class DlibResNet:
    """Dlib's face ResNet-29 in torch: equal to dlib's own to 1e-6, ten times faster, read from dlib's own file."""

    STAGES = ((3, False), (4, True), (3, True), (3, True), (1, True))  # (blocks, the first one halves the picture)

    def __init__(self) -> None:
        data = weights_file("dlib_face_recognition_resnet_model_v1.dat").read_bytes()
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


def aligned_faces(images: np.ndarray, progress: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """The faces on pictures as ArcFace networks want them, found and aligned as for ``insightface:<path.onnx>``.

    Args:
        images: uint8 RGB [n, h, w, 3].
        progress: label of a progress bar; None for no bar.

    Returns:
        uint8 [m, 112, 112, 3], and int64 [m]: which pictures they are on; those without a face are left out.
    """
    found = face_chips(partial(arcface_chip, FaceFinder()), images, os.cpu_count() or 1, progress)
    rows, faces = zip(*found, strict=True)
    return np.stack(faces), np.array(rows)


def _dlib_chip(finder: FaceFinder, image: np.ndarray) -> np.ndarray | None:
    face = finder(image)
    return None if face is None else dlib.get_face_chip(*face, size=150, padding=0.25)


def arcface_chip(finder: FaceFinder, image: np.ndarray) -> np.ndarray | None:
    """The most certain face as ArcFace networks want it, uint8 RGB [112, 112, 3]; None if faceless."""
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


def enlarge(image: np.ndarray, side: int, padding: float) -> np.ndarray:
    """A picture with a border of a share of its shorter side, enlarged so that this side has `side` pixels or more."""
    border = round(min(image.shape[:2]) * padding)
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    scale = max(1.0, side / min(image.shape[:2]))
    height, width = (round(length * scale) for length in padded.shape[:2])
    return np.asarray(Image.fromarray(padded).resize((width, height), Image.Resampling.BICUBIC))


def _tensors(data: bytes, layer: bytes) -> list[torch.Tensor]:
    found = []
    for match in re.finditer(layer + rb"(?=\x01\x02)", data, re.DOTALL):  # 01 02 is the tensor's version
        at, shape = match.end() + 2, []
        for _ in range(4):  # an integer is its number of bytes, then those bytes
            start, at = at + 1, at + 1 + data[at]
            shape.append(int.from_bytes(data[start:at], "little"))
        found.append(torch.from_numpy(np.frombuffer(data, "<f4", math.prod(shape), at).copy()))
    return found


def weights_file(name: str) -> Path:
    """A file of the package with dlib's weights.

    Raises:
        InputError: the package is not installed.
    """
    # Importing the package itself would need pkg_resources, which newer setuptools no longer has.
    spec = find_spec(WEIGHTS_PACKAGE)
    path = Path(spec.origin if spec and spec.origin else "").parent / "models" / name
    if not path.is_file():
        raise InputError("recognizer dlib", None, f"{name} not found", f"Run `pip install {WEIGHTS_PACKAGE}`")
    return path
