"""Small pictures within the page, as JPEG; equal pictures give equal bytes."""

from base64 import b64encode
from io import BytesIO

import numpy as np
from PIL import Image

_QUALITY = 80


def tiles(pictures: np.ndarray, side: int, across: int) -> str:
    """Pictures side by side in rows, the last filled up with white, as a data URI.

    Args:
        pictures: uint8 [n, h, w, 3], n at least 1.
        side: pixels of a tile each way.
        across: tiles in a row.
    """
    down = -(-len(pictures) // across)
    sheet = Image.new("RGB", (across * side, down * side), "white")
    for number, picture in enumerate(pictures):
        tile = Image.fromarray(picture)
        if tile.size != (side, side):
            tile = tile.resize((side, side), Image.Resampling.LANCZOS)
        sheet.paste(tile, (number % across * side, number // across * side))
    content = BytesIO()
    sheet.save(content, "JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + b64encode(content.getvalue()).decode()
