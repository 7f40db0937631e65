"""Train the restorer, which tells from a picture of any kind what a photo would show; some of its people only check it.

The people are those of the stage `probe`. Photos are altered in ways of their own, none of which is a style that the
stage `outside` tests.
"""

import torch

from w2wpp.compute.batches import in_resumable_batches
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.faces.alterations import altered_batch
from w2wpp.files.storage import folder_hash, rounded, write_json
from w2wpp.inversion.restoration import save_restorer, train_restorer, unexplained
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people

PHOTOS_AT_ONCE = 512
CHECKING = 128  # people, or an eighth of them where they are few


def main() -> None:
    args = stage_arguments(
        __doc__, base="data/base", out="data/restorer", metrics="metrics", scratch=".scratch/restorer"
    )
    params, seed, size = args.params.restorer, args.params.seed, args.params.portraits.size
    pipe = load_pipeline(args.base, device())
    people = sample_people(seed, "probe", params.people, params.photos)
    drawn = photo_folder(args.scratch, seed, "probe", params.photos, size)
    photos = draw_resumably(people, size, drawn, args.params.engine).flatten(0, 1)
    recipe = {"base": folder_hash(args.base), "seed": seed, "group": "probe", "photos": params.photos}
    latents = in_resumable_batches(
        len(photos),
        PHOTOS_AT_ONCE,
        scratch_folder(args.scratch, "latents", **recipe),
        lambda first, count: {"latents": encode_images(pipe, photos[first : first + count])},
    )["latents"]
    kept = min(CHECKING, params.people // 8) * params.photos
    restorer = train_restorer(photos[kept:], latents[kept:], altered_batch, params.steps, seed)

    photos, latents = photos[:kept], latents[:kept]
    pictures = {"photo": photos, "altered": altered_batch(photos, torch.Generator().manual_seed(seed))}
    save_restorer(args.out / "restorer.safetensors", restorer.to(torch.float16))
    restorer = restorer.float()
    shares = {name: unexplained(restorer, some, encode_images(pipe, some), latents) for name, some in pictures.items()}
    write_json(args.metrics / "restorer.json", rounded({"unexplained": shares}))


if __name__ == "__main__":
    run_stage(main)
