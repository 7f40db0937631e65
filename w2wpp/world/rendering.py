"""Draw the invented people of `people`: a camera and a ray caster over the heads of `heads`."""

from __future__ import annotations

import multiprocessing
import sys
from contextlib import nullcontext
from functools import cache

import numpy as np
import torch
import warp as wp
from tqdm import tqdm

from w2wpp.world.heads import Head, Mesh, unit
from w2wpp.world.people import Identity, Nuisance
from w2wpp.world.shading import Pixels, background

EYE_MOUTH_SHARE = 0.36
_DISTANCE = 1.2


# mypy rejects warp's array annotations, which are calls, and the union that `tid` returns.
@wp.kernel
def _cast(
    mesh: wp.uint64, origin: wp.vec3, right: wp.vec3, up: wp.vec3, ahead: wp.vec3, width: int, scale: float,
    light: wp.vec3, side: wp.vec3, above: wp.vec3,
    normals: wp.array(dtype=wp.vec3), corners: wp.array(dtype=int),  # type: ignore[valid-type]
    face: wp.array(dtype=int), bary: wp.array(dtype=wp.vec3),  # type: ignore[valid-type]
    depth: wp.array(dtype=float), lit: wp.array(dtype=float),  # type: ignore[valid-type]
):  # fmt: skip
    i = wp.tid()
    row = i // width  # type: ignore[operator]
    column = i - row * width  # type: ignore[operator]
    u = (float(column) + 0.5) / float(width) * 2.0 - 1.0
    v = 1.0 - (float(row) + 0.5) / float(width) * 2.0
    ray = wp.normalize(ahead + right * (u * scale) + up * (v * scale))
    hit = wp.mesh_query_ray(mesh, origin, ray, 3.0)
    face[i] = -1
    if hit.result:
        w = 1.0 - hit.u - hit.v
        normal = wp.normalize(
            normals[corners[hit.face * 3]] * hit.u
            + normals[corners[hit.face * 3 + 1]] * hit.v
            + normals[corners[hit.face * 3 + 2]] * w
        )
        if wp.dot(normal, ray) > 0.0:
            normal = -normal
        face[i] = hit.face
        bary[i] = wp.vec3(hit.u, hit.v, w)
        depth[i] = hit.t
        # A different point of the lamp for each of four neighbouring rays: averaged, they give a soft shadow.
        a = float(column % 2) - 0.5
        b = float(row % 2) - 0.5
        lamp = wp.normalize(light + side * (0.16 * a + 0.08 * b) + above * (0.16 * b - 0.08 * a))
        point = origin + ray * hit.t + normal * 0.0025
        shadow = wp.mesh_query_ray(mesh, point, lamp, 0.6)
        lit[i] = 1.0
        if shadow.result:
            lit[i] = 0.0


class Renderer:
    """Draws people; loading the parametric head takes seconds (minutes the very first time), a picture milliseconds."""

    def __init__(self) -> None:
        wp.config.quiet = True
        wp.init()
        self.head = Head()

    def render(self, identity: Identity, nuisance: Nuisance, size: int = 64, supersample: int = 2) -> np.ndarray:
        """Draw one photo.

        Args:
            size: pixels along one side, at least 8.
            supersample: rays along one side of a pixel, 1 to 8; 2 and more also soften shadows.

        Returns:
            uint8 `[size, size, 3]`, sRGB; the same arguments give the same bytes.

        Raises:
            ValueError: `size` or `supersample` is out of range.
        """
        if not 8 <= size <= 2048:
            raise ValueError(f"size must lie in [8, 2048], got {size}")
        if not 1 <= supersample <= 8:
            raise ValueError(f"supersample must lie in [1, 8], got {supersample}")
        eyes, mouth = self.head.anchors(identity)
        length = float(np.hypot(*(eyes - mouth)[1:]))
        center = (eyes + mouth) / 2 + np.array([0, 0.02, 0.26 * length])
        yaw, pitch = np.deg2rad([nuisance.yaw, nuisance.pitch])
        back = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
        right = unit(np.cross(-back, [0.0, 0.0, 1.0]))
        up = np.cross(right, -back)
        turn, rise = np.deg2rad([nuisance.light_azimuth, nuisance.light_elevation])
        light = np.sin(turn) * np.cos(rise) * right + np.sin(rise) * up + np.cos(turn) * np.cos(rise) * back
        origin = center + _DISTANCE * back
        view = {"origin": origin, "right": right, "up": up, "ahead": -back, "light": light,
                "scale": length / (EYE_MOUTH_SHARE * 2) / _DISTANCE, "width": size * supersample}  # fmt: skip
        image = self._draw(identity, nuisance, view)
        image = image.reshape(size, supersample, size, supersample, 3).mean((1, 3))
        return (np.clip(image, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)

    def _draw(self, who: Identity, photo: Nuisance, view: dict) -> np.ndarray:
        width, mesh = view["width"], self.head.pose(who, photo)
        face, bary, depth, lit = _trace(mesh, view)
        image = background(photo, width)
        seen = np.flatnonzero(face >= 0)
        across = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1) * view["scale"]
        ray = view["ahead"] + across[seen % width, None] * view["right"] - across[seen // width, None] * view["up"]
        ray = unit(ray).astype(np.float32)
        where = (view["origin"] + ray * depth[seen, None]).astype(np.float32)
        corners = mesh.faces[face[seen]]
        pixels = Pixels(self.head, who, photo, mesh, corners, bary[seen], ray, where, -view["ahead"])
        image[seen] = pixels.lighted(view["light"], view["up"], lit[seen])
        return image


def _trace(mesh: Mesh, view: dict) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Per pixel: the visible face (-1: none), the shares of its corners, its distance, whether the lamp reaches it."""
    width = view["width"]
    solid = wp.Mesh(points=wp.array(mesh.points, dtype=wp.vec3, device="cpu"),
                    indices=wp.array(mesh.faces.ravel(), dtype=int, device="cpu"))  # fmt: skip
    count = width * width
    face, depth = wp.empty(count, dtype=int, device="cpu"), wp.empty(count, dtype=float, device="cpu")
    bary, lit = wp.empty(count, dtype=wp.vec3, device="cpu"), wp.empty(count, dtype=float, device="cpu")
    side = unit(np.cross(view["light"], [0.0, 0.0, 1.0]))
    vectors = [wp.vec3(*(float(c) for c in view[k])) for k in ("origin", "right", "up", "ahead")]
    lamp = [wp.vec3(*(float(c) for c in v)) for v in (view["light"], side, np.cross(side, view["light"]))]
    wp.launch(_cast, dim=count, device="cpu", inputs=[
        solid.id, *vectors, width, float(view["scale"]), *lamp, wp.array(mesh.normals, dtype=wp.vec3, device="cpu"),
        solid.indices, face, bary, depth, lit,
    ])  # fmt: skip
    return face.numpy(), bary.numpy(), depth.numpy(), lit.numpy()


@cache
def _renderer() -> Renderer:
    return Renderer()


def _draw(task: tuple[Identity, list[Nuisance], int]) -> np.ndarray:
    identity, photos, size = task
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more threads would slow these small steps, and bytes must not depend on their number
    try:
        return np.stack([_renderer().render(identity, photo, size) for photo in photos])
    finally:
        torch.set_num_threads(threads)


def render_people(
    people: list[tuple[Identity, list[Nuisance]]], size: int = 64, workers: int = 1, progress: str | None = None
) -> np.ndarray:
    """Draw many people, the same number of photos of each.

    Args:
        people: a person and the circumstances of every photo.
        size: pixels along one side.
        workers: processes, 1 for none but this one; the bytes do not depend on it.
        progress: a label shows a progress bar on stderr, `None` shows nothing.

    Returns:
        uint8 `[people, photos, size, size, 3]`.

    Raises:
        ValueError: there is nobody to draw, the numbers of photos differ, or `size` or `workers` is out of range.
    """
    counts = {len(photos) for _, photos in people}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every person needs the same number of photos, at least one; got {sorted(counts)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    tasks = [(identity, photos, size) for identity, photos in people]
    out = np.empty((len(people), counts.pop(), size, size, 3), np.uint8)
    workers = min(workers, len(people))
    with multiprocessing.get_context("spawn").Pool(workers) if workers > 1 else nullcontext() as pool:
        done = pool.imap(_draw, tasks, chunksize=1) if pool else map(_draw, tasks)
        for index, pictures in enumerate(
            tqdm(done, total=len(tasks), desc=progress, unit="person", file=sys.stderr, disable=progress is None)
        ):
            out[index] = pictures
    return out
