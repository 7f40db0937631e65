"""Measure the speed-up of inverting people together over one at a time, and that both find the same z.

The first photos of held-out people are inverted into a space that `dvc repro` has fitted, with the settings of
params.yaml (fewer steps by default). Rounds of both are interleaved, so that a busy machine slows both; CPU seconds
count beside wall seconds, as others' work does not change them. The results are batched_inversion.json and .md.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from measuring import ROOT, in_rounds, keep, machine, on_machine
from torch import Tensor

from w2wpp.compute.runtime import device
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.faces.portraits import read_portraits
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.search import EncodedPhotos, InvertParams, SearchOptions, invert
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import METHODS, load_space

GOAL = 8.0
ALONE = "one at a time"


def found_z(
    pipe: StableDiffusionPipeline, space: WeightSpace, encoder: PhotoEncoder, latents: Tensor, options: SearchOptions
) -> Tensor:
    """z [n, k] of the people of photos' latents [n, c, h, w], searched together."""
    text = encode_prompts(pipe, [options.params.prompt]).expand(len(latents), -1, -1)
    seen = EncodedPhotos(latents[:, None], text[:, None])
    return invert(pipe, space, encoder(latents), seen, options)[0]


def compare(
    pipe: StableDiffusionPipeline,
    space: WeightSpace,
    encoder: PhotoEncoder,
    latents: Tensor,
    params: InvertParams,
    together: list[int],
    alone: int,
    rounds: int,
) -> dict:
    """Seconds and CPU seconds per person, in batches of several sizes and alone, and the largest difference of z.

    Args:
        latents: scaled latents [n, c, h, w] of a photo of each person.
        together: sizes of batches, at most n.
        alone: people inverted one at a time in each round, at most n.
    """
    sizes = {f"{size} together": [latents[:size]] for size in together}
    batches = {ALONE: list(latents[:alone].split(1)), **sizes}
    found: dict[str, Tensor] = {}

    def work(name: str) -> None:
        found[name] = torch.cat(
            [found_z(pipe, space, encoder, batch, SearchOptions(params)) for batch in batches[name]]
        )

    found_z(pipe, space, encoder, latents[:1], SearchOptions(params.model_copy(update={"steps": 1})))  # loads kernels
    runs = in_rounds({name: partial(work, name) for name in batches}, rounds)
    pairs = [(z[:alone], found[ALONE][: len(z)]) for z in found.values()]
    return {
        "per_person": {
            name: {key: run[key] / len(found[name]) for key in ("seconds", "cpu_seconds")} for name, run in runs.items()
        },
        "largest_difference_of_z": max((z - single).abs().max().item() for z, single in pairs),
        "largest_z": found[ALONE].abs().max().item(),
        "steps": params.steps,
        "rounds": rounds,
        **machine(),
    }


def markdown(result: dict) -> str:
    """The table, and whether the goal is met."""
    first = result["per_person"][ALONE]
    rows = [
        [name] + [text for key in first for text in (f"{each[key]:.3f}", f"{first[key] / max(each[key], 1e-9):.1f}")]
        for name, each in result["per_person"].items()
    ]
    best = max(first["cpu_seconds"] / max(each["cpu_seconds"], 1e-9) for each in result["per_person"].values())
    lines = [
        "# Inversion of many people together",
        "",
        f"{result['steps']} steps per person in the space `{result['space']}`, {on_machine(result)}; median of "
        f"{result['rounds']} rounds.",
        "",
        *markdown_table(
            ["people inverted", "seconds per person", "times as fast", "CPU seconds per person", "times fewer"], rows
        ),
        "",
        f"z differs by {result['largest_difference_of_z']:.1e} at most, where the largest is "
        f"{result['largest_z']:.1f}. Goal: {GOAL:g} times fewer CPU seconds per person, "
        f"{'met' if best >= GOAL else 'missed'}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--space", choices=list(METHODS), default="vae")
    parser.add_argument("--steps", type=int, default=10, help="steps per person; 0 for invert.steps")
    parser.add_argument("--alone", type=int, default=4, help="people inverted one at a time in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="what the pipeline left")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    args = parser.parse_args()

    params = load_params(ROOT / "params.yaml").invert
    pipe = load_pipeline(args.data / "base", device())
    space = load_space(args.data / f"spaces/{args.space}/space.safetensors").to(device())
    encoder = PhotoEncoder.load(args.data / f"photo_encoders/{args.space}.safetensors")
    photos = read_portraits(args.data / "portraits").images[: max(*args.together, args.alone), 0]
    result = compare(
        pipe,
        space,
        encoder,
        encode_images(pipe, photos),
        params.model_copy(update={"steps": args.steps or params.steps}),
        [size for size in args.together if size <= len(photos)],
        args.alone,
        args.rounds,
    ) | {"space": args.space}
    keep(args.out, "batched_inversion", result, markdown(result))


if __name__ == "__main__":
    run_stage(main)
