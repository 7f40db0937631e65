"""Validate the collected LoRAs and flatten them to weight vectors; refused ones go to a quarantine list."""

import numpy as np
import pandas as pd
import torch

from w2wpp.errors import InputError
from w2wpp.layout import WeightLayout, flatten
from w2wpp.pca import standardise
from w2wpp.runtime import progress, run_stage, stage_arguments
from w2wpp.storage import read_csv, read_pack, write_csv, write_pack


def main() -> None:
    args = stage_arguments(__doc__, zoo="data/zoo", out="data/weights")
    manifest = read_csv(args.zoo / "manifest.csv", ["person", "split", "role"])
    pack = args.zoo / "loras.safetensors"
    tensors, meta = read_pack(pack)
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(pack))
    short = [key for key, tensor in tensors.items() if len(tensor) != len(manifest)]
    if short:
        raise InputError(str(pack), short[0], f"{len(tensors[short[0]])} LoRAs, the manifest has {len(manifest)}",
                         "Run `dvc repro -f collect`, or `git checkout data/zoo`")

    vectors, kept, quarantine = [], [], []
    for row, person in enumerate(progress(manifest["person"], "LoRAs")):
        try:
            vectors.append(flatten({key: tensor[row] for key, tensor in tensors.items()}, layout, f"{pack}[{row}]"))
            kept.append(row)
        except InputError as error:
            quarantine.append({"person": person, "row": row, "key": error.key, "reason": error.reason})
    allowed = args.params.flatten.max_quarantined
    if len(quarantine) > allowed * len(manifest):
        raise InputError(str(pack), quarantine[0]["key"], f"{len(quarantine)} of {len(manifest)} LoRAs are unusable, "
                         f"the first ({quarantine[0]['person']}): {quarantine[0]['reason']}",
                         f"More than flatten.max_quarantined = {allowed} of them; mend or collect them again")

    people = manifest.iloc[kept]
    weights = torch.stack(vectors)
    mean, std = standardise(weights[np.flatnonzero(people["role"] == "zoo")])
    write_csv(args.out / "people.csv", people)
    write_csv(args.out / "quarantine.csv", pd.DataFrame(quarantine, columns=["person", "row", "key", "reason"]))
    write_pack(args.out / "weights.safetensors", {"weights": weights, "mean": mean, "std": std},
               {"layout": layout.to_meta()})


if __name__ == "__main__":
    run_stage(main)
