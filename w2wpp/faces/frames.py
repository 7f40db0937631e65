"""Where faces lie on a photo: found by their five points, to align photos by and to mask what is no face.

A frame is a pair (a, b) of complex numbers: point z of the 112x112 ArcFace frame, in which the eyes of every face lie
on the same two pixels, is point a z + b of the picture.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from w2wpp.faces.recognizers import ARCFACE_LANDMARKS, FaceFinder, fit_similarity, load_pack
from w2wpp.files.errors import ArgumentError

Frame = tuple[complex, complex]
# Detectors see a picture this large at least, and no smaller share of it around it, or miss faces that fill it.
SIDE, BORDER = 256, 0.25
# The square of FFHQ (Karras et al. 2019, arXiv 1812.04948) in the ArcFace frame: 3.6 times the way from eyes to mouth,
# around a point a tenth of that way below the eyes.
SQUARE, CENTRE = 146.0, 56 + 55.7j
# From hairline to chin and from ear to ear.
OVAL, OVAL_CENTRE = (46.0, 58.0), 56 + 60j
SAMPLES = 8   # per latent pixel and axis


def load_face_finder(spec: str) -> Callable[[np.ndarray], list[Frame]]:
    """What finds the faces of a picture uint8 RGB [h, w, 3], largest first.

    Args:
        spec: `dlib`, or `insightface:<pack name>` for the detector of a pack, such as SCRFD of buffalo_l.

    Raises:
        InputError: any other spec, or its files are missing.
    """
    if spec == "dlib":
        points, known = partial(_dlib_points, FaceFinder()), ARCFACE_LANDMARKS @ (1, 1j)
    elif spec.startswith("insightface:") and not spec.endswith((":", ".onnx")):
        detector, _ = load_pack(spec.removeprefix("insightface:"))
        from insightface.utils.face_align import arcface_dst
        points, known = partial(_pack_points, detector), arcface_dst.astype(float) @ (1, 1j)
    else:
        raise ArgumentError(None, "faces", f"unknown face finder {spec!r}", "Use dlib or insightface:<pack name>")
    return partial(_find, points, known)


def _find(points: Callable[[np.ndarray], list[np.ndarray]], known: np.ndarray, image: np.ndarray) -> list[Frame]:
    border, scale = round(BORDER * min(image.shape[:2])), max(1.0, SIDE / min(image.shape[:2]))
    padded = np.pad(image, ((border, border), (border, border), (0, 0)), mode="edge")
    size = tuple(round(length * scale) for length in padded.shape[1::-1])
    found = points(np.asarray(Image.fromarray(padded).resize(size, Image.Resampling.BICUBIC)))
    fits = (fit_similarity(known, each / scale - border * (1 + 1j)) for each in found)
    return [(complex(a), complex(b)) for a, b in fits]


def _dlib_points(finder: FaceFinder, picture: np.ndarray) -> list[np.ndarray]:
    seen, faces = finder.largest_first(picture)
    # A second attempt sees the picture with a border around it, at the same scale.
    height, width = ((larger - given) / 2 for larger, given in zip(seen.shape[:2], picture.shape[:2], strict=True))
    return [np.array([complex(point.x, point.y) for point in face.parts()]) - complex(width, height) for face in faces]


def _pack_points(detector: object, picture: np.ndarray) -> list[np.ndarray]:
    boxes, points = detector.detect(np.ascontiguousarray(picture[..., ::-1]))
    if points is None:
        return []
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return [points[row].astype(float) @ (1, 1j) for row in np.argsort(-areas, kind="stable")]


def align(image: Image.Image, frame: Frame | None, size: int) -> np.ndarray:
    """A square cut of a photo, uint8 [size, size, 3]: upright around the face as in FFHQ, or its middle if faceless.

    What lies outside of the photo continues its edge.
    """
    if frame is None:
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    a, b = frame
    shrink = max(1.0, abs(a) * SQUARE / size)   # before turning, which would skip pixels of large photos
    if shrink > 1:
        width, height = (max(1, round(length / shrink)) for length in image.size)
        a, b = a * width / image.width, b * width / image.width
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    step = a * SQUARE / size
    origin = a * (CENTRE - SQUARE / 2 * (1 + 1j)) + b
    corners = [origin + step * size * corner for corner in (0, 1, 1j, 1 + 1j)]
    beyond = max(0.0, *(max(-corner.real, -corner.imag, corner.real - image.width, corner.imag - image.height)
                        for corner in corners))
    border = min(2 * size, int(np.ceil(beyond)))
    padded = Image.fromarray(np.pad(np.asarray(image), ((border, border), (border, border), (0, 0)), mode="edge"))
    origin += border * (1 + 1j)
    matrix = (step.real, -step.imag, origin.real, step.imag, step.real, origin.imag)
    return np.asarray(padded.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def face_masks(images: Tensor, find: Callable[[np.ndarray], list[Frame]], cells: int) -> Tensor:
    """How much of each latent pixel is the largest face, float32 [n, cells, cells] in [0, 1]; faceless, 1 all over.

    Args:
        images: uint8 [n, side, side, 3].
        find: see `load_face_finder`.
    """
    return torch.stack([_oval(frames[0], images.shape[2], cells) if frames else torch.ones(cells, cells)
                        for frames in (find(image.numpy()) for image in images)])


def _oval(frame: Frame, side: int, cells: int) -> Tensor:
    at = (np.arange(cells * SAMPLES) + 0.5) * side / (cells * SAMPLES)
    z = (at + 1j * at[:, None] - frame[1]) / frame[0] - OVAL_CENTRE
    inside = (z.real / OVAL[0]) ** 2 + (z.imag / OVAL[1]) ** 2 <= 1
    return torch.from_numpy(inside.reshape(cells, SAMPLES, cells, SAMPLES).mean((1, 3))).float()
