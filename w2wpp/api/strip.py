"""Pictures side by side under titles: the sheets that commands write."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from w2wpp.files.folders import expanded
from w2wpp.files.storage import write_atomically
from w2wpp.files.words import drawn_words

TILE = 160  # pixels of a picture on a sheet; larger ones keep theirs, up to LARGEST
LARGEST = 512
TITLE = 120  # characters
_GAP, _MARGIN, _HEAD, _FONT = 4, 20, 26, 14


def strip(columns: Sequence[tuple[str, Sequence[Image.Image]]]) -> Image.Image:
    """Pictures in one row, grouped under titles.

    Args:
        columns: title and square pictures, one at least, of each group; a title beyond `TITLE` is cut off.
    """
    font = ImageFont.load_default(size=_FONT)
    columns = [(drawn_words(title, TITLE), pictures) for title, pictures in columns]
    tile = min(LARGEST, max(TILE, *(picture.width for _, pictures in columns for picture in pictures)))
    widths = [max(len(pictures) * (tile + _GAP) - _GAP, round(font.getlength(title))) for title, pictures in columns]
    sheet = Image.new("RGB", (sum(widths) + _MARGIN * (len(columns) + 1), tile + _HEAD + 2 * _MARGIN), "white")
    pen, left = ImageDraw.Draw(sheet), _MARGIN
    for (title, pictures), width in zip(columns, widths, strict=True):
        pen.text((left, _MARGIN), title, "black", font)
        for place, picture in enumerate(pictures):
            resized = picture.resize((tile, tile), Image.Resampling.BICUBIC)
            sheet.paste(resized, (left + place * (tile + _GAP), _MARGIN + _HEAD))
        left += width + _MARGIN
    return sheet


def write_png(path: Path, picture: Image.Image) -> None:
    """Write a picture as PNG, whole or not at all."""
    write_atomically(expanded(path), lambda temporary: picture.save(temporary, "PNG"))
