"""Compare the spaces on the test people, person by person, and copy the inversion metrics of the space in `space`.

Gains at other latent dimensions come from the sweep. Its settings must equal the present ones except for latent
dimensions, zoo people and training seeds. Otherwise these gains are left out, and the reason is printed and reported.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from w2wpp.evaluation import scoring
from w2wpp.evaluation.sweep_record import AGAIN, read_sweep
from w2wpp.files.storage import read_csv, read_json, rounded, write_csv, write_json
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import BASELINE, METHODS


def score_table(files: list[Path]) -> pd.DataFrame:
    """ID scores by (split, person) and rung, of the people with a score in every rung."""
    scores = pd.concat([read_csv(file, ["person", "split", "rung", "id_score"]) for file in files])
    scores["id_score"] = pd.to_numeric(scores["id_score"], errors="coerce")
    return scores.pivot(index=["split", "person"], columns="rung", values="id_score").dropna()


def paired_gain(table: pd.DataFrame, baseline: str, bootstrap: int) -> dict:
    """The paired gain of the VAE over another space on test people."""
    test = table.loc["test"]
    vae, other = test["vae inversion"].to_numpy(), test[f"{baseline} inversion"].to_numpy()
    mean, low, high = scoring.paired_gain(vae, other, n=bootstrap)
    return {
        "people": len(test),
        "gain": {"mean": mean, "low": low, "high": high},
        "people_better_with_vae": float(np.mean(vae > other)),
    }


def gains(table: pd.DataFrame, bootstrap: int) -> dict:
    """Gain of the VAE over the baseline, and over the linear space: the gain by nonlinearity."""
    return paired_gain(table, BASELINE, bootstrap) | {
        "gain_over_linear": paired_gain(table, "linear", bootstrap)["gain"]
    }


def main() -> None:
    args = stage_arguments(
        __doc__,
        references="data/references",
        evaluations="data/evaluations",
        second_opinion="data/second_opinion",
        sweep="data/sweep",
        base="data/base",
        zoo="data/zoo",
        arcface="data/arcface",
        out="data/comparison",
        metrics="metrics",
    )
    require_photos(args.params)
    bootstrap = args.params.evaluate.bootstrap
    table = score_table(
        [args.references / "scores.csv", *(args.evaluations / space / "scores.csv" for space in METHODS)]
    )
    ladder = []
    for split, people in table.groupby(level="split"):
        for rung in people.columns:
            mean, low, high = scoring.bootstrap_mean(people[rung].to_numpy(), n=bootstrap)
            ladder.append(
                {"split": split, "rung": rung, "id_score": mean, "low": low, "high": high, "people": len(people)}
            )
    write_csv(args.out / "ladder.csv", ladder)
    write_csv(args.out / "scores.csv", table.reset_index())
    first, second = gains(table, bootstrap), gains(score_table([args.second_opinion / "scores.csv"]), bootstrap)
    if args.params.portraits.source == "rendered":
        sweep = read_sweep(args.sweep, args.params, args.base, args.zoo, args.arcface / "arcface.onnx")
        if sweep.left_out:
            print(f"compare: gains at other dimensions are left out: {sweep.left_out}. {AGAIN}.", file=sys.stderr)
        first |= sweep.gain_at(args.params.recognizer)
        second |= sweep.gain_at(args.params.second_recognizer)
        write_json(args.out / "sweep.json", {"tables": list(sweep.names), "left_out": sweep.left_out})
    write_json(args.metrics / "comparison.json", rounded(first | {"second_opinion": second}))
    write_json(args.metrics / "inversion.json", read_json(args.metrics / f"{args.params.space}.json")["inversion"])


if __name__ == "__main__":
    run_stage(main)
