"""Edit people in a space: directions of attributes from labels of zoo people, and pictures of edited people.

Labels are those of `edit.labels`, or else what is known of the zoo: factors of rendered people, the 40 attributes of
the weights2weights data; a folder of LoRAs has none. Where held-out people are rendered, their inversions and true
LoRAs are edited, and asked for the same by prompts, for `evaluate` to measure.
"""

from argparse import Namespace

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.faces.portraits import read_portraits
from w2wpp.files.storage import read_pack, write_csv, write_pack
from w2wpp.ingest.w2w_people import ATTRIBUTES
from w2wpp.inversion.editing import Directions, edit, fit_directions, label_columns, read_labels, unedited_early
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import load_space
from w2wpp.world.edits import SHOWN, draw_edits, people_labels

MOST_SHOWN = 8
TOGETHER = 4  # pairs of edits on a sheet
BLOCK = 256


def zoo_labels(args: Namespace, data: Weights) -> pd.DataFrame:
    """Labels of the zoo's LoRAs, in their order; no column where nothing is known."""
    people, source = data.names("zoo"), args.params.collect.source
    if args.params.edit.labels:
        return read_labels(args.params.edit.labels, people)
    if source == "zoo":
        table = people_labels(read_portraits(args.people).manifest)
    elif source == "w2w":
        known = data.people[data.people["role"] == "zoo"]
        # A person has several LoRAs there, with labels of their own.
        people = [f"{person} {row}" for row, person in enumerate(people)]
        table = known[list(ATTRIBUTES)].assign(person=people)
    else:
        table = pd.DataFrame({"person": people}).drop_duplicates()
    return label_columns(table, people, str(args.weights / "people.csv"))


def somebody(args: Namespace, space: WeightSpace, data: Weights) -> dict[str, Tensor]:
    """A person of each origin, as weight vectors [d]."""
    sampled = read_pack(args.samples / args.space / "pictures.safetensors")[0]["z"][0]
    found = {"sampled": space.decode(sampled[None])[0], "of the zoo": data.zoo.rows([0])[0].float()}
    inversions = args.inversions / args.space / "latents.safetensors"
    if inversions.is_file():
        found["inverted"] = space.decode(read_pack(inversions)[0]["z"][-1:])[0]
    return found


def draw_sheets(
    args: Namespace,
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    directions: Directions,
    people: dict[str, Tensor],
) -> tuple[dict[str, Tensor], dict]:
    """Pictures of edits at several strengths [people, labels, strengths, ...], and of two together [pairs, 3, 3, ...].

    The second edits the last of the people. Beside the pictures, what they show.
    """
    params, drawing = args.params.edit, args.params.generate
    labels = [name for name in SHOWN if name in directions.names] or list(directions.names)[:MOST_SHOWN]
    far = params.strengths[:2]
    strengths = [*(-each for each in reversed(far)), 0.0, *far]
    pairs = list(zip(labels[::2], labels[1::2], strict=False))[:TOGETHER]
    three = (-far[-1], 0.0, far[-1])

    def draw(weights: Tensor, changes: list[dict[str, float]]) -> Tensor:
        moved = torch.stack([directions.change(each, params.disentangle) for each in changes])
        start = weights.expand(len(moved), -1)
        edited, early = edit(space, start, moved), unedited_early(start, params)
        return generate(pipe, space.layout, edited, [args.params.evaluate.prompt], 1, drawing, "sheets", early)[:, 0, 0]

    one = [{label: strength} for label in labels for strength in strengths]
    two = [{first: a, second: b} for first, second in pairs for a in three for b in three]
    tensors = {"strengths": torch.stack([draw(each, one).unflatten(0, (len(labels), -1)) for each in people.values()])}
    if pairs:
        tensors["together"] = draw(list(people.values())[-1], two).unflatten(0, (len(pairs), 3, 3))
    meta = {"people": list(people), "labels": labels, "strengths": strengths, "pairs": pairs, "three": three}
    return tensors, meta


def draw_measured(
    args: Namespace, pipe: StableDiffusionPipeline, space: WeightSpace, directions: Directions, data: Weights
) -> tuple[pd.DataFrame, Tensor]:
    """Edits of held-out people's inversions and true LoRAs, as `draw_edits` gives them, with the people's names."""
    params, split = args.params.edit, args.params.split
    held_out = read_portraits(args.portraits).of_split(split)
    z = read_pack(args.inversions / args.space / "latents.safetensors")[0]["z"][: params.people]
    models = {"inversion": space.decode(z), "true": data.of("true", split)[: params.people]}
    people = held_out.manifest.drop_duplicates("person").to_dict("records")[: params.people]
    how = (params, args.params.evaluate.prompt, args.params.generate)
    table, pictures = draw_edits(pipe, space, directions, models, people, *how)
    return table.assign(person=[held_out.names[person] for person in table["person"]]), pictures


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        base="data/base",
        portraits="data/portraits",
        people="data/zoo/people",
        weights="data/weights",
        spaces="data/spaces",
        samples="data/samples",
        inversions="data/inversions",
        out="data/edits",
    )
    out = args.out / args.space
    pipe = load_pipeline(args.base, device(), args.params.generate.dtype)
    space, data = load_space(args.spaces / args.space / "space.safetensors"), read_weights(args.weights)

    blocks = (block.float() for block in data.zoo.blocks(BLOCK))
    directions = fit_directions(space, blocks, zoo_labels(args, data), args.params.edit.ridge)
    directions.save(out / "directions.safetensors")
    if directions.names:
        tensors, meta = draw_sheets(args, pipe, space, directions, somebody(args, space, data))
        write_pack(out / "sheets.safetensors", tensors, meta)
    if directions.names and args.params.portraits.source == "rendered" and args.params.collect.source == "zoo":
        table, pictures = draw_measured(args, pipe, space, directions, data)
        write_csv(out / "edits.csv", table)
        write_pack(out / "pictures.safetensors", {"pictures": pictures})


if __name__ == "__main__":
    run_stage(main)
