"""Compare the spaces person by person, and single out the inversion of the space `space` names.

Spaces of different dimensions, ridges or numbers of people are not compared: gains are left out, and the reason is
told here and in the report.
Gains at other latent dimensions, in this world, are those of the sweep, if it was made with the present settings but
for latent dimensions, zoo people and training seeds. If not, they are left out, and the reason is told likewise.
"""

import sys
from pathlib import Path

from w2wpp.evaluation.comparison import gains, inequality, ladder, outside_gains, read_measures
from w2wpp.evaluation.editing import editing_gains, read_edits
from w2wpp.evaluation.sweep_record import AGAIN, read_sweep
from w2wpp.files.storage import read_json, rounded, write_csv, write_json
from w2wpp.run.params import Params, require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import BASELINE, METHODS


def space_settings(params: Params, metrics: Path) -> dict[str, dict]:
    """What spaces must have in common to be compared: dimensions, people that they learn from, and ridge."""
    people = read_json(metrics / "zoo.json")["people"]
    learned_from = {"linear": min(params.linear.people, people)}
    return {
        space: {
            "dimensions": read_json(metrics / f"{space}.json").get("latent_dim"),
            "people": learned_from.get(space, people),
            "within_person_ridge": getattr(params, space).within_person_ridge,
        }
        for space in METHODS
    }


def main() -> None:
    args = stage_arguments(
        __doc__,
        references="data/references",
        evaluations="data/evaluations",
        second_opinion="data/second_opinion",
        styles="data/outside",
        sweep="data/sweep",
        base="data/base",
        zoo="data/zoo",
        arcface="data/arcface",
        out="data/comparison",
        metrics="metrics",
    )
    require_photos(args.params)
    bootstrap = args.params.evaluate.bootstrap
    table = read_measures(
        [args.references / "scores.csv", *(args.evaluations / space / "scores.csv" for space in METHODS)]
    )
    second = read_measures([args.second_opinion / "scores.csv"])
    write_csv(args.out / "ladder.csv", ladder(table, bootstrap))
    write_csv(args.out / "scores.csv", table)

    settings = space_settings(args.params, args.metrics)
    unequal = inequality(settings, [BASELINE, *(space for space in METHODS if space != BASELINE)])
    comparison = {} if unequal else gains(table, BASELINE, bootstrap)
    opinion = {} if unequal else gains(second, BASELINE, bootstrap)
    edits = {space: read_edits(args.evaluations / space / "edits.csv") for space in METHODS}
    if not unequal and all(table is not None for table in edits.values()):
        comparison["editing"] = editing_gains(edits, BASELINE, args.params.edit.flip_rate, bootstrap)
    if unequal:
        print(f"compare: no gains: {unequal}. Give all spaces the same settings.", file=sys.stderr)
    swept = {"tables": [], "left_out": ""}
    if args.params.portraits.source == "rendered":
        sweep = read_sweep(args.sweep, args.params, args.base, args.zoo, args.arcface / "arcface.onnx")
        if sweep.left_out:
            print(f"compare: gains at other dimensions are left out: {sweep.left_out}. {AGAIN}.", file=sys.stderr)
        comparison |= sweep.gain_at(args.params.recognizer)
        opinion |= sweep.gain_at(args.params.second_recognizer)
        swept = {"tables": list(sweep.names), "left_out": sweep.left_out}
        outside = read_measures([args.styles / name / "scores.csv" for name in ("references", *METHODS)])
        comparison["outside"] = outside_gains(outside, BASELINE, bootstrap, bool(unequal))
    write_json(args.out / "compared.json", {"unequal": unequal, "sweep": swept})
    write_json(args.metrics / "comparison.json", rounded(comparison | {"second_opinion": opinion}))
    write_json(args.metrics / "inversion.json", read_json(args.metrics / f"{args.params.space}.json")["inversion"])


if __name__ == "__main__":
    run_stage(main)
