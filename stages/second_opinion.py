"""Score one-photo inversions and references again, with a recogniser that took no part in training or tuning.

second_recognizer names it: the network of the arcface stage, or another one.
"""

import numpy as np

from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import build_gallery, embed_all, score_pictures
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import read_pack, rounded, write_csv, write_json
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import METHODS

REFERENCES = ("nearest", "one-photo", "true")


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
    recognizer = load_recognizer(
        f"insightface:{args.arcface / 'arcface.onnx'}" if second == "arcface" else second, progress="faces"
    )
    held_out = read_portraits(args.portraits)
    zoo = read_portraits(args.zoo if rendered else args.references / "zoo")
    real = embed_all(recognizer, held_out.images[:, -args.params.portraits.score_photos :])
    gallery = build_gallery(held_out, real, embed_all(recognizer, zoo.images[:, 0]), recognizer.name)
    gallery.save(args.out / "gallery.safetensors")

    references = read_pack(args.references / "pictures.safetensors")[0]
    pictures = {rung: references[rung] for rung in REFERENCES if rung in references}
    for space in METHODS:
        pictures[f"{space} inversion"] = read_pack(args.evaluations / space / "pictures.safetensors")[0]["inversion"]
    summaries, scores = score_pictures(pictures, gallery, recognizer, args.params.evaluate.bootstrap)
    summaries = {rung.replace(" ", "_"): summary for rung, summary in summaries.items()}

    test = np.array(held_out.splits) == "test"
    write_csv(args.out / "scores.csv", scores)
    write_json(
        args.metrics / "second_opinion.json",
        rounded(
            {
                "id_floor": gallery.floor,
                "id_ceiling": gallery.ceiling,
                "verification_auc": scoring.verification_auc(real.vectors[test], real.found[test], gallery.mean),
            }
            | summaries
        ),
    )


if __name__ == "__main__":
    run_stage(main)
