"""LoRAs as weight vectors: checked one by one, flattened and standardised, with a quarantine list of refused ones."""

import shutil
from pathlib import Path

import numpy as np
import torch

from w2wpp.compute.runtime import progress
from w2wpp.files.errors import InputError
from w2wpp.files.quarantine import FILES, LORAS, check_share, read_quarantine, refusal, write_quarantine
from w2wpp.files.storage import read_csv, write_csv, write_pack
from w2wpp.lora.layout import WeightLayout, flatten
from w2wpp.lora.packs import read_loras
from w2wpp.lora.shards import open_shards, write_shard
from w2wpp.lora.statistics import standardise_shards


def flatten_zoo(
    zoo: Path,
    out: Path,
    people: int | None = None,
    max_quarantined: float = 0.01,
    setting: str = "max_quarantined",
) -> None:
    """Write the LoRAs of a zoo as weight vectors for `read_weights`. One pack of LoRAs is in memory at a time.

    Args:
        zoo: folder of packs with `manifest.csv`, as the `collect` stage leaves it.
        out: folder of the vectors, of `people.csv`, `statistics.safetensors` (written last) and `quarantine.csv`.
        people: number of zoo people who are kept, counted from the first; None for all.
        max_quarantined: share of LoRAs that may be refused.
        setting: the name of this share in the error.

    Raises:
        InputError: more LoRAs were refused, or a file contradicts the manifest.
    """
    manifest = read_csv(zoo / "manifest.csv", ["person", "split", "role", "file"])
    in_zoo = manifest["person"][manifest["split"] == "zoo"]
    left_out = set(in_zoo.index[~in_zoo.isin(in_zoo.unique()[:people])])
    refused = read_quarantine(zoo, LORAS)  # what a folder of LoRAs held besides
    layout: WeightLayout | None = None
    kept: list[int] = []
    total = len(manifest) + len(refused)
    shutil.rmtree(out / "vectors", ignore_errors=True)
    with progress(None, "LoRAs", total=len(manifest)) as bar:
        for pack_number, (name, rows) in enumerate(manifest.groupby("file", sort=False)):
            pack, vectors = zoo / "loras" / name, {}
            tensors, layout = read_loras(pack, len(rows), layout)
            for number, (row, person) in enumerate(rows["person"].items()):
                bar.update()
                if row in left_out:
                    continue
                where = f"{pack}[{number}]"
                try:
                    vectors[row] = flatten({key: part[number] for key, part in tensors.items()}, layout, where)
                except InputError as error:
                    refused.append(refusal(error, FILES, person=person, lora=where))
            kept += vectors
            for (role, split), some in rows.loc[list(vectors)].groupby(["role", "split"]):
                write_shard(
                    out / "vectors" / f"{role}-{split}",
                    pack_number,
                    torch.stack([vectors[row] for row in some.index]),
                    layout,
                )
    check_share(refused, total, max_quarantined, write_quarantine(out, refused, LORAS), setting)
    if layout is None:
        raise InputError(str(zoo / "manifest.csv"), None, "no LoRAs", "Run `dvc repro -f collect`")
    people_kept = manifest.loc[kept].drop(columns="file")
    groups = people_kept.groupby(["role", "split"], sort=False).ngroup()
    mean, std = standardise_shards(open_shards(out / "vectors" / "zoo-zoo"))
    write_csv(out / "people.csv", people_kept.iloc[np.argsort(groups.to_numpy(), kind="stable")])
    write_pack(out / "statistics.safetensors", {"mean": mean, "std": std}, {"layout": layout.to_meta()})
