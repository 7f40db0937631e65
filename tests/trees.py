"""Helpers of several tests for nested settings and metrics."""


def leaves(tree: dict, prefix: str = "") -> dict:
    """The values of a nested dict by dotted key."""
    flat = {}
    for key, each in tree.items():
        flat |= leaves(each, f"{prefix}{key}.") if isinstance(each, dict) else {prefix + key: each}
    return flat
