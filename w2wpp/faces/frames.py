"""Where faces lie on a photo: found by their five points, to align photos by and to mask what is no face.

A frame is a pair (a, b) of complex numbers: point z of the 112x112 ArcFace frame, in which the eyes of every face lie
on the same two pixels, is point a z + b of the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Frame = tuple[complex, complex]


@dataclass(frozen=True)
class Framing:
    """The square that photos are cut to, in the ArcFace frame.

    Attributes:
        square: the length of its side.
        centre: its centre.
        slack: of photos that are framed so, but not by a face finder, how far, in sides, a corner of the square that a
            finder would cut lies from theirs at most; 0 where a finder framed them all.
        by_dlib: for each of dlib's five landmarks its weights in centre and side of the square, which is cut upright
            along the side. None cuts the square where the similarity that fits the landmarks best has it.
    """

    square: float
    centre: complex
    slack: float = 0.0
    by_dlib: tuple[tuple[complex, complex], ...] | None = None

    def corners(self, frame: Frame) -> list[complex]:
        """Top left, top right, bottom left and bottom right of the square on a picture with a face there."""
        a, b = frame
        return [a * (self.centre + self.square * (corner - 0.5 - 0.5j)) + b for corner in (0, 1, 1j, 1 + 1j)]


# The square of FFHQ (Karras et al. 2019, arXiv 1812.04948) in the ArcFace frame: 3.6 times the way from eyes to mouth,
# around a point a tenth of that way below the eyes.
SQUARE, CENTRE = 146.0, 56 + 55.7j
FFHQ = Framing(SQUARE, CENTRE)
# Photos of the rendered world are framed by the heads themselves. How to tell their square from where dlib finds
# landmarks was measured on zoo people by benchmarks/rendered_framing.py: the nose tells who looks aside, and how far.
# Of photos of other people the farthest lay off by 0.12.
RENDERED = Framing(
    116.6,
    55.9 + 59.6j,
    slack=0.14,
    by_dlib=(
        (1.002 + 0.305j, 2.560 - 1.882j),
        (-0.426 - 0.124j, -1.683 + 2.484j),
        (1.040 - 0.229j, -2.095 - 1.983j),
        (-0.536 + 0.043j, 1.189 + 2.756j),
        (-0.080 + 0.005j, 0.029 - 1.375j),
    ),
)
# From hairline to chin and from ear to ear.
OVAL, OVAL_CENTRE = (46.0, 58.0), 56 + 60j
SAMPLES = 8  # per latent pixel and axis


def find_faces(photo: Image.Image, side: int, find: Callable[[np.ndarray], list[Frame]]) -> list[Frame]:
    """The faces of a photo, looked for where its shorter side has `side` pixels at most, as detectors are slow."""
    shrink = max(1.0, min(photo.size) / side)
    size = (max(1, round(photo.width / shrink)), max(1, round(photo.height / shrink)))
    small = photo.resize(size, Image.Resampling.LANCZOS)
    larger = photo.width / small.width
    return [(a * larger, b * larger) for a, b in find(np.asarray(small))]


def align(image: Image.Image, frame: Frame | None, size: int, framing: Framing = FFHQ) -> np.ndarray:
    """A square cut of a photo, uint8 [size, size, 3]: upright, the face framed, or its middle if faceless.

    What lies outside of the photo continues its edge.
    """
    if frame is None:
        return np.asarray(ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS))
    a, b = frame
    shrink = max(1.0, abs(a) * framing.square / size)  # before turning, which would skip pixels of large photos
    if shrink > 1:
        width, height = (max(1, round(length / shrink)) for length in image.size)
        a, b = a * width / image.width, b * width / image.width
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    step, corners = a * framing.square / size, framing.corners((a, b))
    origin = corners[0]
    beyond = max(
        0.0,
        *(max(-corner.real, -corner.imag, corner.real - image.width, corner.imag - image.height) for corner in corners),
    )
    border = min(2 * size, int(np.ceil(beyond)))
    padded = Image.fromarray(np.pad(np.asarray(image), ((border, border), (border, border), (0, 0)), mode="edge"))
    origin += border * (1 + 1j)
    matrix = (step.real, -step.imag, origin.real, step.imag, step.real, origin.imag)
    return np.asarray(padded.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC))


def is_framed(size: tuple[int, int], frame: Frame, framing: Framing) -> bool:
    """Whether a picture of this width and height, with a face there, is framed so as a whole, within the slack."""
    width, height = size
    whole = (0, width, 1j * height, width + 1j * height)
    apart = (abs(corner - each) for corner, each in zip(framing.corners(frame), whole, strict=True))
    return width == height and max(apart) < framing.slack * width


def face_masks(images: Tensor, find: Callable[[np.ndarray], list[Frame]], cells: int) -> Tensor:
    """How much of each latent pixel is the largest face, float32 [n, cells, cells] in [0, 1]; faceless, 1 all over.

    Args:
        images: uint8 [n, side, side, 3].
        find: see `load_face_finder`.
    """
    return torch.stack(
        [
            _oval(frames[0], images.shape[2], cells) if frames else torch.ones(cells, cells)
            for frames in (find(image.numpy()) for image in images)
        ]
    )


def _oval(frame: Frame, side: int, cells: int) -> Tensor:
    at = (np.arange(cells * SAMPLES) + 0.5) * side / (cells * SAMPLES)
    z = (at + 1j * at[:, None] - frame[1]) / frame[0] - OVAL_CENTRE
    inside = (z.real / OVAL[0]) ** 2 + (z.imag / OVAL[1]) ** 2 <= 1
    return torch.from_numpy(inside.reshape(cells, SAMPLES, cells, SAMPLES).mean((1, 3))).float()
