"""Compare spaces on the test people: at several latent dimensions, with what each part of the VAE adds, by zoo size.

Every row fits a space with the settings of params.yaml but for the row's own, inverts one photo of each held-out person
into it, draws the people, and lets two recognisers score the pictures, person by person against PCA, and against
function-weighted PCA, which is what the VAE is without nonlinearity. Needs the outputs of `dvc repro`; resumes at the
last finished row; two to three minutes a row on two cores. Writes docs/sweep-<group>.csv and .png, and docs/sweep.md
about all groups; rows of an earlier run that are not asked for again stay in the CSV.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
import yaml

from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, embed_all
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import folder_hash, read_csv, read_pack, write_atomically, write_csv, write_pack
from w2wpp.report.figures import SWEEPS, gains, png_bytes
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.spaces.registry import load_space

ROOT = Path(__file__).resolve().parents[1]
RECOGNIZERS = {"dlib": ("dlib", "references"),
               "arcface": (f"insightface:{ROOT / 'data/arcface/arcface.onnx'}", "second_opinion")}
KEYS = ["variant", "latent_dim", "seed", "people"]
OVER = {"gain": "PCA", "nonlinear": "function-weighted PCA"}
TITLES = {"dimensions": "By latent dimension", "people": "By number of zoo people, at 64 dimensions",
          "rungs": "What each part of space and search adds, at 64 dimensions"}
HEADS = {"latent_dim": "latent dimension, space", "people": "zoo people, space", "variant": "space and search"}
FROM_THE_MEAN = {"photo_encoder.photos": 0}
NO_SEARCH = {"invert.steps": 1, "invert.lr": 1e-9}
BY_VARIANCE = {"pca.within_person_ridge": None, "vae.within_person_ridge": None}
W2W_SEARCH = FROM_THE_MEAN | BY_VARIANCE | {
    "invert.whitened": False, "invert.lr": 0.1, "invert.adam_epsilon": 1e-8, "invert.steps": 400,
    "invert.prior_weight": 0.0, "invert.region": [0.0, 0.0, 1.0, 1.0]}


@dataclass(frozen=True)
class Row:
    """A space to fit and search: `changes` to params.yaml by dotted key, beside latent dimension, seed and people.

    Attributes:
        people: of the zoo, that the space learns from.
    """

    space: str
    variant: str
    latent_dim: int
    seed: int = 0
    people: int = 2000
    changes: dict = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        return f"{self.variant.replace(',', '').replace(' ', '-')}-{self.latent_dim}-{self.seed}-{self.people}"


def spaces(latent_dim: int, **how) -> list[Row]:
    """PCA, the VAE, and what the VAE is before training: the space of the same metric without nonlinearity."""
    # Each as it did best on people left out of the zoo: PCA of many dimensions by variance alone.
    return [Row("pca", "PCA", latent_dim, changes={} if latent_dim < 256 else BY_VARIANCE, **how),
            Row("vae", "function-weighted PCA", latent_dim, changes={"vae.epochs": 1}, **how),
            Row("vae", "VAE", latent_dim, **how)]


def rungs(latent_dim: int) -> list[Row]:
    """What each part adds, from the recipe of weights2weights to the VAE."""
    return [*spaces(latent_dim),
            Row("pca", "PCA, by variance alone", latent_dim, changes=BY_VARIANCE),
            Row("vae", "function-weighted PCA, by variance alone", latent_dim, changes=BY_VARIANCE | {"vae.epochs": 1}),
            Row("vae", "VAE, by variance alone", latent_dim, changes=BY_VARIANCE),
            Row("vae", "linear VAE", latent_dim, changes={"vae.layers": 0}),
            Row("vae", "VAE without KL", latent_dim, changes={"vae.kl.weight": 0.0}),
            Row("vae", "VAE of weights", latent_dim, changes={"vae.metric": "weights"}),
            Row("vae", "VAE in half the steps", latent_dim, changes={"invert.steps": 25}),
            Row("pca", "PCA in half the steps", latent_dim, changes={"invert.steps": 25}),
            Row("vae", "VAE, no search", latent_dim, changes=NO_SEARCH),
            Row("pca", "PCA, no search", latent_dim, changes=NO_SEARCH),
            Row("vae", "VAE, searched from the mean", latent_dim, changes=FROM_THE_MEAN),
            Row("pca", "PCA, searched from the mean", latent_dim, changes=FROM_THE_MEAN),
            Row("pca", "PCA, searched as in w2w", latent_dim, changes=W2W_SEARCH)]


GROUPS = {
    "dimensions": [*(row for k in (8, 16, 32, 64, 128, 256, 512, 1999) for row in spaces(k)),
                   *(Row("vae", "VAE", k, seed) for k in (16, 64, 128, 256) for seed in (1, 2))],
    "rungs": rungs(64),
    "people": [row for people in (128, 256, 512, 1024, 2000) for row in spaces(64, people=people)],
}


def settings_of(row: Row) -> dict:
    """params.yaml with the row's changes."""
    settings = load_params(ROOT / "params.yaml").model_dump(mode="json")
    changes = {f"{row.space}.latent_dim": row.latent_dim, "vae.seed": row.seed, "flatten.people": row.people}
    for key, value in (changes | row.changes).items():
        *sections, last = key.split(".")
        section = settings
        for name in sections:
            section = section[name]
        section[last] = value
    return settings


def fit_and_invert(row: Row, folder: Path) -> torch.Tensor:
    """Run the stages of a row and draw its people: uint8 [n, seeds, h, w, 3]."""
    pictures = folder / "pictures.safetensors"
    if not pictures.exists():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings_of(row)))
        for stage in (["stages/flatten.py", "--out", str(folder / "weights")],
                      [f"stages/{row.space}.py", "--weights", str(folder / "weights"),
                       "--out", str(folder / row.space)],
                      ["stages/photo_encoder.py", "--space", row.space, "--spaces", str(folder),
                       "--weights", str(folder / "weights"), "--out", str(folder / "encoders")],
                      ["stages/invert.py", "--space", row.space, "--spaces", str(folder),
                       "--encoders", str(folder / "encoders"), "--out", str(folder / "found"),
                       "--out_timing", str(folder / "timing")]):
            subprocess.run([sys.executable, *stage, "--params", str(folder / "params.yaml")], cwd=ROOT, check=True)
        z = read_pack(folder / "found" / row.space / "latents.safetensors")[0]["z"]
        space, params = load_space(folder / row.space / "space.safetensors"), load_params(folder / "params.yaml")
        drawn = generate(load_pipeline(ROOT / "data/base", device()), space.layout, space.decode(z),
                         [params.evaluate.prompt], params.evaluate.seeds, params.generate, row.name)
        write_pack(pictures, {"inversion": drawn[:, 0]})
    return read_pack(pictures)[0]["inversion"]


def compared(scores: dict[Row, dict[str, pd.Series]], bootstrap: int) -> pd.DataFrame:
    """One line per row and recogniser: ID score on the test people, and paired gains, each with its 95 % interval.

    Args:
        scores: by row and recogniser, the ID scores by person. Gains are over the rows that `OVER` names, of the same
            latent dimension and number of people, and not a number where these are not there yet.
    """
    out = []
    for row, by_recognizer in scores.items():
        for recognizer, score in by_recognizer.items():
            line = {"recognizer": recognizer, **{key: getattr(row, key) for key in KEYS}}
            line |= named("id_score", scoring.bootstrap_mean(score.to_numpy(), n=bootstrap))
            for what, variant in OVER.items():
                for base in scores:
                    if (base.variant, base.latent_dim, base.people) == (variant, row.latent_dim, row.people):
                        over = scores[base][recognizer][score.index].to_numpy()
                        line |= named(what, scoring.paired_gain(score.to_numpy(), over, n=bootstrap))
            out.append(line)
    return pd.DataFrame(out).round(4)


def named(what: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    """Columns of a mean and its interval."""
    return dict(zip((what, f"{what}_low", f"{what}_high"), estimate, strict=True))


def table(lines: pd.DataFrame, by: str) -> str:
    """Markdown of a group's lines: score, gain and what of it nonlinearity adds, of every row, by recogniser."""
    first, second = (lines[lines["recognizer"] == name].set_index(KEYS) for name in RECOGNIZERS)
    out = [f"| {HEADS[by]} | dlib | gain, dlib | by nonlinearity | ArcFace | gain, ArcFace | by nonlinearity |",
           "|---|---:|---:|---:|---:|---:|---:|"]
    for key, one in first.sort_values("gain" if by == "variant" else [by, "variant", "seed"]).iterrows():
        row = dict(zip(KEYS, key, strict=True))
        titled = row["variant"] + (f", training seed {row['seed']}" if row["seed"] else "")
        cells = [titled if by == "variant" else f"{row[by]}, {titled}"]
        for seen in (one, second.loc[key]):
            cells += [f"{seen['id_score']:.3f}", "" if row["variant"] == OVER["gain"] else interval(seen, "gain"),
                      interval(seen, "nonlinear") if row["variant"] == "VAE" else ""]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out)


def interval(line: pd.Series, what: str) -> str:
    """Markdown of a gain and its interval; nothing where the row that it is over was not measured."""
    if pd.isna(line[what]):
        return ""
    return f"{line[what]:+.3f} ({line[f'{what}_low']:+.3f} to {line[f'{what}_high']:+.3f})"


def page(folder: Path) -> str:
    """Markdown about all groups that have a CSV in `folder`."""
    out = ["# Gains over PCA on test people", "",
           "One photo of each test person; paired gain in ID score over PCA of the same latent dimension and zoo, with",
           "its 95 % interval over people, and that over function-weighted PCA: the part of it that nonlinearity adds.",
           "`python benchmarks/sweep.py dimensions` (or `people`, `rungs`) measures it anew;",
           "[findings.md](explanation/findings.md) says what it means.", ""]
    for group, title in TITLES.items():
        path = folder / f"sweep-{group}.csv"
        if path.exists():
            out += [f"## {title}", "", f"![{title}]({path.stem}.png)", "", table(pd.read_csv(path), SWEEPS[group]), ""]
    return "\n".join(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("group", choices=GROUPS, help="what is compared")
    parser.add_argument("--latent-dim", type=int, nargs="+", help="of the group, rows of these alone")
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch/sweep", help="resume state")
    args = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    galleries = {name: (load_recognizer(spec), Gallery.load(ROOT / "data" / folder / "gallery.safetensors"))
                 for name, (spec, folder) in RECOGNIZERS.items()}
    scratch = scratch_folder(args.scratch, params=params.model_dump(), base=folder_hash(ROOT / "data/base"),
                             zoo=folder_hash(ROOT / "data/zoo"))
    path, scores = ROOT / f"docs/sweep-{args.group}.csv", {}
    earlier = pd.read_csv(path) if path.exists() else pd.DataFrame()
    for row in GROUPS[args.group]:
        if args.latent_dim and row.latent_dim not in args.latent_dim:
            continue
        pictures, scores[row] = fit_and_invert(row, scratch / row.name), {}
        for name, (recognizer, gallery) in galleries.items():
            kept = scratch / row.name / f"{name}.csv"
            if not kept.exists():
                found = gallery.id_scores(embed_all(recognizer, pictures))
                write_csv(kept, pd.DataFrame({"person": gallery.people, "id_score": found})[gallery.rows("test")])
            scores[row][name] = read_csv(kept).set_index("person")["id_score"]
        lines = compared(scores, params.evaluate.bootstrap)
        all_lines = pd.concat([earlier, lines]).drop_duplicates(["recognizer", *KEYS], keep="last")
        write_csv(path, all_lines.sort_values(["recognizer", *KEYS]))
        print(lines.tail(len(galleries)).to_string(header=False, index=False), flush=True)
    png = png_bytes(gains(pd.read_csv(path), SWEEPS[args.group]))
    write_atomically(path.with_suffix(".png"), lambda temporary: temporary.write_bytes(png))
    write_atomically(ROOT / "docs/sweep.md", lambda temporary: temporary.write_text(page(ROOT / "docs")))


if __name__ == "__main__":
    run_stage(main)
