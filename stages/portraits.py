"""Render the held-out people: validation people to tune with, test people to report on once."""

from w2wpp.populations import draw, manifest_rows, person_names, sample_people, write_portraits
from w2wpp.runtime import run_stage, stage_arguments


def main() -> None:
    args = stage_arguments(__doc__, out="data/portraits")
    params = args.params.portraits

    people, rows = [], []
    for group, count in (("validation", params.validation), ("test", params.test)):
        members = sample_people(args.params.seed, group, count, params.photos)
        rows += manifest_rows(person_names(group, count), group, members)
        people += members

    write_portraits(args.out, draw(people, params.size, "held-out people"), rows)


if __name__ == "__main__":
    run_stage(main)
