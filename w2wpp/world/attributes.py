"""What a group of people looks like: the share of pictures on which the probe reads each attribute."""

from torch import Tensor

from w2wpp.world.factors import FACTORS
from w2wpp.world.probes import Probe

# Values that count as having an attribute, by factor. What nearly everybody has, or nobody, would say little.
ATTRIBUTES: dict[str, tuple[str, tuple[str, ...]]] = {
    "glasses": ("glasses", ("thin", "thick")),
    "beard": ("beard", ("full",)),
    "long_hair": ("style", ("long",)),
    **{f"{color}_hair": ("hair", (color,)) for color in ("black", "brown", "blond", "red", "grey", "white")},
    "young": ("age", ("young",)),
    "old": ("age", ("old",)),
    "woman": ("sex", ("woman",)),
}


def attribute_shares(probe: Probe, pictures: Tensor) -> dict[str, float]:
    """The share of uint8 pictures [n, h, w, 3] that show, to the probe, each of `ATTRIBUTES`."""
    read = probe.read_all(pictures)
    shares = {}
    for name, (factor, values) in ATTRIBUTES.items():
        numbers = read[factor].new_tensor([FACTORS[factor].choices.index(value) for value in values])
        shares[name] = read[factor][:, None].eq(numbers).any(1).double().mean().item()
    return shares
