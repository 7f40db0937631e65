"""Words in figures: prompts, names of people and settings are drawn as text, whatever they contain."""

import textwrap

from matplotlib import rc_context

LABEL_WIDTH = 60  # characters
# For every function that draws: nothing is a formula, not even between dollar signs. Letters that the font lacks are
# drawn as the sign of their script.
as_text = rc_context(
    {"text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans", "font.enable_last_resort": True}
)


def drawn_words(words: str, width: int, lines: int = 1) -> str:
    """Words for drawing: at most `lines` lines of `width` characters, with an ellipsis if the text is cut off.

    White space and undrawable characters, such as control characters, become single spaces.
    """
    seen = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    wrapped = textwrap.wrap(seen[: (width + 1) * (lines + 1)], width)
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [wrapped[lines - 1][: width - 1] + "\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(wrapped)


def as_label(words: str) -> str:
    """Words on one line, as of an axis."""
    return drawn_words(words, LABEL_WIDTH)
