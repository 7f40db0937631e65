"""The weight vectors of all people, as the flatten stage leaves them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from w2wpp.errors import InputError
from w2wpp.layout import WeightLayout
from w2wpp.storage import read_csv, read_pack


@dataclass(frozen=True)
class Weights:
    """Weight vectors [n, d] in the dtype they were collected in, with who they are.

    Attributes:
        vectors: [n, d].
        mean, std: float32 [d], over the zoo people alone.
        layout: the order of the d numbers.
        people: one row per vector: person, split (zoo, validation, test), role (zoo, zoo-again, true,
            one-photo), ...
    """

    vectors: torch.Tensor
    mean: torch.Tensor
    std: torch.Tensor
    layout: WeightLayout
    people: pd.DataFrame

    def of(self, role: str, split: str | None = None) -> torch.Tensor:
        """float32 vectors [m, d] of one role, and of one split if given, in manifest order."""
        return self.vectors[np.flatnonzero(self._rows(role, split))].float()

    def names(self, role: str, split: str | None = None) -> list[str]:
        """The people whose vectors `of` gives."""
        return self.people["person"][self._rows(role, split)].tolist()

    def _rows(self, role: str, split: str | None):
        chosen = self.people["role"] == role
        return (chosen if split is None else chosen & (self.people["split"] == split)).to_numpy()


def read_weights(folder: str | Path) -> Weights:
    """Read data/weights.

    Raises:
        InputError: a file is missing or malformed, or they do not belong together.
    """
    folder = Path(folder)
    people = read_csv(folder / "people.csv", ["person", "split", "role"])
    tensors, meta = read_pack(folder / "weights.safetensors")
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(folder / "weights.safetensors"))
    vectors = tensors.get("weights")
    if vectors is None or vectors.shape != (len(people), layout.dimension):
        shape = None if vectors is None else list(vectors.shape)
        raise InputError(str(folder / "weights.safetensors"), "weights",
                         f"shape {shape}, expected [{len(people)}, {layout.dimension}]", "Run `dvc repro -f flatten`")
    return Weights(vectors, tensors["mean"], tensors["std"], layout, people)


def variance_shares(data: Weights) -> dict[str, float]:
    """How much of the zoo's z-scored variance is chance: from the people who have a second LoRA.

    Returns:
        "within" a person: half the mean squared difference between a person's two LoRAs, less the difference that all
        share; "between" people: the rest, both as shares of the variance of the first LoRAs; and "shift", the squared
        difference that all share, on the same scale. Empty if fewer than two people have two LoRAs.
    """
    rows = {role: {name: row for row, name in enumerate(data.names(role))} for role in ("zoo", "zoo-again")}
    both = [name for name in rows["zoo-again"] if name in rows["zoo"]]
    if len(both) < 2:
        return {}
    first, second = ((data.of(role)[[rows[role][name] for name in both]] - data.mean) / data.std for role in rows)
    total = first.var(0).sum()
    difference = second - first
    within = difference.var(0).sum() / 2 / total
    shift = difference.mean(0).square().sum() / total
    return {"within": within.item(), "between": 1 - within.item(), "shift": shift.item()}
