"""What every stage does first: quiet libraries, memory settings, seeds, and one-line errors."""

import ctypes
import os
import sys
import warnings
from collections.abc import Callable

import torch
from tqdm import tqdm

from w2wpp.errors import InputError


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


def run_stage(main: Callable[[], None]) -> None:
    """Run a stage's `main`; an InputError becomes one line on stderr and exit status 1."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    keep_freed_memory()
    try:
        main()
    except InputError as error:
        sys.exit(f"error: {error}")
