"""Words in figures: prompts, names of people and settings are drawn as text, whatever they contain."""

from matplotlib import rc_context

from w2wpp.files.words import drawn_words

LABEL_WIDTH = 60  # characters
# For every function that draws: nothing is a formula, not even between dollar signs. Letters that the font lacks are
# drawn as the sign of their script.
as_text = rc_context(
    {"text.parse_math": False, "text.usetex": False, "font.family": "DejaVu Sans", "font.enable_last_resort": True}
)


def as_label(words: str) -> str:
    """Words on one line, as of an axis."""
    return drawn_words(words, LABEL_WIDTH)
