"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def markdown_table(titles: Sequence[str], rows: Iterable[Sequence[object]], texts: int = 1) -> list[str]:
    """The lines of a table.

    Args:
        titles: of the columns.
        rows: cells by column; numbers come formatted.
        texts: the first so many columns hold text; the others hold numbers, which stand at the right.
    """
    rules = "|---" * texts + "|---:" * (len(titles) - texts) + "|"
    return [f"| {' | '.join(titles)} |", rules, *(f"| {' | '.join(map(str, row))} |" for row in rows)]
