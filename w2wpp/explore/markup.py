"""Pictures as HTML: each within the page itself, so that no picture of a visitor becomes a file of the server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape

from PIL import Image

from w2wpp.explore.take_home import Download, png
from w2wpp.explore.visit import Face


def picture(image: Image.Image, alt: str) -> str:
    """A picture to the bit, as PNG."""
    return f'<img alt="{escape(alt)}" src="data:image/png;base64,{b64encode(png(image)).decode()}">'


def choices(faces: Sequence[Face], act: str, chosen: int | None = None) -> str:
    """Faces as buttons; a click is the event `take` with the number of the face.

    Args:
        act: what a click does, for screen readers: "take", "try".
        chosen: the face in hand.
    """
    buttons = [
        f'<button type="button" class="face" data-number="{number}" aria-pressed="{str(number == chosen).lower()}" '
        f'title="{escape(f"{act} {face.title}")}">{picture(face.pictures[0], face.title)}'
        f"<span>{escape(face.title)}</span></button>"
        for number, face in enumerate(faces)
    ]
    return f'<div class="grid" role="group">{"".join(buttons)}</div>'


def figures(faces: Sequence[Face], prompt: str = "") -> str:
    """Faces side by side, each with its title and note; a face without pictures shows its note in their place."""
    return f'<div class="row">{"".join(_figure(face, prompt) for face in faces)}</div>'


def rows(faces: Sequence[Face], prompt: str = "") -> str:
    """Faces one below the other, each with all its pictures in a row."""
    return f'<div class="rows">{"".join(_figure(face, prompt) for face in faces)}</div>'


def status(text: str = "", bad: bool = False) -> str:
    """One line that a screen reader reads when it changes."""
    kind = "alert" if bad else "status"
    return f'<p class="{kind}" role="{kind}">{escape(text)}</p>'


def handed(download: Download) -> dict[str, str]:
    """A file for the page's script, which saves it where the browser saves files."""
    return {"name": download.name, "media": download.media, "content": b64encode(download.content).decode()}


def _figure(face: Face, prompt: str) -> str:
    asked = f", {prompt}" if prompt else ""
    images = "".join(
        picture(image, f"{face.title}{asked}" + (f", picture {number}" if len(face.pictures) > 1 else ""))
        for number, image in enumerate(face.pictures, 1)
    )
    note = f"<small>{escape(face.note)}</small>" if face.note else ""
    return (
        f'<figure><div class="pictures n{len(face.pictures)}">{images}</div>'
        f"<figcaption>{escape(face.title)}{note}</figcaption></figure>"
    )
