"""Train the probe, a classifier of factors in pictures, on renders of its own people; an eighth of them test it."""

import torch

from w2wpp.files.storage import rounded, write_json
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people
from w2wpp.world.probes import accuracy, labels_of, save_probe, train_probe


def main() -> None:
    args = stage_arguments(__doc__, out="data/probe", metrics="metrics", scratch=".scratch/probe")
    params, seed, size = args.params.probe, args.params.seed, args.params.portraits.size
    people = sample_people(seed, "probe", params.people, params.photos)
    drawn = photo_folder(args.scratch, seed, "probe", params.photos, size)
    images = draw_resumably(people, size, drawn, args.params.engine)
    kept = max(1, params.people // 8)
    probe = train_probe(images[kept:].flatten(0, 1), labels_of(people[kept:]), params.steps, seed)
    shares = accuracy(probe, images[:kept].flatten(0, 1), labels_of(people[:kept]))

    save_probe(args.out / "probe.safetensors", probe.to(torch.float16))
    write_json(args.metrics / "probe.json", rounded({"accuracy": shares}))


if __name__ == "__main__":
    run_stage(main)
