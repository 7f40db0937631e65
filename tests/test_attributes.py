"""Shares of attributes are those of the factors that the probe reads."""

import torch

from w2wpp.world.attributes import ATTRIBUTES, attribute_shares
from w2wpp.world.factors import FACTORS
from w2wpp.world.probes import Probe


def test_shares_count_pictures_by_what_the_probe_reads():
    torch.manual_seed(0)
    probe = Probe()
    probe(torch.zeros(1, 3, 32, 32))
    pictures = torch.randint(256, (40, 32, 32, 3), dtype=torch.uint8)
    shares = attribute_shares(probe.eval(), pictures)
    assert shares.keys() == ATTRIBUTES.keys()
    for name, (factor, values) in ATTRIBUTES.items():
        shown = [FACTORS[factor].choices[number] in values for number in probe.read(pictures, factor).tolist()]
        assert shares[name] == sum(shown) / 40
    hair = sum(share for name, share in shares.items() if ATTRIBUTES[name][0] == "hair")
    assert 0 <= hair <= 1 and any(0 < share < 1 for share in shares.values())
