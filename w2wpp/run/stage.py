"""The frame of every stage: its command line, its settings, errors of one line, and a record of its seconds."""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from w2wpp.compute.runtime import prepare
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.folders import expanded
from w2wpp.files.storage import write_json
from w2wpp.run.params import in_params, load_params
from w2wpp.spaces.registry import METHODS

RECORDS = Path(".scratch/seconds")  # a file for each stage that DVC has run, see `w2wpp.run.seconds`


def stage_arguments(
    description: str, space: bool = False, shard: bool = False, rows: bool = False, **paths: str
) -> argparse.Namespace:
    """Command line of a stage: --params, one option per path, and the options of some stages.

    Args:
        space: whether there is --space, for stages that run once per space.
        shard: whether there is --shard, for stages whose batches several machines can share.
        rows: whether there is --rows, for a stage of hours whose parts can be run singly.

    Returns:
        The paths as `Path` under their names, `params` as checked settings, `space`, `shard` as text, and `rows` as a
        list, empty for all.

    Raises:
        InputError: params.yaml is wrong (see `load_params`).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--params", type=expanded, default=Path("params.yaml"), help="settings")
    if space:
        parser.add_argument("--space", choices=list(METHODS), required=True, help="the weight space to use")
    if shard:
        parser.add_argument(
            "--shard",
            default="1/1",
            metavar="I/N",
            help="compute part I of N of the batches, which machines with a common resume state can "
            "do at once, and leave joining them to a run without --shard",
        )
    if rows:
        parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="print these alone, write nothing")
    for name, default in paths.items():
        outgoing = name == "metrics" or name.startswith("out")
        kind = "output" if outgoing else "resume state" if name == "scratch" else "input"
        parser.add_argument(f"--{name}", type=expanded, default=Path(default), help=kind)
    args = parser.parse_args()
    args.params = load_params(args.params)
    return args


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an InputError becomes one line on stderr and exit status 1.

    If DVC runs the stage, its seconds are recorded when it ends (see `record_seconds`).
    """
    # What came before is imports, which seldom wait: CPU time stands for wall time.
    imports, started = time.process_time(), time.perf_counter()
    prepare()
    try:
        main()
    except ArgumentError as error:
        sys.exit(f"error: {in_params(error)}")
    except InputError as error:
        sys.exit(f"error: {error}")
    if "DVC_STAGE" in os.environ:
        record_seconds(os.environ["DVC_STAGE"], imports + time.perf_counter() - started)


def record_seconds(stage: str, seconds: float) -> None:
    """Write the record of a finished stage, in place of that of an earlier run.

    A stage that resumed has the seconds of its last run alone. CPU seconds are those of this process and of its
    children that have ended; workers of a Ray cluster are no children.
    """
    times = os.times()
    cpu = times.user + times.system + times.children_user + times.children_system
    record = {"seconds": seconds, "cpu_seconds": cpu, "ended": time.time()}
    write_json(RECORDS / f"{stage}.json", record)
