"""Compare spaces on the test people at several dimensions, by zoo size, and with parts left out (hours; shipped).

Every row of a table fits a space with the settings of params.yaml but for the row's own, inverts one photo of each
held-out person into it, draws the people, and lets both recognisers score the pictures, person by person against PCA
and against function-weighted PCA, which is the VAE without nonlinearity. Resumes at the last finished row; two to three
minutes a row on two cores. Where photos are not rendered, there is no table.

`--rows VAE-64-0-2000` prints single rows (variant, dimension, training seed, people) and writes none.
"""

import shutil
import sys
from argparse import Namespace
from itertools import chain

import pandas as pd
from torch import Tensor

from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import progress
from w2wpp.evaluation.sweep import Scorer, Sweep, compared, make_scorer
from w2wpp.evaluation.sweep_record import RECORD, identity, record, zoo_people
from w2wpp.evaluation.sweep_rows import fits, named, tables
from w2wpp.faces.portraits import Portraits, read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import write_csv, write_json
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw_resumably
from w2wpp.world.populations import Person, held_out_people, manifest_rows, person_names, sample_people

NETWORK = "arcface.onnx"


def make_sweep(args: Namespace) -> Sweep:
    """What rows are measured with: photos of this world, and both recognisers."""
    params, network, zoo = args.params, args.arcface / NETWORK, read_portraits(args.zoo / "people")

    def draw(people: list[Person], group: str) -> Tensor:
        photos = scratch_folder(args.scratch, "photos", seed=params.seed, size=params.portraits.size, group=group,
                                photos=len(people[0][1]))
        return draw_resumably(people, params.portraits.size, photos, params.engine)

    def zoo_photos(count: int, photos: int) -> tuple[Tensor, list[str]]:
        return draw(sample_people(params.seed, "zoo", count, photos), "zoo"), person_names("zoo", count)

    def scorer(spec: str) -> Scorer:
        recognizer = load_recognizer(f"insightface:{network}" if spec == "arcface" else spec, progress="faces")
        return make_scorer(identity(spec, network), recognizer, held_out, params.portraits.score_photos, zoo)

    names, splits, people = held_out_people(params.seed, params.portraits)
    held_out = Portraits(draw(people, "held-out"), names, splits, pd.DataFrame(manifest_rows(names, splits, people)))
    scorers = {spec: scorer(spec) for spec in (params.recognizer, params.second_recognizer)}
    return Sweep(params, args.base, args.zoo, held_out, zoo_photos, scorers, args.scratch)


def main() -> None:
    args = stage_arguments(__doc__, rows=True, base="data/base", zoo="data/zoo", arcface="data/arcface",
                           out="data/sweep", scratch=".scratch/sweep")
    require_photos(args.params)
    params, bootstrap = args.params, args.params.evaluate.bootstrap
    if params.portraits.source != "rendered":
        shutil.rmtree(args.out, ignore_errors=True)
        write_json(args.out / RECORD, {"tables": []})
        return
    people = zoo_people(args.zoo)
    asked = tables(params.sweep, people)
    left_out = [row.name for rows in asked.values() for row in rows if not fits(row, people)]
    if left_out:
        print(f"sweep: {people} zoo people are too few for {', '.join(left_out)}", file=sys.stderr)
    sweep = make_sweep(args)
    kept = {name: some for name, rows in asked.items() if (some := [row for row in rows if fits(row, people)])}
    if args.rows:
        rows = named([*chain(*kept.values())], args.rows)
        print(compared({row: sweep.id_scores(row) for row in rows}, bootstrap).to_string(index=False))
        return

    shutil.rmtree(args.out, ignore_errors=True)
    for name, rows in kept.items():
        scores = {row: sweep.id_scores(row) for row in progress(rows, f"sweep: {name}")}
        write_csv(args.out / f"{name}.csv", compared(scores, bootstrap))
    write_json(args.out / RECORD, record(params, args.base, args.zoo, args.arcface / NETWORK, list(kept)))


if __name__ == "__main__":
    run_stage(main)
