"""Compare spaces on the test people at several dimensions, by zoo size, and with parts left out (hours; shipped).

Every row of a table fits a space with the settings of params.yaml and the row's own changes. It inverts one photo of
each held-out person into the space and draws the people. Both recognisers score the pictures, person by person against
PCA and against function-weighted PCA, the VAE without nonlinearity. The stage resumes at the last finished row; a row
takes two to three minutes on two cores. Without rendered photos there is no table.

`--rows VAE-64-0-2000` prints single rows (variant, dimension, training seed, people) and writes no file.
"""

import shutil
import sys
from itertools import chain

from w2wpp.compute.runtime import progress
from w2wpp.evaluation.sweep_record import RECORD, record, zoo_people
from w2wpp.evaluation.sweep_rows import fits, named, tables
from w2wpp.evaluation.sweep_tables import compared
from w2wpp.files.storage import write_csv, write_json
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.run.sweep import Sweep


def main() -> None:
    args = stage_arguments(
        __doc__,
        rows=True,
        base="data/base",
        zoo="data/zoo",
        arcface="data/arcface",
        out="data/sweep",
        scratch=".scratch/sweep",
    )
    require_photos(args.params)
    params, network = args.params, args.arcface / "arcface.onnx"
    if params.portraits.source != "rendered":
        shutil.rmtree(args.out, ignore_errors=True)
        write_json(args.out / RECORD, {"tables": []})
        return

    people = zoo_people(args.zoo)
    wanted = tables(params.sweep, people)
    kept = {name: some for name, rows in wanted.items() if (some := [row for row in rows if fits(row, people)])}
    left_out = [row.name for row in chain(*wanted.values()) if not fits(row, people)]
    if left_out:
        print(f"sweep: {people} zoo people are too few for {', '.join(left_out)}", file=sys.stderr)
    sweep = Sweep(params, args.base, args.zoo, network, args.scratch)
    if args.rows:
        scores = {row: sweep.id_scores(row) for row in named(chain(*kept.values()), args.rows)}
        print(compared(scores, params.evaluate.bootstrap).to_string(index=False))
        return

    shutil.rmtree(args.out, ignore_errors=True)
    for name, rows in kept.items():
        scores = {row: sweep.id_scores(row) for row in progress(rows, f"sweep: {name}")}
        write_csv(args.out / f"{name}.csv", compared(scores, params.evaluate.bootstrap))
    write_json(args.out / RECORD, record(params, args.base, args.zoo, network, list(kept)))


if __name__ == "__main__":
    run_stage(main)
