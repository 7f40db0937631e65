"""Compare VAE and PCA on the test people at several latent dimensions, training seeds and variants of the VAE.

Every row fits a space with the settings of params.yaml but for the row's own, inverts one photo of each held-out person
into it, draws the people, and lets two recognisers score the pictures, person by person against PCA at the same latent
dimension. Needs the outputs of `dvc repro`; resumes at the last finished row; three minutes a row on two cores. Writes
docs/sweep.csv and docs/sweep.png.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import torch
import yaml

from w2wpp import scoring
from w2wpp.denoising import generate
from w2wpp.evaluation import Gallery, embed_all
from w2wpp.figures import COLORS
from w2wpp.params import load_params
from w2wpp.pipeline import load_pipeline
from w2wpp.recognizers import load_recognizer
from w2wpp.runtime import device, run_stage
from w2wpp.spaces import load_space
from w2wpp.storage import (
    folder_hash,
    read_csv,
    read_pack,
    scratch_folder,
    write_atomically,
    write_csv,
    write_pack,
)

ROOT = Path(__file__).resolve().parents[1]
RECOGNIZERS = {"dlib": ("dlib", "references"),
               "arcface": (f"insightface:{ROOT / 'data/arcface/arcface.onnx'}", "second_opinion")}


@dataclass(frozen=True)
class Row:
    """A space to fit: `space` is pca or vae, `changes` those to its section of params.yaml."""

    space: str
    variant: str
    latent_dim: int
    seed: int = 0
    changes: dict = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.variant.replace(' ', '-')}-{self.latent_dim}-{self.seed}"


def rows() -> list[Row]:
    """What is compared, the most telling first."""
    out = [Row("pca", "PCA", 256), *(Row("vae", "VAE", 256, seed) for seed in range(3))]
    for latent_dim in (64, 512, 16, 128):
        out += [Row("pca", "PCA", latent_dim), Row("vae", "VAE", latent_dim)]
    return out + [Row("vae", "linear VAE", latent_dim, changes={"layers": 0}) for latent_dim in (256, 64)]


def fit_and_invert(row: Row, folder: Path) -> torch.Tensor:
    """Run the stages of a row and draw its people: uint8 [n, seeds, h, w, 3]."""
    pictures = folder / "pictures.safetensors"
    if not pictures.exists():
        settings = yaml.safe_load((ROOT / "params.yaml").read_text())
        settings[row.space] |= {"latent_dim": row.latent_dim, **row.changes}
        settings["vae"]["seed"] = row.seed
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "params.yaml").write_text(yaml.safe_dump(settings))
        params = ["--params", str(folder / "params.yaml")]
        for stage in ([f"stages/{row.space}.py", "--out", str(folder / row.space)],
                      ["stages/invert.py", "--space", row.space, "--spaces", str(folder),
                       "--out", str(folder / "found"), "--out_timing", str(folder / "timing")]):
            subprocess.run([sys.executable, *stage, *params], cwd=ROOT, check=True)
        z = read_pack(folder / "found" / row.space / "latents.safetensors")[0]["z"]
        space, params = load_space(folder / row.space / "space.safetensors"), load_params(folder / "params.yaml")
        drawn = generate(load_pipeline(ROOT / "data/base", device()), space.layout, space.decode(z),
                         [params.evaluate.prompt], params.evaluate.seeds, params.generate, row.name)
        write_pack(pictures, {"inversion": drawn[:, 0]})
    return read_pack(pictures)[0]["inversion"]


def compared(table: pd.DataFrame, bootstrap: int) -> pd.DataFrame:
    """One line per row and recogniser: ID score on the test people and paired gain over PCA, with 95 % intervals."""
    out = []
    keys = ["recognizer", "variant", "latent_dim", "seed"]
    for (recognizer, variant, latent_dim, seed), people in table.groupby(keys):
        same = (table["recognizer"] == recognizer) & (table["latent_dim"] == latent_dim) & (table["variant"] == "PCA")
        pca = table[same].set_index("person")["id_score"]
        score = people.set_index("person")["id_score"]
        if pca.empty:
            continue
        mean, low, high = scoring.bootstrap_mean(score.to_numpy(), n=bootstrap)
        gain, gain_low, gain_high = scoring.paired_gain(score.to_numpy(), pca[score.index].to_numpy(), n=bootstrap)
        out.append({"recognizer": recognizer, "variant": variant, "latent_dim": latent_dim, "seed": seed,
                    "id_score": mean, "low": low, "high": high, "gain": gain, "gain_low": gain_low,
                    "gain_high": gain_high})
    return pd.DataFrame(out).round(4)


def plot(lines: pd.DataFrame, path: Path) -> None:
    """The gain over PCA by latent dimension, one panel per recogniser, one curve per variant."""
    recognizers, variants = sorted(lines["recognizer"].unique(), reverse=True), ("VAE", "linear VAE")
    figure, axes = plt.subplots(1, len(recognizers), figsize=(5 * len(recognizers), 3.6), sharey=True, squeeze=False)
    for axis, recognizer in zip(axes[0], recognizers, strict=True):
        axis.axhline(0, color="black", linewidth=0.8)
        for shift, variant in enumerate(variants):
            shown = lines[(lines["recognizer"] == recognizer) & (lines["variant"] == variant)]
            places = shown["latent_dim"] * (1 + 0.04 * (shown["seed"] + 3 * shift))
            below, above = shown["gain"] - shown["gain_low"], shown["gain_high"] - shown["gain"]
            axis.errorbar(places, shown["gain"], [below, above], fmt="o", label=variant,
                          color=COLORS["vae"] if variant == "VAE" else "0.45")
        axis.set_xscale("log", base=2)
        axis.set_xticks(sorted(lines["latent_dim"].unique()), sorted(lines["latent_dim"].unique()))
        axis.set(title=f"scored by {recognizer}", xlabel="latent dimension")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0, 0].set_ylabel("gain in ID score over PCA\n(95 % interval)")
    axes[0, 0].legend(frameon=False)
    figure.tight_layout()
    write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--scratch", type=Path, default=ROOT / ".scratch/sweep")
    args = parser.parse_args()
    params = load_params(ROOT / "params.yaml")
    galleries = {name: (load_recognizer(spec), Gallery.load(ROOT / "data" / folder / "gallery.safetensors"))
                 for name, (spec, folder) in RECOGNIZERS.items()}
    scratch = scratch_folder(args.scratch, params=params.model_dump(exclude={"engine"}),
                             base=folder_hash(ROOT / "data/base"), weights=folder_hash(ROOT / "data/weights"))
    tables = []
    for row in rows():
        pictures = fit_and_invert(row, scratch / row.name)
        for name, (recognizer, gallery) in galleries.items():
            path = scratch / row.name / f"{name}.csv"
            if not path.exists():
                scores = gallery.id_scores(embed_all(recognizer, pictures))
                write_csv(path, pd.DataFrame({"person": gallery.people, "id_score": scores})[gallery.rows("test")])
            tables.append(read_csv(path).assign(recognizer=name, variant=row.variant, latent_dim=row.latent_dim,
                                                seed=row.seed))
        lines = compared(pd.concat(tables), params.evaluate.bootstrap)
        write_csv(ROOT / "docs/sweep.csv", lines)
        done = (lines["variant"] == row.variant) & (lines["latent_dim"] == row.latent_dim) & (lines["seed"] == row.seed)
        print(lines[done].to_string(header=False, index=False), flush=True)
    plot(lines, ROOT / "docs/sweep.png")


if __name__ == "__main__":
    run_stage(main)
