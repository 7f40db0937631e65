"""The draw that assigns people to zoo, validation and test."""

import hashlib
from collections.abc import Iterable


def drawn_order(names: Iterable[str], seed: int, salt: str) -> list[str]:
    """Names of people in the order of a hash of seed, salt and name; a split takes the first of them.

    A split therefore does not depend on the order of files or rows, and hardly on who else is there.

    Args:
        names: each once.
        salt: distinguishes draws with one seed; other salts give other orders.
    """
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}{salt}{name}".encode()).digest(), name))
