"""What all figures share: colours and names of the spaces, canvas and axes, and PNGs that are the same each time."""

import io
import warnings

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageColor

from w2wpp.report.words import as_text
from w2wpp.spaces.registry import METHODS

# Okabe and Ito's colours, told apart with every common colour blindness.
COLORS = {name: method.color for name, method in METHODS.items()}
GREY, INK = "#6f6f6f", "#222222"
LABELS = {name: method.label for name, method in METHODS.items()}
DPI = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this size in inches, whose axes make room for their labels."""
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained", facecolor="white")


def tidy(axes: Axes) -> None:
    """Axes with small labels, and no frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=8, colors=INK)


@as_text
def png_bytes(figure: Figure, palette: int | None = None) -> bytes:
    """The figure as PNG; equal figures give equal bytes.

    Args:
        figure: any matplotlib figure.
        palette: number of colours to reduce it to, which makes sheets of pictures three times smaller.
    """
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Letters that the font has not are drawn as the sign of their script.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        FigureCanvasAgg(figure).print_png(file, metadata={"Software": None})
    if palette is None:
        return file.getvalue()
    image = Image.open(file).convert("RGB")
    # A quarter of the pixels finds the colours in a quarter of the time. Those of words are kept apart, as few pixels
    # have them and averaging would give two spaces one colour.
    kept = [INK, *COLORS.values()]
    sample = image.resize((image.width // 2, image.height // 2), Image.Resampling.NEAREST)
    found = sample.quantize(palette - len(kept), kmeans=3)
    words = [channel for name in kept for channel in ImageColor.getrgb(name)]
    found.putpalette((found.getpalette() or [])[: 3 * (palette - len(kept))] + words)
    image = image.quantize(palette=found, dither=Image.Dither.NONE)
    colors, paper = image.getpalette() or [], int(np.asarray(image)[0, 0])
    colors[3 * paper : 3 * paper + 3] = [255, 255, 255]  # averaging may have left it a little grey
    image.putpalette(colors)
    small = io.BytesIO()
    image.save(small, "PNG", optimize=True)
    return small.getvalue()
