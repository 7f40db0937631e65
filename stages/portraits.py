"""Render the held-out people: validation people to tune with, test people to report on once."""

from w2wpp.populations import draw, held_out_people, manifest_rows, write_portraits
from w2wpp.runtime import run_stage, stage_arguments


def main() -> None:
    args = stage_arguments(__doc__, out="data/portraits")
    params = args.params.portraits

    names, splits, people = held_out_people(args.params.seed, params)

    write_portraits(args.out, draw(people, params.size, "held-out people"), manifest_rows(names, splits, people))


if __name__ == "__main__":
    run_stage(main)
