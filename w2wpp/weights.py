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
        people: one row per vector: person, split (zoo, validation, test), role (zoo, true, one-photo), ...
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
