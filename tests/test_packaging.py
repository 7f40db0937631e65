"""The package without its extras, its dependencies in groups, and the lock that has all of them."""

import ast
import re
import shutil
import subprocess
import sys
import textwrap
import tomllib
from importlib import metadata, resources
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image

import w2wpp

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
GROUPS = {"core": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
# Packages whose import names differ.
IMPORTED = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "dlib": "dlib-bin",
    "ruamel": "ruamel.yaml",
    "sklearn": "scikit-learn",
    "warp": "warp-lang",
    "pydantic_core": "pydantic",
}
# Of torch: CUDA's libraries, which CPUs do not need, and setuptools, which every environment here has.
NOT_LOCKED = re.compile(r"nvidia-.*|triton|cuda-.*|setuptools|pip|w2wpp")
# Code that blocks imports of these packages through `sys.meta_path`, as if they were not installed.
WITHOUT = """
import sys
class Without:
    def __init__(self, finder): self.finder = finder
    def __getattr__(self, name): return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {blocked} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Without, sys.meta_path)
"""


def requirements(*groups: str) -> dict[str, Requirement]:
    """Of groups and of the groups they name, by package."""
    found = {}
    for requirement in (Requirement(line) for group in groups for line in GROUPS[group]):
        if requirement.name == "w2wpp":
            found |= requirements(*requirement.extras)
        else:
            found[canonicalize_name(requirement.name)] = requirement
    return found


def packages(file: Path) -> set[str]:
    """A module's imports of other packages at any place, without imports for type checkers alone."""
    tree, skipped = ast.parse(file.read_text()), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            skipped |= set(map(id, ast.walk(node)))
    names = {
        name
        for node in ast.walk(tree)
        if id(node) not in skipped
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module]
            if isinstance(node, ast.ImportFrom) and node.module
            else []
        )
    }
    roots = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"w2wpp"}
    return {canonicalize_name(IMPORTED.get(root, root)) for root in roots}


def importable(*groups: str) -> set[str]:
    """Names under which what these groups install is imported."""
    known, waiting = set(), list(requirements(*groups))
    while waiting:
        name = waiting.pop()
        if name not in known:
            known.add(name)
            waiting += needed(name)
    return {
        root for root, names in metadata.packages_distributions().items() if known & set(map(canonicalize_name, names))
    }


def needed(name: str) -> list[str]:
    """The requirements of an installed package here, without extras."""
    lines = map(Requirement, metadata.requires(name) or ())
    return [canonicalize_name(line.name) for line in lines if not line.marker or line.marker.evaluate({"extra": ""})]


def example() -> str:
    """The code of the README."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]


def test_the_readmes_example_is_that_of_the_package():
    assert textwrap.indent(example(), "    ", lambda line: line != "\n") in w2wpp.__doc__


def test_the_packages_example_runs_without_any_extra(repro):
    """The README's example and further calls, except the last part, which finds a face."""
    lines = w2wpp.__doc__.partition("Inversion finds")[0].splitlines()
    code = "\n".join(line.removeprefix("    ") for line in lines if line.startswith("    "))
    assert "blend" in code and "invert" not in code
    shutil.copytree("data/spaces/pca", "data/spaces/vae")
    # A module in one file, such as dlib, is not among them.
    extras = {"dlib"} | importable(*GROUPS.keys() - {"docs"}) - importable("core")
    assert {"anny", "warp", "dlib", "insightface", "dvc", "pandas", "sklearn", "matplotlib"} <= extras
    subprocess.run([sys.executable, "-c", WITHOUT.format(blocked=sorted(extras)) + code], check=True)
    assert {path.name for path in repro.iterdir()} >= {"person.safetensors", "person.png", "blend.safetensors"}


@pytest.mark.parametrize(
    "command",
    ["sample -o a.safetensors --space pca", "info data/spaces/pca/space.safetensors", "invert photo.jpg --space pca"],
)
def test_commands_without_any_extra(repro, command):
    extras = {"anny", "dlib", "dvc", "insightface", "matplotlib", "onnxruntime", "pandas", "scipy", "sklearn", "warp"}
    Image.new("RGB", (80, 80)).save("photo.jpg")
    code = f"{WITHOUT.format(blocked=extras)}\nfrom w2wpp.cli import main; main({command.split()})"
    done = subprocess.run([sys.executable, "-c", code], text=True, capture_output=True)
    if command.startswith("invert"):
        assert done.returncode == 1
        assert done.stderr == "error: faces: dlib is not installed, and finds them. Run `pip install 'w2wpp[faces]'`\n"
    else:
        assert done.returncode == 0, done.stderr


def test_what_modules_import_is_declared():
    allowed = {
        "world": ("world", "pipeline"),
        "evaluation": ("pipeline",),
        "report": ("pipeline",),
        "run": ("pipeline",),
        "ingest": ("pipeline",),
    }
    for file in (ROOT / "w2wpp").rglob("*.py"):
        package = file.relative_to(ROOT / "w2wpp").parts[0]
        groups = allowed.get(package, ("faces", "pipeline", "ray"))
        assert packages(file) <= requirements("core", *groups).keys(), file


def test_every_dependency_has_a_range_and_the_lock_a_pin_within():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().splitlines())
    lock = {canonicalize_name(name): version for name, version in lock.items()}
    for name, requirement in requirements(*set(GROUPS) - {"docs"}).items():
        assert {each.operator for each in requirement.specifier} == {">=", "<"}, name
        assert requirement.specifier.contains(lock[name]), name


def test_the_lock_is_complete():
    lock = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "requirements.lock").read_text().splitlines()}
    missing = {
        f"{name} for {package}"
        for package in lock
        for name in needed(package)
        if name not in lock and not NOT_LOCKED.fullmatch(name)
    }
    assert missing == set()


def test_types_are_shipped():
    assert resources.files("w2wpp").joinpath("py.typed").is_file()
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in data["w2wpp"]
