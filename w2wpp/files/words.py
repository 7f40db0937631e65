"""Users' words made fit for drawing."""

import textwrap


def drawn_words(words: str, width: int, lines: int = 1) -> str:
    """Words for drawing: at most `lines` lines of `width` characters, with an ellipsis if the text is cut off.

    White space and undrawable characters, such as control characters, become single spaces.
    """
    seen = " ".join("".join(letter if letter.isprintable() else " " for letter in words).split())
    wrapped = textwrap.wrap(seen[: (width + 1) * (lines + 1)], width)
    if len(wrapped) > lines:
        wrapped[lines - 1 :] = [wrapped[lines - 1][: width - 1] + "\N{HORIZONTAL ELLIPSIS}"]
    return "\n".join(wrapped)
