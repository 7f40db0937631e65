"""Pictures of other kinds than photos, made from photos: drawing, painting, print, low resolution, a covered face.

All are deterministic. What a restorer learns from is altered in other ways (`w2wpp.faces.alterations`), so that these
stand for pictures that nobody expected.
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

SIDE = 256  # pixels that OpenCV's filters see at least, whose strokes are several pixels wide
LEVELS = 4  # of ink, per colour
COARSE = 4  # pixels of a photo along the side of one of its low resolution
PAPER = 128  # grey of what covers a face


def drawing(photo: np.ndarray) -> np.ndarray:
    """The photo uint8 [h, w, 3] as a pencil drawing (Gastal and Oliveira 2011, domain transform), of the same size."""
    grey, _ = cv2.pencilSketch(photo[..., ::-1].copy(), sigma_s=60, sigma_r=0.07, shade_factor=0.02)
    return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB)


def painting(photo: np.ndarray) -> np.ndarray:
    """The photo uint8 [h, w, 3] as a painting with outlines (Gastal and Oliveira 2011), of the same size."""
    return cv2.stylization(photo[..., ::-1].copy(), sigma_s=60, sigma_r=0.45)[..., ::-1]


def printed(photo: np.ndarray) -> np.ndarray:
    """The photo uint8 [h, w, 3] printed in `LEVELS` levels of each colour, of the same size."""
    levels = np.round(photo.astype(np.float32) * ((LEVELS - 1) / 255))
    return (levels * (255 / (LEVELS - 1))).round().astype(np.uint8)


def low_resolution(photo: np.ndarray) -> np.ndarray:
    """The photo uint8 [h, w, 3] as if taken with a `COARSE`-th of its pixels along each side, of the same size."""
    h, w = photo.shape[:2]
    small = cv2.resize(photo, (max(1, w // COARSE), max(1, h // COARSE)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (w, h), interpolation=cv2.INTER_CUBIC)


def half_covered(photo: np.ndarray) -> np.ndarray:
    """The photo uint8 [h, w, 3] with its lower half covered in grey, as by a scarf, of the same size."""
    covered = photo.copy()
    covered[photo.shape[0] // 2 :] = PAPER
    return covered


def _enlarged(style: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A style that sees small photos enlarged to `SIDE` pixels, and gives them back in their own size."""

    def styled(photo: np.ndarray) -> np.ndarray:
        h, w = photo.shape[:2]
        if min(h, w) >= SIDE:
            return style(photo)
        scale = SIDE / min(h, w)
        large = cv2.resize(photo, (round(w * scale), round(h * scale)), interpolation=cv2.INTER_CUBIC)
        return cv2.resize(style(large), (w, h), interpolation=cv2.INTER_AREA)

    return styled


STYLES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "drawing": _enlarged(drawing),
    "painting": _enlarged(painting),
    "print": _enlarged(printed),
    "low_resolution": low_resolution,
    "half_covered": half_covered,
}
"""What a photo uint8 [h, w, 3] is made into, by name."""


def styled(photos: Tensor, style: str) -> Tensor:
    """Photos uint8 [..., h, w, 3] in one of the `STYLES`, of the same shape."""
    flat = photos.reshape(-1, *photos.shape[-3:]).numpy()
    return torch.from_numpy(np.stack([STYLES[style](photo) for photo in flat])).reshape(photos.shape)
