"""Train the second recogniser, an ArcFace network on photos of the base people, for insightface to run."""

import torch

from w2wpp.faces.dlib import aligned_faces
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.arcface import export_onnx, train_arcface
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people


def main() -> None:
    args = stage_arguments(__doc__, out="data/arcface", scratch=".scratch/arcface")
    base, size, seed = args.params.base, args.params.portraits.size, args.params.seed
    people = sample_people(seed, "base", base.people, base.photos)
    drawn = photo_folder(args.scratch, seed, "base", base.photos, size)
    images = draw_resumably(people, size, drawn, args.params.engine).flatten(0, 1)
    faces, rows = aligned_faces(images.numpy(), progress="faces")
    network = train_arcface(torch.from_numpy(faces), torch.from_numpy(rows // base.photos), args.params.arcface, seed)
    export_onnx(args.out / "arcface.onnx", network)


if __name__ == "__main__":
    run_stage(main)
