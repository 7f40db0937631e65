"""Write the report: reports/index.html, one page that needs no other file, and its figures as PNGs.

If the held-out people's photos are from a folder, there are no true LoRAs of them and no photos of zoo people. The
report then leaves out their figures and says so.
"""

from argparse import Namespace

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from w2wpp.evaluation.comparison import of_measure, read_measures
from w2wpp.evaluation.editing import read_edits
from w2wpp.faces.portraits import read_portraits
from w2wpp.files.storage import read_csv, read_json, read_pack, write_atomically
from w2wpp.lora.weights import read_weights
from w2wpp.report import page as report
from w2wpp.report.curves import explained_variance, inversion_loss, kl_curves
from w2wpp.report.edits import edit_sheet, editing_curves, together_sheet
from w2wpp.report.scores import SWEEPS, gains, ladder, trade
from w2wpp.report.sheets import (
    SHOWN,
    SPACES,
    Sheets,
    interpolation_figure,
    inversion_figures,
    latent_figure,
    outside_figures,
    sampling_figure,
    true_lora_figures,
    world_figures,
)
from w2wpp.report.style import png_bytes
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import BASELINE, METHODS


def main() -> None:
    args = stage_arguments(
        __doc__,
        portraits="data/portraits",
        zoo="data/zoo/people",
        weights="data/weights",
        spaces="data/spaces",
        samples="data/samples",
        interpolations="data/interpolations",
        edits="data/edits",
        inversions="data/inversions",
        references="data/references",
        evaluations="data/evaluations",
        comparison="data/comparison",
        scores="metrics",
        styles="data/outside",
        sweep="data/sweep",
        throughput="benchmarks/batched_training.json",
        out="reports",
    )
    require_photos(args.params)
    rendered = args.params.portraits.source == "rendered"
    measured = (
        "world",
        "base",
        "zoo",
        *METHODS,
        "comparison",
        "second_opinion",
        *(["probe", "outside"] if rendered else []),
    )
    metrics = {name: read_json(args.scores / f"{name}.json") for name in measured}
    throughput = read_json(args.throughput) if rendered else {}
    if throughput.get("dimension") == metrics["zoo"]["dimension"]:
        metrics["throughput"] = throughput
    training = read_json(args.spaces / "vae" / "training.json")
    variance = read_json(args.spaces / "pca" / "explained_variance.json")
    sheets, zoo = read_sheets(args), read_portraits(args.zoo) if rendered else None

    figures = world_figures(sheets)
    figures |= true_lora_figures(sheets) if rendered else {}
    figures |= {f"sampling_{space}": sampling_figure(args.samples, space) for space in SPACES}
    figures["interpolation"] = interpolation_figure(args.interpolations, zoo)
    figures |= edit_figures(args)
    figures |= inversion_figures(sheets)
    if rendered:
        figures |= outside_figures(args.styles, sheets)
        figures["latent_space"] = latent_figure(args.spaces, read_weights(args.weights), zoo, sheets.held_out)
    figures["kl_curves"] = kl_curves(pd.DataFrame(training["history"]))
    figures["explained_variance"] = explained_variance(
        np.array(variance["shares"]), metrics["pca"]["latent_dim"], variance["kept"]
    )
    figures["inversion_loss"] = inversion_loss(
        {space: read_pack(args.inversions / space / "latents.safetensors")[0]["losses"].numpy() for space in SPACES}
    )
    rungs = read_csv(args.comparison / "ladder.csv", ["rung", "measure", "mean", "low", "high"])
    figures["ladder"] = ladder(
        rungs[rungs["measure"] == "id_score"], metrics["world"]["id_floor"], metrics["world"]["id_ceiling"]
    )
    if rendered:
        figures["trade"] = trade(rungs)
    compared = read_json(args.comparison / "compared.json")
    sweep = compared["sweep"]
    for table in sweep["tables"]:
        lines = read_csv(args.sweep / f"{table}.csv", ["recognizer", "variant", SWEEPS[table], "gain"])
        figures[f"sweep_{table}"] = gains(lines, SWEEPS[table])

    pngs = {name: png_bytes(figure, palette=256) for name, figure in figures.items()}
    verdict, sentence = report.headline(metrics["comparison"], args.params.split, compared["unequal"])
    page = report.render_html(
        pngs,
        rendered=rendered,
        verdict=verdict,
        sentence=sentence,
        measures=report.measure_rows({s: metrics[s] for s in SPACES}),
        facts=report.world_rows(metrics),
        samples=report.sampling_rows(metrics, SPACES),
        outside=report.outside_rows(metrics) if rendered else [],
        metrics=metrics,
        params=args.params,
        training=training,
        methods=METHODS,
        baseline=BASELINE,
        sweep=sweep,
        same_dimensions=len({metrics[name]["latent_dim"] for name in METHODS}) == 1,
        kept_variance=variance["kept"],
        shown={"inversion": min(SHOWN, len(sheets.scores)), "people": len(sheets.scores)},
    )
    for name, png in pngs.items():
        write_atomically(args.out / "figures" / f"{name}.png", lambda path, png=png: path.write_bytes(png))
    write_atomically(args.out / "index.html", lambda path: path.write_text(page, "utf-8"))


def edit_figures(args: Namespace) -> dict[str, Figure]:
    """Sheets of edits where the zoo has labels, and curves where edits were measured."""
    sheets = {f"edits_{space}": edit_sheet(args.edits, space) for space in SPACES}
    sheets["edits_together"] = together_sheet(args.edits, SPACES)
    scores = {space: read_edits(args.evaluations / space / "edits.csv") for space in SPACES}
    measured = {space: table for space, table in scores.items() if table is not None}
    curves = {"editing": editing_curves(measured)} if len(measured) == len(SPACES) else {}
    return {name: sheet for name, sheet in sheets.items() if sheet} | curves


def read_sheets(args: Namespace) -> Sheets:
    """Photos, pictures and scores of the held-out people, from the outputs of the stages."""
    pictures_of = {
        rung: pictures.numpy() for rung, pictures in read_pack(args.references / "pictures.safetensors")[0].items()
    }
    for space in SPACES:
        pack, _ = read_pack(args.evaluations / space / "pictures.safetensors")
        pictures_of |= {f"{space} {rung}": pictures.numpy() for rung, pictures in pack.items()}
    scores = of_measure(read_measures([args.comparison / "scores.csv"]), "id_score")
    floor = read_pack(args.references / "gallery.safetensors")[1]["floor"]
    held_out = read_portraits(args.portraits).of_split(args.params.split)
    return Sheets(held_out, args.params.portraits.score_photos, pictures_of, scores, floor)


if __name__ == "__main__":
    run_stage(main)
