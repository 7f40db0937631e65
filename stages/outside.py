"""Invert drawings, paintings, prints and the like of held-out people into one space, and score what is drawn then.

A restorer says what a photo would have shown, and how sure it is of each latent: the photo encoder guesses from these
latents, and the search looks at them as far as they are sure. What is drawn is scored against the person's real photos.
"""

from functools import partial

import pandas as pd

from w2wpp.compute.batches import finish, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.dreambooth import photo_prompts
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.evaluation.gallery import Gallery
from w2wpp.evaluation.outside import Bench, RealPhotos
from w2wpp.evaluation.style_probe import StyleProbe
from w2wpp.faces.portraits import read_portraits
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.faces.styles import STYLES
from w2wpp.files.storage import file_hash, folder_hash, read_pack, rounded, write_csv, write_json, write_pack
from w2wpp.inversion.held_out import search_batches
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.refinement import found_weights, invert_batch
from w2wpp.inversion.restoration import load_restorer
from w2wpp.inversion.search import EncodedPhotos, SearchOptions
from w2wpp.run.params import require_photos
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import load_space


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        base="data/base",
        portraits="data/portraits",
        spaces="data/spaces",
        encoders="data/photo_encoders",
        restorer="data/restorer",
        references="data/references",
        styles="data/outside/references",
        out="data/outside",
        scratch=".scratch/outside",
    )
    require_photos(args.params)
    out, params = args.out / args.space, args.params.outside
    if args.params.portraits.source != "rendered":
        write_pack(out / "pictures.safetensors", {})
        write_json(out / "metrics.json", {})
        return
    pipe = load_pipeline(args.base, device(), args.params.generate.dtype)
    space_file = args.spaces / args.space / "space.safetensors"
    encoder_file = args.encoders / f"{args.space}.safetensors"
    space, encoder = load_space(space_file).to(device()), PhotoEncoder.load(encoder_file)
    restorer_file = args.restorer / "restorer.safetensors"
    restorer = load_restorer(restorer_file).to(device())
    held_out = read_portraits(args.portraits).of_split(args.params.split)
    pictures, _ = read_pack(args.styles / "pictures.safetensors")
    rows = held_out.manifest[held_out.manifest["photo"] == 0]
    text = photo_prompts(pipe, rows, prompt=args.params.invert.prompt, captions=args.params.invert.captions)[:, None]
    real = RealPhotos.of(pipe, held_out.images[:, -args.params.portraits.score_photos :])
    bench = Bench(
        pipe,
        space.layout,
        Gallery.load(args.references / "gallery.safetensors"),
        real,
        StyleProbe.load(args.styles / "style_probe.safetensors"),
        load_recognizer(args.params.recognizer, progress="faces"),
        args.params.evaluate,
        args.params.generate,
    )
    search = args.params.invert.model_copy(update={"mask": "none"})

    metrics, drawn, scores = {}, {}, []
    for style in STYLES:
        styled = encode_images(pipe, pictures[style])
        restored = restorer.restore(pictures[style], styled)
        seen = EncodedPhotos(restored.latents[:, None], text, restored.mask)
        scratch = scratch_folder(
            args.scratch,
            "inversion",
            style=style,
            seed=args.params.seed,
            invert=search.model_dump(),
            dtype=args.params.generate.dtype,
            base=folder_hash(args.base),
            styles=file_hash(args.styles / "pictures.safetensors"),
            **{name: file_hash(file) for name, file in (("space", space_file), ("encoder", encoder_file))},
            restorer=file_hash(restorer_file),
        )
        what = f"{style} into {args.space}"
        batches = search_batches(encoder, seen, search.people_at_once, scratch, what)
        work = partial(invert_batch, pipe, space, SearchOptions(search, args.params.seed))
        finish(batches, work, what, args.params.engine)
        found = {
            "encoder": space.decode(encoder(restored.latents).mean),
            "inversion": found_weights(space, {key: each.to(device()) for key, each in joined(batches).items()}),
        }
        summaries = {}
        for rung, weights in found.items():
            drawn[f"{style} {rung}"], table, summaries[rung] = bench.score(
                weights, styled, params.seeds, f"{what}, {rung}"
            )
            scores.append(table.assign(style=style, rung=f"{args.space} {rung}"))
        metrics[style] = summaries["inversion"] | {"encoder": summaries["encoder"]}
    write_pack(out / "pictures.safetensors", drawn)
    write_csv(out / "scores.csv", pd.concat(scores))
    write_json(out / "metrics.json", rounded(metrics))


if __name__ == "__main__":
    run_stage(main)
