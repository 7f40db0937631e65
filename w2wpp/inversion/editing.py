"""Editing people: directions of attributes in a space, learned from labels of zoo people, and steps along them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.settings import Count, Positive, Rate, Section, Whole
from w2wpp.files.settings import Path as PathText
from w2wpp.files.storage import read_csv, read_pack, write_pack
from w2wpp.lora.adapters import Early
from w2wpp.spaces.base import WeightSpace

if TYPE_CHECKING:
    import pandas as pd

Held = Literal["all", "none"] | Sequence[str]
"""Labels that an edit leaves as they are: all others, none, or those named."""
MOST_VALUES = 32  # of a label in words; a column with more is a name or a note
TIMESTEPS = 1000  # of the noise schedules of Stable Diffusion and of the base model here
LEAST_LEFT = 1e-3  # of a direction's variance, or the labels that are held say it all


class EditParams(Section):
    """Edits of people along directions of attributes."""

    labels: PathText | None = None
    """CSV of zoo people's labels: a column `person`, and one of numbers or words for each label; null: those that come
    with the zoo."""
    ridge: Positive = 0.03
    """Ridge penalty per labelled LoRA, in units of the latents' variance."""
    disentangle: Literal["all", "none"] | list[str] = "all"
    """Labels whose own directions an edit does not move along: all others, none, or a list."""
    strengths: Annotated[list[Positive], Field(min_length=1)] = Field([2.0, 4.0, 7.0])
    """Lengths of the measured edits, in standard deviations of the zoo along the direction; rising."""
    flip_rate: Rate = 0.5
    """Share of pictures that show the target of an edit, at which spaces are compared."""
    people: Count = 16
    """Held-out people whose edits are measured, the first so many."""
    seeds: Count = 1
    """Pictures per edit."""
    below: Whole = 1000
    """Timestep below which the edited LoRA draws; above it, where a picture's layout is decided, the unedited one."""


def _left(readout: Tensor, others: Tensor, covariance: Tensor, ridge: float) -> Tensor:
    """What other read-outs [m, k] leave of one [k], with a ridge penalty in units of their mean variance."""
    if not len(others):
        return readout
    gram = others @ covariance @ others.T
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    # Labels may say the same, so that their Gram matrix has no inverse.
    inverse = torch.linalg.pinv(gram, hermitian=True, rtol=1e-6)
    return readout - others.T @ (inverse @ (others @ (covariance @ readout)))


@dataclass(frozen=True)
class Directions:
    """What labels look like in a space: one linear read-out of each label from whitened latents.

    Two columns of categories that come from one label, such as red and black hair, are of one group.

    Attributes:
        names: of the m labels.
        groups: of each, the label that it is a category of, or its own name.
        readouts: float32 [m, k]; label = readout . u + constant, where u are latents that the space's prior whitens.
        covariance: float32 [k, k] of the zoo people's u.
    """

    names: tuple[str, ...]
    groups: tuple[str, ...]
    readouts: Tensor
    covariance: Tensor

    def step(self, name: str, hold: Held = "all") -> Tensor:
        """One standard deviation of the zoo along an attribute's direction, in whitened latents [k].

        The direction is the most plausible way (the shortest in Mahalanobis distance) to raise the label while the
        read-outs of the labels held stay. In white latents it is the read-out less its projection on theirs, which is
        how weights2weights disentangles (Dravid et al. 2024, arXiv 2406.09413, sec. 4.3). In a space of few dimensions
        all others may leave nothing to move along; "all" then holds them in part, by a ridge penalty.

        Args:
            name: of the label.
            hold: labels that stay; those of its own group cannot.

        Raises:
            ArgumentError: naming `attribute`: no such label; or `hold`: no such label, or those named leave nothing to
                move along.
        """
        row = self._row(name, "attribute")
        if isinstance(hold, str):
            held = list(range(len(self.names))) if hold == "all" else []
        else:
            held = [self._row(each, "hold") for each in hold]
        others = self.readouts[[each for each in held if self.groups[each] != self.groups[row]]].double()
        covariance, readout = self.covariance.double(), self.readouts[row].double()
        whole = readout @ covariance @ readout
        for ridge in (0.0, 1.0) if hold == "all" else (0.0,):
            left = _left(readout, others, covariance, ridge)
            moved = covariance @ left
            variance = left @ moved
            if variance >= LEAST_LEFT * whole:
                return (moved / variance.sqrt()).float()
        raise ArgumentError(None, "hold", f"the labels held say all that {name} does", "Hold fewer labels, or none")

    def change(self, changes: Mapping[str, float], hold: Held = "all") -> Tensor:
        """The sum [k] of steps along several directions, such as {"glasses": 2.0, "age": -1.0}; errors as of `step`."""
        steps = [float(strength) * self.step(name, hold) for name, strength in changes.items()]
        return torch.stack([torch.zeros(len(self.covariance)), *steps]).sum(0)

    def similarity(self, hold: Held = "all") -> float:
        """Mean |cosine| over pairs of directions of different labels, as weights2weights reports it; 0 of one label.

        It is taken where the zoo is white, so that a cosine is the correlation of zoo people's places along the two.
        """
        steps = torch.stack([self.step(name, hold) for name in self.names]).double()
        cosines = steps @ torch.linalg.pinv(self.covariance.double(), hermitian=True) @ steps.T
        pairs = [
            cosines[i, j].abs().item() for i in range(len(steps)) for j in range(i) if self.groups[i] != self.groups[j]
        ]
        return sum(pairs) / len(pairs) if pairs else 0.0

    def save(self, path: Path) -> None:
        """Write to one safetensors file."""
        write_pack(
            path,
            {"readouts": self.readouts, "covariance": self.covariance},
            {"names": list(self.names), "groups": list(self.groups)},
        )

    @classmethod
    def load(cls, path: Path) -> Directions:
        """Read what `save` wrote.

        Raises:
            InputError: the file is missing or corrupt, or holds no directions.
        """
        tensors, meta = read_pack(path, ("readouts", "covariance"))
        return cls(tuple(meta["names"]), tuple(meta["groups"]), tensors["readouts"], tensors["covariance"])

    def _row(self, name: str, key: str) -> int:
        if name not in self.names:
            raise ArgumentError(None, key, f"no label {name!r}", f"Labels: {', '.join(self.names) or 'none'}")
        return self.names.index(name)


def fit_directions(space: WeightSpace, blocks: Iterable[Tensor], labels: pd.DataFrame, ridge: float) -> Directions:
    """Ridge regression of every label on the whitened latents of the LoRAs that have it.

    Args:
        space: whose latents they are.
        blocks: weight vectors float32 [*, d] of the zoo, n together.
        labels: n rows, in the order of the vectors, as `label_columns` gives them.
        ridge: penalty per labelled LoRA.
    """
    # Of the extra `pipeline`; directions that are there do without.
    from sklearn.linear_model import Ridge

    with torch.no_grad():
        u = torch.cat([space.prior.whiten(space.encode(block)) for block in blocks]).double()
    readouts = []
    for name in labels:
        values = labels[name].to_numpy(float)
        known = values == values
        y = (values[known] - values[known].mean()) / values[known].std()
        regression = Ridge(ridge * known.sum()).fit(u.numpy()[known], y)
        readouts.append(torch.from_numpy(regression.coef_))
    empty = torch.zeros(0, u.shape[1])
    return Directions(
        tuple(labels),
        tuple(labels.attrs["groups"][name] for name in labels),
        torch.stack(readouts).float() if readouts else empty,
        torch.cov(u.T).reshape(u.shape[1], -1).float(),
    )


def label_columns(table: pd.DataFrame, people: Sequence[str], where: str) -> pd.DataFrame:
    """Labels of people as numbers, NaN where one is not known; `attrs["groups"]` has the group of each column.

    A label in words becomes a column of 0 and 1 for each of its values, such as hair_red. Labels that are one value for
    everybody are left out.

    Args:
        table: a row per person with a column `person`, and one for each label: numbers, or words; empty: not known.
        people: of whom labels are wanted, in this order; those who are not in the table have none.
        where: the table's file, for messages.

    Raises:
        InputError: naming the column: none is called person, a person has two rows, or a label has more than
            `MOST_VALUES` values in words; or nobody is in the table.
    """
    import pandas as pd  # of the extra `pipeline`, as tables are

    remedy = "Give a CSV with the column person, and a column of numbers or words for each label"
    if "person" not in table:
        raise InputError(where, "person", "column missing", remedy)
    names = table["person"].astype(str)
    if names.duplicated().any():
        raise InputError(where, "person", f"{names[names.duplicated()].iloc[0]!r} has two rows", "Keep one of them")
    if not names.isin(set(people)).any():
        raise InputError(where, "person", "nobody of the zoo is in the table", "Name people as data/weights/people.csv")
    rows = table.drop(columns="person").set_index(names).reindex(list(people))
    columns, groups = {}, {}
    for label in rows:
        values = rows[label].replace("", None)
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.notna().equals(values.notna()):
            columns[label], groups[label] = numbers.astype(float), label
            continue
        if values.nunique() > MOST_VALUES:
            raise InputError(where, str(label), f"{values.nunique()} different words, which are no label", remedy)
        for value in sorted(values.dropna().astype(str).unique()):
            shown = (values.astype(str) == value).astype(float).where(values.notna())
            columns[f"{label}_{value}"], groups[f"{label}_{value}"] = shown, label
    told = pd.DataFrame({name: column for name, column in columns.items() if column.nunique() > 1}, rows.index)
    told.attrs["groups"] = {name: str(groups[name]) for name in told}
    return told


def read_labels(path: str | Path, people: Sequence[str]) -> pd.DataFrame:
    """`label_columns` of a CSV file; errors as of that, and of `read_csv`."""
    return label_columns(read_csv(Path(path), ["person"]), people, str(path))


@torch.no_grad()
def edit(space: WeightSpace, weights: Tensor, change: Tensor) -> Tensor:
    """Weight vectors [n, d], moved by changes of their whitened latents [n, k] or [k].

    What a LoRA has outside the space stays: the vector moves by the difference of the decoded points.
    """
    z = space.encode(weights)
    return weights + space.decode(space.prior.unwhiten(space.prior.whiten(z) + change)) - space.decode(z)


def unedited_early(weights: Tensor, params: EditParams) -> Early | None:
    """The unedited LoRAs [n, d] where they draw the noisy timesteps, from `params.below` on; None if none is so noisy.

    An edit of the less noisy timesteps alone changes details (weights2weights: 400 to 700), one of all timesteps the
    whole picture (700 to 1000).
    """
    return Early(weights, params.below) if params.below < TIMESTEPS else None
