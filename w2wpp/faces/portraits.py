"""Photos of people with a manifest: what inversion sees and what models are scored against."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
from pydantic import Field, model_validator

from w2wpp.files.errors import InputError
from w2wpp.files.settings import Path as PathText
from w2wpp.files.settings import Section
from w2wpp.files.storage import read_csv, read_pack, write_csv, write_pack

Split = Literal["validation", "test"]
"""Held-out people: settings are chosen with validation people, results are reported on test people."""


class PortraitsParams(Section):
    """Photos of the held-out people."""

    source: Literal["rendered", "folder"] = "rendered"
    """`rendered`: people of the embedded world; `folder`: your photos, a sub-folder for each person."""
    path: PathText | None = None
    """The folder of your photos."""
    photo_size: Annotated[int, Field(ge=32, le=1024, multiple_of=8)] = 512
    """Pixels of photos from a folder, as the base model draws them."""
    size: Annotated[int, Field(ge=32, le=512, multiple_of=8)] = 64
    """Pixels of rendered photos."""
    photos: Annotated[int, Field(ge=2)] = 12
    """Photos per person: inversion sees the first, the last `score_photos` score it."""
    score_photos: Annotated[int, Field(ge=2)] = 4
    """Photos per person that models are scored against."""
    validation: Annotated[int, Field(ge=2)] = 32
    """Validation people, whom settings are chosen with."""
    test: Annotated[int, Field(ge=2)] = 128
    """Test people, whom results are reported on."""

    @model_validator(mode="after")
    def _folder_is_named(self) -> "PortraitsParams":
        if self.source == "folder" and self.path is None:
            raise ValueError("portraits.source folder needs portraits.path, the folder of the photos")
        return self


@dataclass(frozen=True)
class Portraits:
    """Photos uint8 [people, photos, h, w, 3] with the names and splits of the people and their manifest."""

    images: torch.Tensor
    names: list[str]
    splits: list[str]
    manifest: pd.DataFrame

    def of_split(self, split: Split) -> "Portraits":
        """Those of the people who are of a split.

        Raises:
            InputError: nobody is.
        """
        rows = [number for number, each in enumerate(self.splits) if each == split]
        if not rows:
            raise InputError("data/portraits", "split", f"no {split} people", "Run `dvc repro -f portraits`")
        names = [self.names[row] for row in rows]
        manifest = self.manifest[self.manifest["split"] == split].reset_index(drop=True)
        return Portraits(self.images[rows], names, [split] * len(rows), manifest)


def write_portraits(folder: Path, images: torch.Tensor, rows: list[dict] | pd.DataFrame) -> None:
    """Write `photos.safetensors` and `manifest.csv` into `folder`."""
    write_csv(folder / "manifest.csv", rows)
    write_pack(folder / "photos.safetensors", {"photos": images}, {"layout": "people, photos, height, width, rgb"})


def read_portraits(folder: str | Path) -> Portraits:
    """Read what `write_portraits` wrote.

    Raises:
        InputError: a file is missing or malformed, or the manifest does not match the photos.
    """
    folder = Path(folder)
    manifest = read_csv(folder / "manifest.csv", ["person", "split", "photo"])
    tensors, _ = read_pack(folder / "photos.safetensors")
    images = tensors.get("photos")
    people = manifest.drop_duplicates("person")
    if images is None or images.ndim != 5 or images.dtype != torch.uint8:
        raise InputError(
            str(folder / "photos.safetensors"),
            "photos",
            "expected a uint8 tensor [people, photos, height, width, 3]",
            "Run `dvc repro -f portraits`",
        )
    if len(people) != images.shape[0] or len(manifest) != images.shape[0] * images.shape[1]:
        raise InputError(
            str(folder / "manifest.csv"),
            "person",
            f"{len(manifest)} rows of {len(people)} people for photos of shape {list(images.shape)}",
            "Run `dvc repro -f portraits`",
        )
    return Portraits(images, people["person"].tolist(), people["split"].tolist(), manifest)
