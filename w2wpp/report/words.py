"""Words in figures: prompts, names of people and of settings are text, whatever is in them."""

import textwrap

from matplotlib import rc_context

LABEL_WIDTH = 60  # characters
# For every function that draws: nothing is a formula, also between dollar signs, and letters that the font has not are
# drawn as the sign of their script.
as_text = rc_context(
    {"text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans", "font.enable_last_resort": True}
)


def drawn_words(words: str, width: int, lines: int = 1) -> str:
    """Words as they are drawn: at most so many lines of so many characters, an ellipsis for what is cut off.

    White space and what no font can draw, such as control characters, become single spaces.
    """
    seen = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    wrapped = textwrap.wrap(seen[: (width + 1) * (lines + 1)], width)
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [wrapped[lines - 1][: width - 1] + "\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(wrapped)


def as_label(words: str) -> str:
    """Words on one line, as of an axis."""
    return drawn_words(words, LABEL_WIDTH)
