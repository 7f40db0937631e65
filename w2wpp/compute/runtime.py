"""Process-wide settings of computations: quiet libraries, memory, device and progress bars."""

import ctypes
import os
import warnings

import torch
from tqdm import tqdm

ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def keep_freed_memory() -> None:
    """Let glibc's malloc keep freed memory; returning it costs a third of the training time on a CPU."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        trim_threshold, top_pad, mmap_max = -1, -2, -4
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(top_pad, 2**28)


def device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def progress(iterable, label: str | None, *, disable: bool = False, **kwargs) -> tqdm:
    """A progress bar with ETA on stderr that rewrites its line at most once a second; none where it has no label."""
    return tqdm(iterable, desc=label, mininterval=1.0, dynamic_ncols=True, disable=disable or label is None, **kwargs)


def prepare() -> None:
    """Apply the settings to this process, a stage or one of its workers."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    keep_freed_memory()
