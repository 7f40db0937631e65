"""Where faces are on a picture: the face finders, by their specs in params.yaml."""

from collections.abc import Callable
from functools import partial

import numpy as np

from w2wpp.faces.dlib import ARCFACE_LANDMARKS, FaceFinder, dlib_points, enlarge, fit_similarity
from w2wpp.faces.frames import FFHQ, Frame, Framing
from w2wpp.faces.insightface import load_pack, pack_points
from w2wpp.files.errors import ArgumentError

Landmarks = Callable[[np.ndarray], list[np.ndarray]]
# Detectors see a picture this large at least, and no smaller share of it around it, or miss faces that fill it.
SIDE, BORDER = 256, 0.25


def load_face_finder(spec: str, framing: Framing = FFHQ) -> Callable[[np.ndarray], list[Frame]]:
    """What finds the faces of a picture uint8 RGB [h, w, 3], largest first.

    Args:
        spec: `dlib`, or `insightface:<pack name>` for the detector of a pack, such as SCRFD of buffalo_l.
        framing: that photos are cut to by what is found.

    Raises:
        InputError: any other spec, or its files are missing.
    """
    landmarks, known = load_landmarks(spec)
    fit = partial(fit_similarity, known)
    if spec == "dlib" and framing.by_dlib:
        fit = partial(_fit_square, framing, np.array(framing.by_dlib).T)
    return lambda image: [fit(points) for points in landmarks(image)]


def load_landmarks(spec: str) -> tuple[Landmarks, np.ndarray]:
    """What finds five landmarks, complex [5], of each face on a picture uint8 RGB [h, w, 3], largest face first; and
    where these landmarks lie in the ArcFace frame. Arguments and errors as of `load_face_finder`.
    """
    if spec == "dlib":
        return partial(_landmarks, partial(dlib_points, FaceFinder())), ARCFACE_LANDMARKS @ (1, 1j)
    if spec.startswith("insightface:") and not spec.endswith((":", ".onnx")):
        detector, _ = load_pack(spec.removeprefix("insightface:"))
        from insightface.utils.face_align import arcface_dst

        return partial(_landmarks, partial(pack_points, detector)), arcface_dst.astype(float) @ (1, 1j)
    raise ArgumentError(None, "faces", f"unknown face finder {spec!r}", "Use dlib or insightface:<pack name>")


def _landmarks(points: Landmarks, image: np.ndarray) -> list[np.ndarray]:
    border, scale = round(BORDER * min(image.shape[:2])), max(1.0, SIDE / min(image.shape[:2]))
    return [each / scale - border * (1 + 1j) for each in points(enlarge(image, SIDE, BORDER))]


def _fit_square(framing: Framing, weights: np.ndarray, points: np.ndarray) -> Frame:
    centre, side = weights @ points
    return side / framing.square, centre - side / framing.square * framing.centre
