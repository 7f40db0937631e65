"""The notebook examples/tour.ipynb runs from end to end, here on a miniature of the shipped world."""

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
TOUR = Path(__file__).parents[1] / "examples/tour.ipynb"


def test_the_tour_runs_and_takes_home_what_it_says(repro, save_directions, face, layout):
    for name in ("linear", "vae"):
        shutil.copytree("data/spaces/pca", f"data/spaces/{name}")
        shutil.copy("data/photo_encoders/pca.safetensors", f"data/photo_encoders/{name}.safetensors")
    save_directions("vae")
    photos = torch.from_numpy(np.stack([face] * 4))[None]
    write_portraits(
        Path("data/portraits"), photos, [{"person": "a", "split": "test", "photo": number} for number in range(4)]
    )
    book = nbformat.read(TOUR, 4)
    environment = os.environ | {"PYTHONPATH": str(TOUR.parents[1]), "OMP_NUM_THREADS": "1"}
    nbclient.NotebookClient(book, timeout=280, resources={"metadata": {"path": str(repro)}}).execute(env=environment)
    drawn = [
        output
        for cell in book.cells
        if cell.cell_type == "code"
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]
    assert len(drawn) == 8
    assert {path.name for path in Path("examples/out").iterdir()} == {"found.safetensors", "found-kohya.safetensors"}


def test_the_tour_is_shipped_with_its_pictures():
    cells = [cell for cell in nbformat.read(TOUR, 4).cells if cell.cell_type == "code"]
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 8
    assert not any(output.output_type == "error" for output in outputs)
    assert TOUR.stat().st_size < 2**20
