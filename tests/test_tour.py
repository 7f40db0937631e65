"""The notebook examples/tour.ipynb runs from end to end, here on a miniature of the shipped world.

With W2WPP_SCREENSHOTS it runs on the shipped world, and the notebook is written with its pictures.
"""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from w2wpp.faces.portraits import write_portraits

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")
SHIPPED = bool(os.environ.get("W2WPP_SCREENSHOTS"))
TOUR = Path(__file__).parents[1] / "examples/tour.ipynb"


def pictures(book) -> int:
    """How many pictures a notebook has."""
    outputs = [output for cell in book.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    return sum("image/jpeg" in output.get("data", {}) for output in outputs)


def test_the_tour_runs_and_takes_home_what_it_says(repro, save_directions, face):
    if SHIPPED:
        folder = TOUR.parents[1]
    else:
        folder = repro
        for name in ("linear", "vae"):
            shutil.copytree("data/spaces/pca", f"data/spaces/{name}")
            shutil.copy("data/photo_encoders/pca.safetensors", f"data/photo_encoders/{name}.safetensors")
        save_directions("vae")
        photos, places = torch.from_numpy(np.stack([face] * 4))[None], range(4)
        rows = [{"person": "a", "split": "validation", "photo": number} for number in places]
        write_portraits(Path("data/portraits"), photos, rows)
    book = nbformat.read(TOUR, 4)
    environment = os.environ | {"PYTHONPATH": str(TOUR.parents[1]), "OMP_NUM_THREADS": "1"}
    nbclient.NotebookClient(book, timeout=280, resources={"metadata": {"path": str(folder)}}).execute(env=environment)
    assert pictures(book) == 8
    saved = {path.name for path in (folder / "examples/out").iterdir()}
    assert saved == {"found.safetensors", "found-kohya.safetensors"}
    if SHIPPED:
        for cell in (each for each in book.cells if each.cell_type == "code"):
            cell.metadata.pop("execution", None)
            cell.outputs = [each for each in cell.outputs if each.output_type != "stream"]
            for output in cell.outputs:
                output.data.pop("image/png", None)  # JPEG is a seventh of the size
        nbformat.write(book, TOUR)


def test_the_tour_is_shipped_with_its_pictures():
    assert pictures(nbformat.read(TOUR, 4)) == 8
    assert TOUR.stat().st_size < 2**19
