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

RECOGNIZERS = {"dlib": "dlib", "arcface": "ArcFace"}
TITLES = {
    "dimensions": "By latent dimension",
    "people": "By number of zoo people, at 64 dimensions",
    "rungs": "What each part of space and search adds, at 64 dimensions",
}
HEADS = {"latent_dim": "latent dimension, space", "people": "zoo people, space", "variant": "space and search"}


def table(lines: pd.DataFrame, by: str) -> str:
    """Markdown of a table's lines: score, gain and what of it nonlinearity adds, of every row, by recogniser.

    Args:
        lines: as `evaluation.sweep_tables.compared` gives them, by all of `RECOGNIZERS`.
        by: the column that varies, "latent_dim", "people" or "variant".
    """
    first, second = (lines[lines["recognizer"] == name].set_index(KEYS) for name in RECOGNIZERS)
    titles = [f"{title} | gain, {title} | by nonlinearity" for title in RECOGNIZERS.values()]
    out = [f"| {HEADS[by]} | {' | '.join(titles)} |", "|---|---:|---:|---:|---:|---:|---:|"]
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
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def _interval(line: pd.Series, gain: str) -> str:
    """A gain and its interval; nothing where the row that it is over was not measured."""
    if pd.isna(line[gain]):
        return ""
    return f"{line[gain]:+.3f} ({line[f'{gain}_low']:+.3f} to {line[f'{gain}_high']:+.3f})"


def page(tables: dict[str, pd.DataFrame]) -> str:
    """Markdown about the sweep's tables, by name."""
    out = [
        "# Gains over PCA on test people",
        "",
        "One photo of each test person; paired gain in ID score over PCA of the same latent dimension and zoo, with",
        "its 95 % interval over people, and that over function-weighted PCA: the part of it that nonlinearity adds.",
        "`dvc repro -sf sweep` measures it anew, which takes hours; [findings.md](explanation/findings.md) says",
        "what it means.",
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
