"""Compare the probe with labels by eye: does it read off generated pictures what people see?

`probe_labels/` has 256 pictures of 64 pixels in rows of 16, in the order of labels.csv: the rung that drew each,
the requested value of one factor, and the value that somebody saw who knew neither. Prints the table of
docs/protocol.md.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from w2wpp.report.tables import markdown_table
from w2wpp.world.factors import FACTORS
from w2wpp.world.obedience import EXPRESSIONS
from w2wpp.world.probes import Probe, load_probe

ROOT = Path(__file__).resolve().parents[1]
SIDE, PER_ROW = 64, 16
UNSURE = "unsure"
REQUESTS = {  # row of the table: factor, and the requested values that the protocol uses
    "a background was requested": ("background", FACTORS["background"].choices),
    "smiling or surprised was requested": ("expression", tuple(EXPRESSIONS)),
}


def read_labels(folder: Path = ROOT / "benchmarks/probe_labels") -> tuple[torch.Tensor, pd.DataFrame]:
    """Pictures uint8 [n, 64, 64, 3], and a row of labels for each."""
    labels = pd.read_csv(folder / "labels.csv")
    sheet = np.asarray(Image.open(folder / "pictures.png").convert("RGB"))
    pictures = sheet.reshape(-1, SIDE, PER_ROW, SIDE, 3).swapaxes(1, 2).reshape(-1, SIDE, SIDE, 3)
    return torch.from_numpy(pictures[: len(labels)].copy()), labels


def agreement(probe: Probe, pictures: torch.Tensor, labels: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Rows of the table: pictures, those with a sure label, and shares of these."""
    read, rows = probe.read_all(pictures), {}
    for name, (factor, values) in REQUESTS.items():
        asked = labels[(labels["factor"] == factor) & labels["requested"].isin(values)]
        sure = asked[asked["label"] != UNSURE]
        choices = FACTORS[factor].choices
        seen = np.array([choices[int(read[factor][number])] for number in sure["picture"]])
        by_probe, by_eye = seen == sure["requested"], sure["label"] == sure["requested"]
        rows[name] = {
            "labelled": len(asked),
            "sure": len(sure),
            "agree on obedience": (by_probe == by_eye).mean(),
            "obeyed by the probe": by_probe.mean(),
            "obeyed by the labels": by_eye.mean(),
        }
    return rows


def table(rows: dict[str, dict[str, float]]) -> str:
    """The rows as Markdown."""
    columns = list(next(iter(rows.values())))
    shown = [
        (name, *(f"{cell:.3f}" if isinstance(cell, float) else cell for cell in cells.values()))
        for name, cells in rows.items()
    ]
    return "\n".join(markdown_table(["pictures", *columns], shown))


if __name__ == "__main__":
    print(table(agreement(load_probe(ROOT / "data/probe/probe.safetensors", SIDE), *read_labels())))
