"""Score one-photo inversions and references again, with a recogniser that took no part in training or tuning.

second_recognizer names it: the network of the arcface stage, or another one.
"""

from w2wpp.evaluation.gallery import build_gallery
from w2wpp.evaluation.protocol import ModelPictures, identity_measures, measured, summary
from w2wpp.evaluation.references import world_metrics
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import read_pack, rounded, write_csv, write_json
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import METHODS

REFERENCES = ("nearest", "one-photo", "true", "photo")


def main() -> None:
    args = stage_arguments(
        __doc__,
        arcface="data/arcface",
        portraits="data/portraits",
        zoo="data/zoo/people",
        references="data/references",
        evaluations="data/evaluations",
        out="data/second_opinion",
        metrics="metrics",
    )
    require_photos(args.params)
    second, rendered = args.params.second_recognizer, args.params.portraits.source == "rendered"
    bootstrap = args.params.evaluate.bootstrap
    recognizer = load_recognizer(
        f"insightface:{args.arcface / 'arcface.onnx'}" if second == "arcface" else second, progress="faces"
    )
    held_out = read_portraits(args.portraits).of_split(args.params.split)
    zoo = read_portraits(args.zoo if rendered else args.references / "zoo")
    gallery = build_gallery(held_out, args.params.portraits.score_photos, zoo, recognizer)
    gallery.save(args.out / "gallery.safetensors")

    references = read_pack(args.references / "pictures.safetensors")[0]
    pictures = {rung: ModelPictures.of(references, rung) for rung in REFERENCES if rung in references}
    for space in METHODS:
        found = read_pack(args.evaluations / space / "pictures.safetensors")[0]
        found_rungs = [rung for rung in ("inversion", "refined") if rung in found]
        pictures |= {f"{space} {rung}": ModelPictures.of(found, rung) for rung in found_rungs}
    tables, summaries = {}, {}
    for rung, drawn in pictures.items():
        table, plain = identity_measures(drawn, gallery, recognizer)
        tables[rung] = table.assign(person=gallery.people)
        summaries[rung.replace(" ", "_")] = gallery.summary(plain, bootstrap) | summary(table, bootstrap)

    write_csv(args.out / "scores.csv", measured(tables))
    write_json(
        args.metrics / "second_opinion.json",
        rounded(
            {
                "id_floor": gallery.floor,
                "id_ceiling": gallery.ceiling,
                "verification_auc": world_metrics(gallery)["verification_auc"],
            }
            | summaries
        ),
    )


if __name__ == "__main__":
    run_stage(main)
