"""Imports of the library in Python files, from their source, and stages as modules."""

import ast
import importlib.util
from functools import cache
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent


def stage_module(name: str) -> ModuleType:
    """The module stages/NAME.py, without running its work."""
    spec = importlib.util.spec_from_file_location(f"stage_{name}", ROOT / "stages" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def imported(file: Path) -> frozenset[Path]:
    """The library's modules that a file imports itself, also within functions."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "w2wpp":
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            module = ROOT / Path(*name.split(".")).with_suffix(".py")
            if module.is_file():
                found.add(module.relative_to(ROOT))
    return frozenset(found)


def reached(file: Path) -> set[Path]:
    """The library's modules that a file imports itself or through others.

    `w2wpp/run` and its imports are left out: it is the frame of all stages, and DVC watches settings itself.
    """
    found, waiting = set(), [file]
    while waiting:
        for module in imported(ROOT / waiting.pop()) - found:
            if module.parts[1] != "run":
                found.add(module)
                waiting.append(module)
    return found
