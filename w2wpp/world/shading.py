"""Colour and light of every pixel that shows a person.

Colour is computed per pixel in the coordinates of the template head. A hairline or a brow therefore has the same place
on every face, and stays sharp although the mesh is coarse.
"""

from __future__ import annotations

import numpy as np

from w2wpp.world.heads import (
    EYE,
    FRAME,
    LOOSE,
    SHELL,
    SKIN,
    TEETH,
    TONGUE,
    Head,
    Mesh,
    dot,
    hairline,
    step,
    under_collar,
    unit,
)
from w2wpp.world.people import Identity, Nuisance


def _mix(base: np.ndarray, color: np.ndarray | tuple[float, ...], amount: np.ndarray) -> np.ndarray:
    return base + (np.asarray(color, np.float32) - base) * amount.astype(np.float32)[:, None]


def _linear(rgb: tuple[float, ...] | np.ndarray) -> np.ndarray:
    return np.asarray(rgb, np.float32) ** 2.2


def background(photo: Nuisance, width: int) -> np.ndarray:
    """Linear colour [width * width, 3] of the pixels behind the person, row by row."""
    down = np.repeat((np.arange(width, dtype=np.float32) + 0.5) / width, width)
    top = np.tile(_linear(photo.background_top_rgb), (width * width, 1))
    return _mix(top, _linear(photo.background_bottom_rgb), down)


class Pixels:
    """The pixels that show the person.

    Args:
        corners: vertices [pixels, 3] of the face that each pixel shows; weight: their shares [pixels, 3].
        ray: unit directions [pixels, 3] from the camera; where: the points [pixels, 3] that they meet, metres.
        toward: unit direction [3] to the camera.
    """

    def __init__(
        self, head: Head, who: Identity, photo: Nuisance, mesh: Mesh, corners: np.ndarray, weight: np.ndarray,
        ray: np.ndarray, where: np.ndarray, toward: np.ndarray,
    ) -> None:  # fmt: skip
        self.who, self.photo, self.ray, self.where = who, photo, ray, where
        self.normal = unit(np.einsum("pck,pc->pk", mesh.normals[corners], weight))
        self.normal *= -np.sign(dot(self.normal, ray))[:, None]
        self.kind = mesh.kind[corners[:, 0]]
        # Clothes and accessories have no place on the template; any coordinates do.
        values = np.einsum("pck,pc->pk", head.columns[np.minimum(corners, len(head.columns) - 1)], weight)
        self.x, self.y, self.z, self.lips, self.ears, self.inside, self.rim = values.T
        self.balls = []
        for eye in (head.left, head.right):
            gaze = unit(np.array([0, -1.0, 0]) * 0.4 + toward * 0.6)
            self.balls.append((mesh.points[eye].mean(0), gaze.astype(np.float32)))

    def lighted(self, light: np.ndarray, up: np.ndarray, lit: np.ndarray) -> np.ndarray:
        """Linear colour [pixels, 3] under a lamp in the direction `light` [3], which reaches `lit` [pixels]."""
        color, gloss = self._color()
        light = light.astype(np.float32)
        facing = self.normal @ light
        shine = np.maximum(dot(self.normal, unit(light - self.ray)), 0)
        wrap = np.array([0.22, 0.13, 0.10], np.float32)  # light that travels under the skin reddens the edge of shade
        key = np.clip((facing[:, None] + wrap) / (1 + wrap), 0, 1) * (0.12 + 0.88 * lit)[:, None]
        sky = 0.62 + 0.38 * (self.normal @ up.astype(np.float32))
        fill = np.clip(-dot(self.normal, self.ray), 0, 1)
        dim = (0.45 * sky + 0.55 * fill) * self._hollow()
        ambient = self.photo.ambient
        shaded = color * (ambient * dim[:, None] + (1.28 - ambient) * key)
        sharp = np.where(self.kind == EYE, 140, 22)
        return shaded + (gloss * self.photo.specular * shine**sharp * (0.2 + 0.8 * lit))[:, None]

    def _hollow(self) -> np.ndarray:
        """Share of the ambient light that reaches a pixel: less inside the mouth, at the lids and below the chin."""
        dark = np.ones(len(self.x), np.float32)
        skin = self.kind == SKIN
        dark -= 0.35 * skin * step(-0.10, -0.125, self.z) * step(-0.03, 0.0, self.y)
        dark -= 0.25 * skin * step(1.35, 1.05, self.rim)
        dark[skin] *= 1 - 0.75 * step(0.3, 0.9, self.inside[skin])
        dark[(self.kind == TEETH) | (self.kind == TONGUE)] *= 0.62
        return dark

    def _color(self) -> tuple[np.ndarray, np.ndarray]:
        """Linear colour `[pixels, 3]` and strength of the highlight `[pixels]`."""
        who, x, y, z = self.who, self.x, self.y, self.z
        wide = np.abs(x)
        skin = _linear(who.skin_rgb)
        color = np.tile(skin, (len(x), 1))
        blush = skin * np.array([1.10, 0.80, 0.78], np.float32)
        cheeks = np.exp(-(((wide - 0.045) / 0.02) ** 2) - ((z + 0.042) / 0.018) ** 2)
        nose = np.exp(-((x / 0.015) ** 2) - ((z + 0.038) / 0.012) ** 2)
        front = step(0.04, 0.0, y)
        color = _mix(color, blush, (0.75 * cheeks + 0.6 * nose + 0.5 * self.ears * (1 - front)) * np.ones_like(x))
        patches = np.sin(95 * x + 1.3) * np.sin(88 * z) + 0.6 * np.sin(190 * z + 2) * np.sin(170 * x + 60 * y)
        color *= 1 + 0.025 * patches[:, None]
        color = self._eye_area(color, skin)
        color = _mix(color, _linear(who.lip_rgb), who.lip_strength * step(0.25, 0.75, self.lips))
        color = _mix(color, (0.16, 0.03, 0.03), step(0.35, 0.8, self.inside))
        gloss = np.full(len(x), 0.10, np.float32) + 0.06 * self.lips
        color = self._beard(color)
        color = self._brows(color)
        hairy = self._hairy()
        strands = self._strands()
        hair = _linear(who.hair_rgb) * strands[:, None]
        color += (hair - color) * hairy[:, None]
        gloss = gloss * (1 - hairy) + 0.08 * hairy * strands
        shirt = under_collar(np.stack([x, y, z], 1)) * (self.kind == SKIN)
        color = _mix(color, _linear(self.photo.shirt_rgb), shirt)
        gloss *= 1 - shirt
        color[self.kind == TEETH] = (0.66, 0.62, 0.55)
        color[self.kind == TONGUE] = (0.40, 0.12, 0.11)
        color[self.kind == FRAME] = _linear(who.glasses_rgb)
        gloss[self.kind == FRAME] = 0.25
        self._eyeballs(color, gloss)
        return color, gloss

    def _eye_area(self, color: np.ndarray, skin: np.ndarray) -> np.ndarray:
        upper = step(-0.004, 0.004, self.z)
        shadow = step(1.9, 1.15, self.rim) * (0.35 + 0.15 * self.who.age * (1 - upper))
        color = _mix(color, skin * np.array([0.72, 0.6, 0.6], np.float32), shadow)
        lash = step(1.16, 1.07, self.rim) * (0.35 + 0.55 * upper) * (0.65 + 0.35 * self.who.gender)
        return _mix(color, _linear(self.who.brow_rgb) * 0.35, lash)

    def _brows(self, color: np.ndarray) -> np.ndarray:
        who, wide = self.who, np.abs(self.x)
        along = np.clip((wide - 0.012) / 0.040, -0.5, 1.5)
        middle = 0.0185 + (0.004 + 0.005 * who.brow_arch) * np.sin(np.clip(along, 0, 1) * 2.5) - 0.004 * along
        thick = (0.0028 + 0.0022 * who.brow_strength) * (1 - 0.55 * np.clip(along, 0, 1))
        inside = step(-0.08, 0.08, along) * step(1.08, 0.85, along) * (self.y < 0.03) * (self.kind == SKIN)
        amount = inside * step(1.5, 0.6, np.abs(self.z - middle) / thick) * (0.55 + 0.43 * who.brow_strength)
        return _mix(color, _linear(who.brow_rgb), amount)

    def _beard(self, color: np.ndarray) -> np.ndarray:
        who, wide = self.who, np.abs(self.x)
        if who.beard == "none":
            return color
        upper = np.interp(self.y, [-0.02, 0.0, 0.03, 0.055, 0.075, 0.09], [-0.062, -0.058, -0.045, -0.01, 0.0, -0.2])
        upper = np.where((wide < 0.030) & (self.y < 0.0), -0.0495, upper)
        jaw = [-0.132, -0.132, -0.124, -0.105, -0.075, -0.04]
        lower = np.interp(self.y, [-0.01, 0.0, 0.02, 0.05, 0.07, 0.085], jaw)
        amount = step(0.0, -0.006, self.z - upper) * step(-0.010, 0.002, self.z - lower) * step(0.5, 0.1, self.lips)
        amount *= (self.kind == SKIN) * (self.inside < 0.3) * step(0.6, 0.1, self.ears)
        grain = 0.94 + 0.06 * np.sin(310 * self.x + 200 * self.y) * np.sin(150 * self.z)
        depth = 0.42 if who.beard == "stubble" else 0.93
        return _mix(color, _linear(who.hair_rgb) * 0.9, depth * amount * grain)

    def _hairy(self) -> np.ndarray:
        who = self.who
        above = self.z - hairline(self.y, np.abs(self.x), who.hairline, who.hair_style in LOOSE)
        ragged = 0.0012 * np.sin(230 * self.x + 1.0) + 0.001 * np.sin(610 * self.x + 350 * self.y)
        amount = step(-0.005, 0.009, above + ragged) * step(0.6, 0.2, self.ears) * (self.kind == SKIN)
        if who.hair_style == "bald":
            amount = amount * 0.10
        elif who.hair_style == "cropped":
            amount = amount * 0.9
        return np.where(self.kind == SHELL, 1.0, amount).astype(np.float32)

    def _strands(self) -> np.ndarray:
        """Brightness of single locks, about 1, along the direction of the hair."""
        px, py, pz = (self.where - self.balls[0][0]).T
        if self.who.hair_style == "curly":
            return 1 + 0.28 * np.sin(330 * px + 4 * np.sin(120 * pz)) * np.sin(300 * pz + 3 * np.sin(140 * py))
        turn = np.arctan2(px, py - 0.06)
        lean = 26 * turn + 60 * px * (pz > 0.07)
        return 1 + 0.13 * np.sin(lean + 14 * pz) + 0.09 * np.sin(2.7 * lean + 30 * pz)

    def _eyeballs(self, color: np.ndarray, gloss: np.ndarray) -> None:
        picked = np.flatnonzero(self.kind == EYE)
        if not len(picked):
            return
        spot = self.where[picked]
        nearest = np.argmin([np.linalg.norm(spot - center, axis=1) for center, _ in self.balls], axis=0)
        for index, (center, gaze) in enumerate(self.balls):
            mine = picked[nearest == index]
            out = unit(self.where[mine] - center)
            self.normal[mine] = out
            angle = np.arccos(np.clip(out @ gaze, -1, 1))
            lid = 1 - 0.5 * step(0.15, 0.45, out[:, 2])
            white = np.tile(_linear((0.86, 0.83, 0.81)), (len(mine), 1)) * lid[:, None]
            white = _mix(white, _linear((0.75, 0.5, 0.47)), 0.5 * step(0.5, 0.9, np.abs(out[:, 0] - gaze[0])))
            iris = _linear(self.who.eye_rgb)
            white = _mix(white, iris * 0.45, step(0.50, 0.44, angle))
            white = _mix(white, iris, step(0.43, 0.37, angle))
            white = _mix(white, (0.008, 0.008, 0.008), step(0.22, 0.18, angle))
            color[mine] = white
            gloss[mine] = 0.45
