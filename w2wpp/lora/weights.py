"""The weight vectors of all people, as the flatten stage writes them; they may exceed memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, read_pack
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import Shards, open_shards

if TYPE_CHECKING:
    import pandas as pd

REMEDY = "Run `dvc repro -f flatten`"
BLOCK_ROWS = 256


@dataclass(frozen=True)
class Weights:
    """Weight vectors in the dtype that they were collected in, and their people.

    Attributes:
        shards: the vectors of each (role, split); opened, not read.
        mean, std: float32 [d], over the zoo people alone.
        layout: the order of the d numbers.
        people: one row per vector, those of a role and split together and in the order of their shards: person, split
            (zoo, validation, test), role (zoo, zoo-again, true, one-photo), ...
    """

    shards: dict[tuple[str, str], Shards]
    mean: torch.Tensor
    std: torch.Tensor
    layout: WeightLayout
    people: pd.DataFrame

    @property
    def zoo(self) -> Shards:
        """The vectors that spaces are fitted to."""
        return self.shards["zoo", "zoo"]

    def of(self, role: str, split: str | None = None) -> torch.Tensor:
        """float32 vectors [m, d] of one role, and of one split if given, in the order of `people`, all in memory."""
        blocks = [
            block.float()
            for (each, its_split), shards in self.shards.items()
            if each == role and split in (None, its_split)
            for block in shards.blocks(BLOCK_ROWS)
        ]
        return torch.cat([torch.empty(0, self.layout.dimension), *blocks])

    def names(self, role: str, split: str | None = None) -> list[str]:
        """The people whose vectors `of` returns."""
        chosen = self.people["role"] == role
        return self.people["person"][chosen if split is None else chosen & (self.people["split"] == split)].tolist()

    def pairs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """First and second LoRA, float32 [m, d] each, of the m zoo people who have two."""
        row = {name: number for number, name in enumerate(self.names("zoo"))}
        second = {name: number for number, name in enumerate(self.names("zoo-again")) if name in row}
        return self.zoo.rows([row[name] for name in second]).float(), self.of("zoo-again")[list(second.values())]


def read_weights(folder: str | Path) -> Weights:
    """Read data/weights; only headers of the vectors are read.

    Raises:
        InputError: a file is missing or malformed, they do not belong together, or there are no zoo people.
    """
    folder = Path(folder)
    people = read_csv(folder / "people.csv", ["person", "split", "role"])
    statistics = folder / "statistics.safetensors"
    tensors, meta = read_pack(statistics)
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(statistics))
    for key in ("mean", "std"):
        if key not in tensors or tensors[key].shape != (layout.dimension,):
            raise InputError(str(statistics), key, f"not of shape [{layout.dimension}]", REMEDY)
    shards = {}
    for (role, split), rows in people.groupby(["role", "split"], sort=False):
        each = shards[role, split] = open_shards(folder / "vectors" / f"{role}-{split}")
        if each.layout != layout or len(each) != len(rows):
            raise InputError(
                str(folder / "people.csv"),
                "person",
                f"{len(rows)} {role} rows of {split}, and {len(each)} vectors of the same or another layout",
                REMEDY,
            )
    if ("zoo", "zoo") not in shards:
        raise InputError(str(folder / "people.csv"), "role", "no zoo people", REMEDY)
    return Weights(shards, tensors["mean"], tensors["std"], layout, people)


def variance_shares(data: Weights) -> dict[str, float]:
    """Shares of the zoo's z-scored variance within and between people, from the people who have a second LoRA.

    Returns:
        "within" a person: half the mean squared difference between a person's two LoRAs, less the shared difference.
        "between" people: the remainder. Both are shares of the variance of the first LoRAs. "shift": the squared
        difference that all people share, on the same scale. Empty if fewer than two people have two LoRAs.
    """
    first, second = ((vectors - data.mean) / data.std for vectors in data.pairs())
    if len(first) < 2:
        return {}
    total = first.var(0).sum()
    difference = second - first
    within = difference.var(0).sum() / 2 / total
    shift = difference.mean(0).square().sum() / total
    return {"within": within.item(), "between": 1 - within.item(), "shift": shift.item()}
