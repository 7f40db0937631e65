"""Golden values of all computations that resume: tests/test_versions.py compares results with tests/golden.json.

`python tests/golden.py` rewrites the values of tasks with a raised version, and checks the others. Named tasks, as in
`python tests/golden.py codec vae`, are rewritten without a raised version; use this if a test's inputs changed.
"""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from w2wpp.compute.resume import VERSIONS
from w2wpp.files.storage import read_json, write_json

GOLDEN = Path(__file__).with_name("golden.json")
# Other processors change results by less (relative to their root mean square), changed computations by more.
TOLERANCE = 1e-3
LOOSER = {"sweep": 1e-2}  # whole numbers of grey, in pictures of an untrained model that are nearly grey

Results = dict[str, Tensor | str]
"""Results of a computation: tensors with a row per example, or text that must be equal."""


def summary(result: Tensor | str) -> dict | str:
    """Size, mean and standard deviation of a tensor, and a projection of each row on a fixed random vector of signs."""
    if isinstance(result, str):
        return result
    rows = result.detach().double().reshape(len(result) if result.ndim else 1, -1)
    signs = 2 * torch.randint(2, rows.shape[1:], generator=torch.Generator().manual_seed(0)).double() - 1
    numbers = {"mean": rows.mean(), "std": rows.std(correction=0), "rows": rows @ signs / rows.shape[1] ** 0.5}
    return {"shape": list(result.shape)} | {key: _rounded(value) for key, value in numbers.items()}


def differences(found: dict, known: dict, tolerance: float) -> list[str]:
    """The differences between summaries of a computation's results, by name."""
    if found.keys() != known.keys():
        return [f"results {', '.join(sorted(found))} instead of {', '.join(sorted(known))}"]
    return [
        f"{name} {found[name]} instead of {each}"
        for name, each in known.items()
        if not _alike(found[name], each, tolerance)
    ]


def check(task: str, results: Results, golden: dict) -> None:
    """Fail unless a task's results are the golden ones of its version."""
    known, version = golden.get(task, {"version": None}), VERSIONS[task]
    if known["version"] != version:
        pytest.fail(
            f"golden.json has version {known['version']} of {task}, not {version}: run `python tests/golden.py`",
            pytrace=False,
        )
    found = {name: summary(result) for name, result in results.items()}
    if different := differences(found, known["results"], LOOSER.get(task, TOLERANCE)):
        pytest.fail(
            f"{task} has other results by the same version: raise VERSIONS[{task!r}] in "
            f"w2wpp/compute/resume.py and run `python tests/golden.py`\n" + "\n".join(different),
            pytrace=False,
        )


def record(task: str, results: Results) -> None:
    """Make a task's results the golden ones of its version."""
    golden = {name: each for name, each in read_json(GOLDEN).items() if name in VERSIONS} if GOLDEN.exists() else {}
    golden[task] = {"version": VERSIONS[task], "results": {name: summary(result) for name, result in results.items()}}
    write_json(GOLDEN, golden)


def _rounded(value: Tensor) -> float | list[float]:
    return float(f"{value.item():.6g}") if value.ndim == 0 else [float(f"{each:.6g}") for each in value.tolist()]


def _alike(found: dict | str, known: dict | str, tolerance: float) -> bool:
    if isinstance(found, str) or isinstance(known, str) or found["shape"] != known["shape"]:
        return found == known
    allowed = tolerance * (known["mean"] ** 2 + known["std"] ** 2) ** 0.5
    return all(found[key] == pytest.approx(known[key], rel=0, abs=allowed) for key in ("mean", "std", "rows"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", help="tasks whose golden values are written, besides those of raised versions")


if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - VERSIONS.keys():
        sys.exit(f"error: {', '.join(sorted(unknown))}: no tasks. Known: {', '.join(VERSIONS)}")
    tests = Path(__file__).with_name("test_versions.py")
    sys.exit(pytest.main(["-q", str(tests), f"--golden={','.join(sys.argv[1:])}"], plugins=[sys.modules["__main__"]]))
