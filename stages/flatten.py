"""Validate the collected LoRAs and flatten them to weight vectors; refused ones go to a quarantine list."""

import numpy as np
import pandas as pd
import torch

from w2wpp.errors import InputError
from w2wpp.layout import flatten
from w2wpp.packs import read_loras
from w2wpp.pca import standardise
from w2wpp.runtime import progress, run_stage, stage_arguments
from w2wpp.storage import read_csv, write_csv, write_pack


def main() -> None:
    args = stage_arguments(__doc__, zoo="data/zoo", out="data/weights")
    manifest = read_csv(args.zoo / "manifest.csv", ["person", "split", "role", "file"])
    layout, vectors, kept, quarantine = None, [], [], []
    with progress(None, "LoRAs", total=len(manifest)) as bar:
        for name, rows in manifest.groupby("file", sort=False):
            pack = args.zoo / "loras" / name
            tensors, layout = read_loras(pack, len(rows), layout)
            for number, (row, person) in enumerate(rows["person"].items()):
                where = f"{pack}[{number}]"
                try:
                    vectors.append(flatten({key: part[number] for key, part in tensors.items()}, layout, where))
                    kept.append(row)
                except InputError as error:
                    quarantine.append({"person": person, "lora": where, "key": error.key, "reason": error.reason})
                bar.update()
    allowed = args.params.flatten.max_quarantined
    if len(quarantine) > allowed * len(manifest):
        first = quarantine[0]
        raise InputError(first["lora"], first["key"], f"{len(quarantine)} of {len(manifest)} LoRAs are unusable, "
                         f"the first ({first['person']}): {first['reason']}",
                         f"More than flatten.max_quarantined = {allowed} of them; mend or collect them again")

    people = manifest.iloc[kept].drop(columns="file")
    weights = torch.stack(vectors)
    mean, std = standardise(weights[np.flatnonzero(people["role"] == "zoo")])
    write_csv(args.out / "people.csv", people)
    write_csv(args.out / "quarantine.csv", pd.DataFrame(quarantine, columns=["person", "lora", "key", "reason"]))
    write_pack(args.out / "weights.safetensors", {"weights": weights, "mean": mean, "std": std},
               {"layout": layout.to_meta()})


if __name__ == "__main__":
    run_stage(main)
