"""Random alterations of photos, which a restorer learns to undo: none of them is one of `w2wpp.faces.styles`.

Many different ones, several at a time, teach more than a few that are true to life (domain randomisation, Tobin et al.
2017, arXiv 1703.06907).
"""

from collections.abc import Callable

import cv2
import numpy as np
import torch
from torch import Tensor

Alteration = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Takes and gives a picture float32 [h, w, 3] in [0, 1]; sizes of strokes and blots are in shares of its side."""

PLAIN = 0.15  # share of photos that stay as they are
MOST = 3  # alterations of one photo


def altered(photo: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A photo uint8 [h, w, 3], most often altered in one to `MOST` ways, of the same size."""
    if rng.random() < PLAIN:
        return photo.copy()
    # Colours are lost last or not at all, as strokes and edges are made from them.
    picture = photo.astype(np.float32) / 255
    for number in np.sort(rng.choice(len(ALTERATIONS), rng.integers(1, MOST + 1), replace=False)):
        picture = np.clip(ALTERATIONS[number](picture, rng), 0, 1).astype(np.float32)
    return (picture * 255).round().astype(np.uint8)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture @ np.array([0.299, 0.587, 0.114], np.float32)


def _blurred(picture: np.ndarray, share: float) -> np.ndarray:
    return cv2.GaussianBlur(picture, (0, 0), max(share * picture.shape[0], 0.3))


def _on_paper(ink: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Ink [h, w] in [0, 1] of some dark colour, on paper of some light one; sometimes the other way round."""
    dark, light = rng.uniform(0, 0.35, 3), rng.uniform(0.65, 1, 3)
    if rng.random() < 0.5:
        dark, light = dark[:1].repeat(3), light[:1].repeat(3)
    if rng.random() < 0.1:
        dark, light = light, dark
    ink = np.clip(ink, 0, 1)[..., None]
    return (ink * dark + (1 - ink) * light).astype(np.float32)


def blur(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Out of focus, or shaken."""
    if rng.random() < 0.7:
        return _blurred(picture, rng.uniform(0.005, 0.05))
    length = max(2, round(rng.uniform(0.03, 0.15) * picture.shape[0]))
    kernel = np.zeros((length, length), np.float32)
    end = tuple(int(each) for each in rng.integers(0, length, 2))
    cv2.line(kernel, end, (length - 1 - end[0], length - 1 - end[1]), 1.0)
    return cv2.filter2D(picture, -1, kernel / kernel.sum())


def smooth(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flat between edges: bilateral (Tomasi and Manduchi 1998) or median filter."""
    if rng.random() < 0.5:
        for _ in range(rng.integers(1, 4)):
            picture = cv2.bilateralFilter(picture, 0, rng.uniform(0.05, 0.3), rng.uniform(0.01, 0.05) * len(picture))
        return picture
    return cv2.medianBlur(picture, int(rng.choice([3, 5])))


def warped(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Lines a little beside where they should be, as a hand draws them."""
    h, w = picture.shape[:2]
    shift = _blurred(rng.standard_normal((h, w, 2)).astype(np.float32), rng.uniform(0.04, 0.1))
    shift *= rng.uniform(0.005, 0.02) * h / shift.std()
    y, x = np.mgrid[:h, :w].astype(np.float32)
    return cv2.remap(picture, x + shift[..., 0], y + shift[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def light(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Gamma, contrast and brightness, and a shade across the picture."""
    picture = np.clip(picture, 0, 1) ** np.exp(rng.normal(0, 0.5))
    picture = (picture - 0.5) * np.exp(rng.normal(0, 0.35)) + 0.5 + rng.normal(0, 0.1)
    if rng.random() < 0.3:
        y, x = np.mgrid[-1 : 1 : picture.shape[0] * 1j, -1 : 1 : picture.shape[1] * 1j]
        picture = picture + (rng.normal(0, 0.2) * x + rng.normal(0, 0.2) * y)[..., None]
    return picture


def colours(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Colours mixed, paler or stronger, or in one tint alone."""
    grey = _grey(picture)[..., None]
    if rng.random() < 0.35:
        return grey * np.where(rng.random() < 0.5, 1, rng.uniform(0.7, 1.1, 3))
    mix = np.eye(3) + rng.normal(0, 0.12, (3, 3))
    return grey + rng.uniform(0, 1.8) * (picture @ mix.astype(np.float32) - grey)


def covered(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Turned rectangles and ellipses lie over the picture, of one colour or of noise."""
    h, w = picture.shape[:2]
    for _ in range(rng.integers(1, 4)):
        mask = np.zeros((h, w), np.uint8)
        centre, size = rng.uniform(0, 1, 2) * (w, h), rng.uniform(0.1, 0.75, 2) * (w, h)
        box = (tuple(map(float, centre)), tuple(map(float, size)), float(rng.uniform(0, 180)))
        if rng.random() < 0.6:
            cv2.fillConvexPoly(mask, cv2.boxPoints(box).astype(np.int32), 1)
        else:
            cv2.ellipse(mask, box, 1, -1)
        colour = rng.uniform(0, 1) if rng.random() < 0.5 else rng.uniform(0, 1, 3)
        fill = colour + (rng.normal(0, 0.2, (h, w, 3)) if rng.random() < 0.25 else 0.0)
        picture = np.where(mask[..., None] == 1, fill, picture).astype(np.float32)
    return picture


def outlines(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Edges in ink: extended differences of Gaussians (Winnemoeller et al. 2012), or strength of the gradient."""
    grey = _blurred(_grey(picture), rng.uniform(0.003, 0.012))
    if rng.random() < 0.5:
        wide = rng.uniform(0.01, 0.04)
        edges = (_blurred(grey, wide) - grey) / (0.02 + 0.1 * rng.random())
    else:
        edges = np.hypot(cv2.Sobel(grey, -1, 1, 0), cv2.Sobel(grey, -1, 0, 1)) * rng.uniform(1, 6)
    edges = edges - rng.uniform(0, 0.3)
    if rng.random() < 0.3:
        edges = (edges > 0.3).astype(np.float32)
    inked = _on_paper(edges, rng)
    if rng.random() < 0.35:  # over the colours, as in a comic
        return picture * np.clip(1 - edges, 0, 1)[..., None]
    return inked


def hatched(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Tones as strokes or dots of ink."""
    h, w = picture.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    tone, ink = np.clip(_grey(picture) * rng.uniform(0.7, 1.6), 0, 1), np.zeros((h, w), np.float32)
    first, period = rng.uniform(0, np.pi), rng.uniform(0.025, 0.05) * h
    layers = int(rng.integers(1, 4))
    for layer in range(layers):
        angle = first + layer * np.pi / layers
        wave = 0.5 + 0.5 * np.cos(2 * np.pi / period * (np.cos(angle) * x + np.sin(angle) * y))
        ink = np.maximum(ink, 1 / (1 + np.exp(-8 * (wave - (layer + 1) / layers * tone - 0.1))))
    return _on_paper(ink, rng)


def thresholded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Black and white by what is darker than its surroundings, as a copier makes it."""
    grey = (np.clip(_grey(picture), 0, 1) * 255).astype(np.uint8)
    side = 2 * max(1, round(rng.uniform(0.04, 0.2) * len(picture))) + 1
    ink = cv2.adaptiveThreshold(
        grey, 1, cv2.ADAPTIVE_THRESH_GAUSSIAN_C, cv2.THRESH_BINARY_INV, side, rng.uniform(2, 12)
    )
    return _on_paper(_blurred(ink.astype(np.float32), rng.uniform(0.002, 0.015)), rng)


def faded(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Pale, as if seen through a veil of one colour."""
    share = rng.uniform(0.2, 0.8)
    return (1 - share) * picture + share * (rng.uniform(0, 1) if rng.random() < 0.5 else rng.uniform(0, 1, 3))


def noise(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Grains, fine or coarse, coloured or grey."""
    grain = rng.standard_normal((*picture.shape[:2], 3 if rng.random() < 0.5 else 1)).astype(np.float32)
    if rng.random() < 0.5:
        grain = _blurred(grain, rng.uniform(0.005, 0.02)).reshape(*picture.shape[:2], -1)
        grain /= grain.std()
    return picture + rng.uniform(0.02, 0.2) * grain


def compressed(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Saved as a JPEG of low quality."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(5, 40))]
    _, content = cv2.imencode(".jpg", (np.clip(picture, 0, 1) * 255).round().astype(np.uint8), quality)
    return np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR), np.float32) / 255


ALTERATIONS: tuple[Alteration, ...] = (
    warped,
    smooth,
    light,
    outlines,
    hatched,
    thresholded,
    blur,
    colours,
    faded,
    covered,
    noise,
    compressed,
)
"""In the order in which they are applied."""


def altered_batch(photos: Tensor, generator: torch.Generator) -> Tensor:
    """Photos uint8 [b, h, w, 3], each `altered` by random numbers of its own."""
    seeds = torch.randint(2**31, (len(photos),), generator=generator).tolist()
    return torch.from_numpy(
        np.stack(
            [altered(photo.numpy(), np.random.default_rng(seed)) for photo, seed in zip(photos, seeds, strict=True)]
        )
    )
