"""Train the probe that reads factors off pictures, on renders of its own people; an eighth of them only check it.

The renders go through the codec first, as every generated picture has.
"""

import torch

from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import load_pipeline, reconstruct, to_images
from w2wpp.files.storage import rounded, write_json
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people
from w2wpp.world.probes import accuracy, labels_of, quantity_errors, save_probe, train_probe


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", out="data/probe", metrics="metrics", scratch=".scratch/probe")
    params, seed, size = args.params.probe, args.params.seed, args.params.portraits.size
    people = sample_people(seed, "probe", params.people, params.photos)
    drawn = photo_folder(args.scratch, seed, "probe", params.photos, size)
    photos = draw_resumably(people, size, drawn, args.params.engine).flatten(0, 1)
    images = to_images(reconstruct(load_pipeline(args.base, device()), photos))
    kept = max(1, params.people // 8)
    seen, labels = images[: kept * params.photos], labels_of(people[:kept])
    probe = train_probe(images[kept * params.photos :], labels_of(people[kept:]), params.steps, seed)

    metrics = {"accuracy": accuracy(probe, seen, labels), "error_degrees": quantity_errors(probe, seen, labels)}

    save_probe(args.out / "probe.safetensors", probe.to(torch.float16))
    write_json(args.metrics / "probe.json", rounded(metrics))


if __name__ == "__main__":
    run_stage(main)
