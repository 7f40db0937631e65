"""docs/sweep.md: the tables of the sweep in words and figures.

python -m w2wpp.report.sweep_page      # writes docs/sweep.md and its figures from data/sweep
"""

import argparse
from operator import methodcaller
from pathlib import Path

import pandas as pd

from w2wpp.evaluation.sweep_rows import PCA, VAE
from w2wpp.evaluation.sweep_tables import KEYS
from w2wpp.files.storage import write_atomically
from w2wpp.report.scores import SWEEPS, gains
from w2wpp.report.style import png_bytes
from w2wpp.report.tables import markdown_table

RECOGNIZERS = {"dlib": "dlib", "arcface": "ArcFace"}
TITLES = {
    "dimensions": "By latent dimension",
    "people": "By number of zoo people, at 64 dimensions",
    "rungs": "What each part of space and search adds, at 64 dimensions",
}
HEADS = {"latent_dim": "latent dimension, space", "people": "zoo people, space", "variant": "space and search"}


def table(lines: pd.DataFrame, by: str) -> str:
    """Markdown of a table's lines: score, gain and gain by nonlinearity of every row, by recogniser.

    Args:
        lines: as `evaluation.sweep_tables.compared` returns them, by all of `RECOGNIZERS`.
        by: the column that varies, "latent_dim", "people" or "variant".
    """
    first, second = (lines[lines["recognizer"] == name].set_index(KEYS) for name in RECOGNIZERS)
    titles = [each for title in RECOGNIZERS.values() for each in (title, f"gain, {title}", "by nonlinearity")]
    rows = []
    for key, one in first.sort_values("gain" if by == "variant" else [by, "variant", "seed"]).iterrows():
        row = dict(zip(KEYS, key, strict=True))
        titled = row["variant"] + (f", training seed {row['seed']}" if row["seed"] else "")
        cells = [titled if by == "variant" else f"{row[by]}, {titled}"]
        for seen in (one, second.loc[key]):
            cells += [
                f"{seen['id_score']:.3f}",
                "" if row["variant"] == PCA else _interval(seen, "gain"),
                _interval(seen, "nonlinear") if row["variant"] == VAE else "",
            ]
        rows.append(cells)
    return "\n".join(markdown_table([HEADS[by], *titles], rows))


def _interval(line: pd.Series, gain: str) -> str:
    """A gain and its interval; empty if its reference row was not measured."""
    if pd.isna(line[gain]):
        return ""
    return f"{line[gain]:+.3f} ({line[f'{gain}_low']:+.3f} to {line[f'{gain}_high']:+.3f})"


def page(tables: dict[str, pd.DataFrame]) -> str:
    """Markdown about the sweep's tables, by name."""
    out = [
        "# Gains over PCA on test people",
        "",
        "[What was found](explanation/findings.md) draws the conclusions. The tables show the paired gain in ID score",
        "over PCA of the same latent dimension and zoo, from one photo of each test person. Parentheses have 95 %",
        "intervals over people. The gain by nonlinearity is that of the VAE over function-weighted PCA. `dvc repro",
        "-sf sweep` repeats the measurement, which takes hours.",
        "",
    ]
    for name, lines in tables.items():
        title = TITLES[name]
        out += [f"## {title}", "", f"![{title}](sweep-{name}.png)", "", table(lines, SWEEPS[name]), ""]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", type=Path, default=Path("data/sweep"), help="tables of the sweep")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder of the page and its figures")
    args = parser.parse_args()
    tables = {name: pd.read_csv(args.sweep / f"{name}.csv") for name in TITLES}
    for name, lines in tables.items():
        write_bytes = methodcaller("write_bytes", png_bytes(gains(lines, SWEEPS[name])))
        write_atomically(args.out / f"sweep-{name}.png", write_bytes)
    write_atomically(args.out / "sweep.md", lambda path: path.write_text(page(tables)))


if __name__ == "__main__":
    main()
