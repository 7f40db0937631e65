"""Validate the collected LoRAs and flatten them to weight vectors; refused ones go to a quarantine list.

One pack of LoRAs is in memory at a time, so that a zoo may be larger than memory.
"""

import shutil

import numpy as np
import pandas as pd
import torch

from w2wpp.compute.runtime import progress
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, write_csv, write_pack
from w2wpp.lora.layout import flatten
from w2wpp.lora.packs import read_loras
from w2wpp.lora.shards import open_shards, write_shard
from w2wpp.lora.statistics import standardise_shards
from w2wpp.run.stage import run_stage, stage_arguments


def main() -> None:
    args = stage_arguments(__doc__, zoo="data/zoo", out="data/weights")
    manifest = read_csv(args.zoo / "manifest.csv", ["person", "split", "role", "file"])
    zoo = manifest["person"][manifest["split"] == "zoo"]
    left_out = set(zoo.index[~zoo.isin(zoo.unique()[:args.params.flatten.people])])
    columns = ["person", "lora", "key", "reason"]
    rejected = args.zoo / "quarantine.csv"    # what a source from elsewhere held besides
    quarantine = read_csv(rejected, columns).to_dict("records") if rejected.exists() else []
    layout, kept, total = None, [], len(manifest) + len(quarantine)
    shutil.rmtree(args.out / "vectors", ignore_errors=True)
    with progress(None, "LoRAs", total=len(manifest)) as bar:
        for pack_number, (name, rows) in enumerate(manifest.groupby("file", sort=False)):
            pack, vectors = args.zoo / "loras" / name, {}
            tensors, layout = read_loras(pack, len(rows), layout)
            for number, (row, person) in enumerate(rows["person"].items()):
                bar.update()
                if row in left_out:
                    continue
                where = f"{pack}[{number}]"
                try:
                    vectors[row] = flatten({key: part[number] for key, part in tensors.items()}, layout, where)
                except InputError as error:
                    quarantine.append({"person": person, "lora": where, "key": error.key, "reason": error.reason})
            kept += vectors
            for (role, split), some in rows.loc[list(vectors)].groupby(["role", "split"]):
                write_shard(args.out / "vectors" / f"{role}-{split}", pack_number,
                            torch.stack([vectors[row] for row in some.index]), layout)
    allowed = args.params.flatten.max_quarantined
    refused = args.out / "quarantine.csv"
    write_csv(refused, pd.DataFrame(quarantine, columns=columns))
    if len(quarantine) > allowed * total:
        first = quarantine[0]
        raise InputError(first["lora"], first["key"] or None, f"{len(quarantine)} of {total} LoRAs are unusable, "
                         f"the first ({first['person']}): {first['reason']}",
                         f"{refused} lists them. Mend them or collect them again, or raise flatten.max_quarantined, "
                         f"which is {allowed}")

    people = manifest.loc[kept].drop(columns="file")
    groups = people.groupby(["role", "split"], sort=False).ngroup()
    mean, std = standardise_shards(open_shards(args.out / "vectors" / "zoo-zoo"))
    write_csv(args.out / "people.csv", people.iloc[np.argsort(groups.to_numpy(), kind="stable")])
    write_pack(args.out / "statistics.safetensors", {"mean": mean, "std": std}, {"layout": layout.to_meta()})


if __name__ == "__main__":
    run_stage(main)
