"""Prompts that contradict a photo, and whether pictures obey them as the probe sees it."""

from collections import Counter

import pandas as pd
import pytest
import torch

from w2wpp.diffusion.denoising import generate
from w2wpp.world.factors import FACTORS, PROMPTED_FACTORS
from w2wpp.world.obedience import PROMPTS, base_obedience, contradictions, obeyed
from w2wpp.world.people import BACKGROUNDS
from w2wpp.world.populations import manifest_rows, person_names, sample_people
from w2wpp.world.probes import Probe


@pytest.fixture
def probe() -> Probe:
    torch.manual_seed(0)
    probe = Probe()
    probe(torch.zeros(1, 3, 32, 32))
    return probe.eval()


@pytest.fixture(scope="module")
def photos() -> list[dict]:
    """Manifest rows of the input photos of 60 people."""
    people = sample_people(0, "validation", 60, 1)
    return pd.DataFrame(manifest_rows(person_names("validation", 60), ["validation"] * 60, people)).to_dict("records")


def test_contradictions_never_request_what_the_photo_shows(photos):
    for number, photo in enumerate(photos):
        requests = contradictions(photo, number)
        assert len(requests) == len({request.prompt for request in requests}) == PROMPTS == 8
        for request in requests:
            assert request.values.get("background") != photo["photo_background"]
            assert request.values.get("expression") != photo["photo_expression"]
            assert (request.values.get("expression"), photo["photo_expression"]) != ("smiling", "laughing")
            assert all(word in request.prompt for word in request.values.values())
    by_hand = contradictions({"photo_expression": "laughing", "photo_background": "blue"}, 1)
    assert [request.prompt.removeprefix("a photo of sks person, ") for request in by_hand] == [
        *(f"on a {value} background" for value in ("white", "grey", "dark", "green", "brown")),
        "surprised",
        "surprised, on a grey background",
        "surprised, on a dark background",
    ]


def test_contradictions_request_every_value(photos):
    requests = [request for number, photo in enumerate(photos) for request in contradictions(photo, number)]
    for name, values in (("background", set(BACKGROUNDS)), ("expression", {"smiling", "surprised"})):
        counts = Counter(request.values[name] for request in requests if name in request.values)
        assert set(counts) == values
        assert min(counts.values()) > 0.4 * max(counts.values())


def test_obeyed_is_what_the_probe_reads_of_each_picture(photos, probe):
    requests = [contradictions(photo, number) for number, photo in enumerate(photos[:3])]
    pictures = torch.randint(256, (3, 8, 2, 32, 32, 3), dtype=torch.uint8)
    shown = obeyed(probe, requests, pictures)
    assert shown.shape == (3, 8, 2) and shown.dtype == torch.bool
    for person, some in enumerate(requests):
        for place, request in enumerate(some):
            right = torch.ones(2, dtype=torch.bool)
            for name, value in request.values.items():
                read = [FACTORS[name].choices[each] for each in probe.read(pictures[person, place], name).tolist()]
                right &= torch.tensor([each == value for each in read])
            assert torch.equal(shown[person, place], right)


def test_a_factor_is_obeyed_by_the_share_of_pictures_that_show_it(pipe, layout, params, probe):
    drawing = params.generate.model_copy(update={"inference_steps": 1})
    weights = torch.zeros(1, layout.dimension)
    shares = base_obedience(probe, pipe, layout, weights, 3, drawing)
    assert shares.keys() == PROMPTED_FACTORS.keys()
    requests = [(name, value) for name, factor in PROMPTED_FACTORS.items() for value in factor.requests]
    prompts = [PROMPTED_FACTORS[name].prompt(value, "a") for name, value in requests]
    drawn = generate(pipe, layout, weights, prompts, 3, drawing, "test")[0]
    for name, factor in PROMPTED_FACTORS.items():
        shown = [
            (probe.read(drawn[number], name) == factor.choices.index(value)).double().mean()
            for number, (each, value) in enumerate(requests)
            if each == name
        ]
        assert shares[name] == pytest.approx(sum(shown).item() / len(shown))
