"""What every stage does first: quiet libraries, memory settings, seeds, and one-line errors."""

import argparse
import ctypes
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from tqdm import tqdm

from w2wpp.files.errors import InputError
from w2wpp.run.params import load_params

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory; giving it back costs a third of the time of training on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def device() -> torch.device:
    """The accelerator where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress(iterable, what: str, **kwargs) -> tqdm:
    """A progress bar with ETA on stderr that rewrites its line at most once a second."""
    return tqdm(iterable, desc=what, mininterval=1.0, dynamic_ncols=True, **kwargs)


def stage_arguments(description: str, space: bool = False, shard: bool = False, **paths: str) -> argparse.Namespace:
    """Command line of a stage: --params, one option per path, and what only some stages have.

    Args:
        space: whether there is --space, for stages that run once per space.
        shard: whether there is --shard, for stages whose batches several machines can share.

    Returns:
        The paths as `Path` under their names, `params` as checked settings, `space`, and `shard` as text.

    Raises:
        InputError: params.yaml is wrong (see `load_params`).
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--params", default="params.yaml", help="settings")
    if space:
        parser.add_argument("--space", choices=["pca", "vae"], required=True, help="the weight space to use")
    if shard:
        parser.add_argument("--shard", default="1/1", metavar="I/N",
                            help="compute part I of N of the batches, which machines that share the resume state can "
                                 "do at once, and leave joining them to a run without --shard")
    for name, default in paths.items():
        outgoing = name == "metrics" or name.startswith("out")
        kind = "output" if outgoing else "resume state" if name == "scratch" else "input"
        parser.add_argument(f"--{name}", type=Path, default=Path(default), help=kind)
    args = parser.parse_args()
    args.params = load_params(args.params)
    return args


def prepare() -> None:
    """Settings of a process that computes, a stage's own or one that works for it."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    keep_freed_memory()


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an InputError becomes one line on stderr and exit status 1."""
    prepare()
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
