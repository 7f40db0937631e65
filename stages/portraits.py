"""The held-out people, validation people to tune with, test people to report on once: rendered, or from a folder."""

import sys

import pandas as pd

from w2wpp.faces.frames import load_face_finder
from w2wpp.faces.photos import read_people
from w2wpp.faces.portraits import write_portraits
from w2wpp.files.storage import write_csv
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw
from w2wpp.world.populations import held_out_people, manifest_rows


def main() -> None:
    args = stage_arguments(__doc__, out="data/portraits")
    params, seed = args.params.portraits, args.params.seed

    if params.source == "rendered":
        names, splits, people = held_out_people(seed, params)
        write_portraits(args.out, draw(people, params.size, "held-out people"), manifest_rows(names, splits, people))
        return
    photos, rows, rejected = read_people(params, seed, load_face_finder(args.params.faces))
    write_portraits(args.out, photos, rows)
    write_csv(args.out / "quarantine.csv", pd.DataFrame(rejected, columns=["person", "file", "reason"]))
    print(f"{len(rows)} photos of {len(photos)} people, a face found on {sum(row['face'] for row in rows)}; "
          f"{len(rejected)} rejections, see {args.out / 'quarantine.csv'}", file=sys.stderr)


if __name__ == "__main__":
    run_stage(main)
