"""All spaces of the pipeline, in the order in which tables and figures show them, and spaces read from files.

A further space is one module beside this one, with a `SpaceMethod`, and its name in `METHODS` (docs: "Add a space").
"""

from pathlib import Path

from w2wpp.spaces import linear, pca, vae
from w2wpp.spaces.base import SpaceMethod, WeightSpace, read_space


def _by_name(*methods: SpaceMethod) -> dict[str, SpaceMethod]:
    return {method.name: method for method in methods}


METHODS = _by_name(pca.METHOD, linear.METHOD, vae.METHOD)
BASELINE = pca.METHOD.name
KINDS: dict[str, type[WeightSpace]] = {kind.kind: kind for method in METHODS.values() for kind in method.kinds}


def load_space(path: str | Path) -> WeightSpace:
    """Read a space of any kind, frozen and in evaluation mode; errors as of `read_space`."""
    return read_space(path, KINDS)
