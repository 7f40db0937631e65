"""Compare the spaces on the test people, person by person, and single out the inversion of the space `space` names."""

import numpy as np
import pandas as pd

from w2wpp import scoring
from w2wpp.evaluation import rounded
from w2wpp.params import require_photos
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.storage import read_csv, read_json, write_csv, write_json


def main() -> None:
    args = stage_arguments(__doc__, references="data/references", evaluations="data/evaluations",
                           out="data/comparison", metrics="metrics")
    require_photos(args.params)
    columns = ["person", "split", "rung", "id_score"]
    files = [args.references / "scores.csv", *(args.evaluations / space / "scores.csv" for space in ("pca", "vae"))]
    scores = pd.concat([read_csv(file, columns) for file in files])
    scores["id_score"] = pd.to_numeric(scores["id_score"], errors="coerce")

    table = scores.pivot(index=["split", "person"], columns="rung", values="id_score").dropna()
    ladder = []
    for split, people in table.groupby(level="split"):
        for rung in people.columns:
            mean, low, high = scoring.bootstrap_mean(people[rung].to_numpy(), n=args.params.evaluate.bootstrap)
            ladder.append({"split": split, "rung": rung, "id_score": mean, "low": low, "high": high,
                           "people": len(people)})
    test = table.loc["test"]
    mean, low, high = scoring.paired_gain(test["vae inversion"].to_numpy(), test["pca inversion"].to_numpy(),
                                          n=args.params.evaluate.bootstrap)
    share = float(np.mean(test["vae inversion"] > test["pca inversion"]))

    write_csv(args.out / "ladder.csv", ladder)
    write_csv(args.out / "scores.csv", table.reset_index())
    write_json(args.metrics / "comparison.json", rounded(
        {"people": len(test), "gain": {"mean": mean, "low": low, "high": high}, "people_better_with_vae": share}))
    write_json(args.metrics / "inversion.json", read_json(args.metrics / f"{args.params.space}.json")["inversion"])


if __name__ == "__main__":
    run_stage(main)
