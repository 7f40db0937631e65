"""Write the report: reports/index.html, one page that needs no other file, and its figures as PNGs.

Where the held-out people's photos are from a folder, nobody has true LoRAs of them and no zoo person a photo: figures
that show either are left out, and the page says so.
"""

import numpy as np
import pandas as pd

from w2wpp import figures as fig
from w2wpp import report
from w2wpp.figures import COLORS, LABELS, Column
from w2wpp.params import require_photos
from w2wpp.populations import read_portraits
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.spaces import load_space
from w2wpp.storage import read_csv, read_json, read_pack, write_atomically
from w2wpp.weights import read_weights

SPACES = ("pca", "vae")
BESIDE = {"true": "true LoRA, several photos", "one-photo": "DreamBooth, one photo"}   # inversions, on sheets
PEOPLE, SHOWN, PAIRS, SAMPLES, CLASS_SAMPLES, TRUE_LORAS = 56, 10, 6, 12, 32, 16


def main() -> None:
    args = stage_arguments(__doc__, portraits="data/portraits", zoo="data/zoo/people", weights="data/weights",
                           spaces="data/spaces", samples="data/samples", interpolations="data/interpolations",
                           inversions="data/inversions", references="data/references",
                           evaluations="data/evaluations", comparison="data/comparison", scores="metrics",
                           sweeps="docs", throughput="benchmarks/batched_training.json", out="reports")
    require_photos(args.params)
    rendered, held_out = args.params.portraits.source == "rendered", read_portraits(args.portraits)
    measured = ("world", "base", "zoo", "pca", "vae", "comparison", "second_opinion", *(["probe"] if rendered else []))
    metrics = {name: read_json(args.scores / f"{name}.json") for name in measured}
    throughput = read_json(args.throughput)
    if throughput["dimension"] == metrics["zoo"]["dimension"]:
        metrics["throughput"] = throughput
    photos, real = held_out.images.numpy(), held_out.images[:, -args.params.portraits.score_photos:].numpy()
    gallery = read_pack(args.references / "gallery.safetensors")[1]
    made = {rung: pictures.numpy() for rung, pictures in read_pack(args.references / "pictures.safetensors")[0].items()}
    for space in SPACES:
        pack, _ = read_pack(args.evaluations / space / "pictures.safetensors")
        made |= {f"{space} {rung}": pictures.numpy() for rung, pictures in pack.items()}
    rungs = read_csv(args.comparison / "ladder.csv", ["split", "rung", "id_score", "low", "high"])
    known = [rung for rung in fig.RUNGS if rung in made]
    scores = read_csv(args.comparison / "scores.csv", ["person", "split", *known]).set_index("person")
    training = read_json(args.spaces / "vae" / "training.json")
    variance = read_json(args.spaces / "pca" / "explained_variance.json")

    def column(title: str, people: list[str], rung: str, count: int) -> Column:
        """Pictures of people by one rung of the ladder, their scores below."""
        rows = [held_out.names.index(person) for person in people]
        notes = [report.score_text(scores[rung].get(person, np.nan), gallery["floor"]) for person in people]
        return Column(title, made[rung][rows, :count], notes, COLORS.get(rung.split()[0], fig.INK))

    def photo_column(title: str, people: list[str], pictures: np.ndarray) -> Column:
        return Column(title, pictures[[held_out.names.index(person) for person in people]])

    test = scores[scores["split"] == "test"]
    gain = test["vae inversion"] - test["pca inversion"]
    figures = {}

    figures["people"] = fig.contact_sheet(photos[np.array(held_out.splits) == "test"][:PEOPLE, 0], across=8)
    figures["base"] = fig.contact_sheet(made["class"][:CLASS_SAMPLES], across=8)
    if rendered:
        halves = report.side_by_side(report.spread(test["true"], TRUE_LORAS), single=6)
        figures["true_loras"] = fig.picture_sheet([each for people in halves for each in (
            photo_column("real photos", people, real[:, :2]), column("true LoRA", people, "true", 4))])
        people = report.spread(test["true"], 8)
        figures["reconstruction"] = fig.picture_sheet(
            [photo_column("real photos", people, real[:, :2]), column("true LoRA", people, "true", 2),
             *(column(f"through {LABELS[space]}", people, f"{space} reconstruction", 2) for space in SPACES)], people)

    for space in SPACES:
        tensors, meta = read_pack(args.samples / space / "pictures.safetensors")
        drawn = tensors["pictures"][:SAMPLES, :, :1].numpy()  # [people, prompts, 1, h, w, 3]
        prompts = [prompt.replace("a photo of ", "") for prompt in meta["prompts"]]
        columns = [[Column(prompt, half[:, number], color=COLORS[space]) for number, prompt in enumerate(prompts)]
                   for half in report.side_by_side(drawn, single=6)]
        gap = Column("", columns[0][0].pictures[:, :0])
        figures[f"sampling_{space}"] = fig.picture_sheet([*columns[0], *([gap, *columns[1]] if columns[1:] else [])])
    zoo = read_portraits(args.zoo) if rendered else None
    figures["interpolation"] = interpolation_figure(args.interpolations, zoo)

    people = report.spread(gain, SHOWN)
    figures["inversion"] = fig.picture_sheet(
        [photo_column("the one photo", people, photos[:, :1]),
         *(column(f"{LABELS[space]} inversion", people, f"{space} inversion", 2) for space in SPACES),
         *(column(title, people, rung, 2) for rung, title in BESIDE.items() if rung in made),
         photo_column("other real photos", people, real[:, :2])],
        [f"{person}\ngain {gain[person]:+.2f}" for person in people])
    for space in SPACES:
        people = report.spread(test[f"{space} inversion"], 8)
        figures[f"inversion_{space}"] = fig.picture_sheet(
            [photo_column("the one photo", people, photos[:, :1]),
             column(f"{LABELS[space]} inversion", people, f"{space} inversion", 4),
             photo_column("other real photos", people, real[:, :2])], people)

    if rendered:
        figures["latent_space"] = latent_figure(args.spaces, read_weights(args.weights), zoo, held_out)
    figures["kl_curves"] = fig.kl_curves(pd.DataFrame(training["history"]))
    figures["explained_variance"] = fig.explained_variance(np.array(variance["shares"]), metrics["pca"]["latent_dim"],
                                                           variance["kept"])
    figures["inversion_loss"] = fig.inversion_loss(
        {space: read_pack(args.inversions / space / "latents.safetensors")[0]["losses"].numpy() for space in SPACES})
    figures["ladder"] = fig.ladder(rungs[rungs["split"] == "test"], metrics["world"]["id_floor"],
                                  metrics["world"]["id_ceiling"])

    if rendered:
        for sweep, by in fig.SWEEPS.items():
            lines = read_csv(args.sweeps / f"sweep-{sweep}.csv", ["recognizer", "variant", by, "gain"])
            figures[f"sweep_{sweep}"] = fig.gains(lines, by)

    pngs = {name: fig.png_bytes(figure, palette=256) for name, figure in figures.items()}
    verdict, sentence = report.headline(metrics["comparison"])
    page = report.render_html(
        pngs, rendered=rendered, verdict=verdict, sentence=sentence,
        measures=report.measure_rows({s: metrics[s] for s in SPACES}),
        facts=report.world_rows(metrics), metrics=metrics, params=args.params, training=training, labels=LABELS,
        kept_variance=variance["kept"],
        shown={"inversion": min(SHOWN, len(gain)), "test": len(test)})
    for name, png in pngs.items():
        write_atomically(args.out / "figures" / f"{name}.png", lambda path, png=png: path.write_bytes(png))
    write_atomically(args.out / "index.html", lambda path: path.write_text(page, "utf-8"))


def interpolation_figure(folder, zoo):
    """Strips of both spaces under one another, between real photos of the two zoo people, if there are any."""
    strips, row_titles, row_colors, ends = [], [], [], []
    packs = {space: read_pack(folder / space / "pictures.safetensors") for space in SPACES}
    for pair, names in enumerate(packs["pca"][1]["people"][:PAIRS]):
        for space, (tensors, _) in packs.items():
            strips.append(tensors["pictures"][pair].numpy())
            ends += [[zoo.images[zoo.names.index(name), 0].numpy() for name in names]] if zoo else []
            row_titles.append(space.upper())
            row_colors.append(COLORS[space])
    columns = [Column("blend of the two LoRAs", np.array(strips))]
    if zoo:
        first, last = np.split(np.array(ends), 2, axis=1)
        columns = [Column("real photo", first), *columns, Column("real photo", last)]
    return fig.picture_sheet(columns, row_titles, row_colors)


def latent_figure(folder, data, zoo, held_out):
    """Zoo people, and the true LoRAs of held-out people, in both spaces."""
    spaces = {space: load_space(folder / space / "space.safetensors") for space in SPACES}
    facts = pd.concat([zoo.manifest, held_out.manifest]).drop_duplicates("person").set_index("person")
    names = data.names("zoo") + data.names("true")
    planes = {name: fig.latent_plane(np.concatenate([space.encode(data.of(role)).numpy() for role in ("zoo", "true")]),
                                     report.latent_effects(space, data.std)) for name, space in spaces.items()}
    return fig.latent_space(planes, np.array([name not in set(data.names("zoo")) for name in names]),
                            report.people_factors(facts.loc[names]))


if __name__ == "__main__":
    run_stage(main)
