"""The draw by which people become zoo, validation and test people."""

import hashlib
from collections.abc import Iterable


def drawn_order(names: Iterable[str], seed: int, salt: str) -> list[str]:
    """Names of people in the order of a hash of seed, salt and name, of which a split takes the first so many.

    So a split depends on no order of files or rows, and hardly on who else is there.

    Args:
        names: each once.
        salt: tells draws of one seed apart; other salts give other orders.
    """
    return sorted(names, key=lambda name: (hashlib.sha256(f"{seed}{salt}{name}".encode()).digest(), name))
