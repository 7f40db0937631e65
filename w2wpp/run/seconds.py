"""Seconds of the pipeline's stages: each stage leaves a record when it ends, `python -m w2wpp.run.seconds` shows them.

Seconds differ from run to run, so no output of a stage has them, and they stand in no report.
"""

import argparse
from datetime import UTC, datetime
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_json
from w2wpp.report.tables import markdown_table
from w2wpp.run.stage import RECORDS, run_stage

COLUMNS = ("seconds", "cpu_seconds")


def seconds_table(folder: Path) -> str:
    """A Markdown table of the records in a folder, in the order in which the stages ended, with totals.

    Raises:
        InputError: there is no record, or a file is none.
    """
    records = {path.stem: read_json(path) for path in folder.glob("*.json")}
    for stage, record in records.items():
        for key in (*COLUMNS, "ended"):
            if not isinstance(record.get(key), int | float):
                raise InputError(str(folder / f"{stage}.json"), key, "no number", "Delete this file")
    if not records:
        raise InputError(str(folder), None, "no stage has left its seconds", "Run `dvc repro`")
    rows = [
        (
            stage,
            f"{datetime.fromtimestamp(record['ended'], UTC):%Y-%m-%d %H:%M}",
            *(f"{record[column]:.0f}" for column in COLUMNS),
        )
        for stage, record in sorted(records.items(), key=lambda item: item[1]["ended"])
    ]
    totals = (f"{sum(record[column] for record in records.values()):.0f}" for column in COLUMNS)
    titles = ["stage", "ended (UTC)", "seconds", "CPU seconds"]
    return "\n".join(markdown_table(titles, [*rows, ("all", "", *totals)], texts=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--records", type=Path, default=RECORDS, help="folder of the records")
    print(seconds_table(parser.parse_args().records))


if __name__ == "__main__":
    run_stage(main)
