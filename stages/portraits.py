"""Render the held-out people or read them from a folder: validation people for tuning, test people for one report."""

import sys

import pandas as pd

from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.photos import read_people
from w2wpp.faces.portraits import write_portraits
from w2wpp.files.quarantine import PHOTOS, write_quarantine
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
    found = read_people(params, seed, load_face_finder(args.params.faces), "portraits")
    write_portraits(args.out, found.photos, found.rows)
    listed = write_quarantine(args.out, found.rejected, PHOTOS)
    write_csv(args.out / "others.csv", pd.DataFrame(found.others, columns=["person", "file"]))
    faces = [row["faces"] for row in found.rows]
    print(
        f"{len(faces)} photos of {len(found.photos)} people, a face found on {sum(map(bool, faces))}, several on "
        f"{sum(count > 1 for count in faces)}, where the largest is taken; {len(found.rejected)} rejections, see "
        f"{listed}; {len(found.others)} other files, see {args.out / 'others.csv'}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    run_stage(main)
