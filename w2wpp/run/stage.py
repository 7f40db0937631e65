"""The frame of every stage: its command line, its settings, and errors of one line."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from w2wpp.compute.runtime import prepare
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.folders import expanded
from w2wpp.run.params import in_params, load_params
from w2wpp.spaces.registry import METHODS


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
    """Run a stage's `main`; an InputError becomes one line on stderr and exit status 1."""
    prepare()
    try:
        main()
    except ArgumentError as error:
        sys.exit(f"error: {in_params(error)}")
    except InputError as error:
        sys.exit(f"error: {error}")
