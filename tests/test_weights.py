"""Weight vectors of roles, and their variance within and between people."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from w2wpp.lora.shards import write_shards
from w2wpp.lora.statistics import standardise
from w2wpp.lora.weights import Weights, variance_shares


@pytest.fixture
def zoo(toy_layout, normal, tmp_path):
    """zoo(chance, again): 400 people, `again` of them with a second LoRA; `chance` is the within-person share of
    variance.
    """

    def make(chance: float, again: int) -> Weights:
        people, count = normal(400, toy_layout.dimension), 400
        first = (1 - chance) ** 0.5 * people + chance**0.5 * torch.randn(people.shape)
        second = ((1 - chance) ** 0.5 * people + chance**0.5 * torch.randn(people.shape))[:again] + 0.5
        names = [f"zoo-{i}" for i in range(count)]
        table = pd.DataFrame(
            {"person": names + names[:again], "role": ["zoo"] * count + ["zoo-again"] * again, "split": "zoo"}
        )
        mean, std = standardise(first)
        shards = {
            (role, "zoo"): write_shards(tmp_path / f"{role}-{chance}-{again}", [vectors], toy_layout, 64)
            for role, vectors in (("zoo", first), ("zoo-again", second))
            if len(vectors)
        }
        return Weights(shards, mean, std, toy_layout, table)

    torch.manual_seed(0)
    return make


@pytest.mark.parametrize("chance", [0.2, 0.7])
def test_variance_shares_tell_chance_from_people(zoo, chance):
    shares = variance_shares(zoo(chance, 200))
    assert shares["within"] == pytest.approx(chance, abs=0.03)
    assert shares["within"] + shares["between"] == pytest.approx(1)
    assert shares["shift"] == pytest.approx(0.25, abs=0.05)


def test_variance_shares_leave_out_people_with_one_lora_refused(zoo, tmp_path, toy_layout):
    whole = zoo(0.2, 200)
    kept = [
        row
        for row, (person, role) in enumerate(zip(whole.people["person"], whole.people["role"], strict=True))
        if (person, role) not in {("zoo-3", "zoo"), ("zoo-5", "zoo-again")}
    ]
    people = whole.people.iloc[kept]
    shards = {
        (role, "zoo"): write_shards(tmp_path / f"fewer-{role}", [whole.of(role)[~lost]], toy_layout, 64)
        for role, lost in (("zoo", torch.arange(400) == 3), ("zoo-again", torch.arange(200) == 5))
    }
    fewer = replace(whole, shards=shards, people=people)
    assert variance_shares(fewer)["within"] == pytest.approx(variance_shares(whole)["within"], abs=0.01)


def test_pairs_are_of_the_same_people(zoo):
    whole = zoo(0.2, 50)
    shuffled = replace(whole, people=pd.concat([whole.people[:400].iloc[::-1], whole.people[400:]]))
    first, second = shuffled.pairs()
    assert torch.equal(first, whole.of("zoo")[350:].flip(0))  # of the row that each name has
    assert torch.equal(second, whole.of("zoo-again"))
    assert [len(vectors) for vectors in zoo(0.2, 0).pairs()] == [0, 0]


def test_variance_shares_need_second_loras(zoo):
    assert variance_shares(zoo(0.5, 0)) == variance_shares(zoo(0.5, 1)) == {}
