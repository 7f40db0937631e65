"""Measure the speed-up of inverting people together over one at a time, and that both find the same z.

The first photos of held-out people are inverted into a space that `dvc repro` has fitted, with the settings of
params.yaml (fewer steps by default). Rounds of both are interleaved, so that a busy machine slows both; CPU seconds
count beside wall seconds, as others' work does not change them. The results are batched_inversion.json and .md.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.runtime import device, progress
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.faces.portraits import read_portraits
from w2wpp.files.storage import write_atomically, write_json
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.search import EncodedPhotos, InvertParams, SearchOptions, invert
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.spaces.base import WeightSpace
from w2wpp.spaces.registry import METHODS, load_space

ROOT = Path(__file__).resolve().parents[1]
GOAL = 8.0


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
    options = SearchOptions(params)
    spent: dict[str, list[tuple[float, float]]] = {}

    def timed(name: str, batches: list[Tensor]) -> Tensor:
        started, cpu = time.perf_counter(), time.process_time()
        z = torch.cat([found_z(pipe, space, encoder, batch, options) for batch in batches])
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        spent.setdefault(name, []).append((seconds / len(z), cpu_seconds / len(z)))
        return z

    difference = 0.0
    found_z(pipe, space, encoder, latents[:1], SearchOptions(params.model_copy(update={"steps": 1})))  # loads kernels
    for _ in progress(range(rounds), "rounds"):
        single = timed("one at a time", list(latents[:alone].split(1)))
        for size in together:
            z = timed(f"{size} together", [latents[:size]])
            shared = min(size, alone)
            difference = max(difference, (z[:shared] - single[:shared]).abs().max().item())
    per_person = {
        name: dict(zip(("seconds", "cpu_seconds"), map(statistics.median, zip(*runs, strict=True)), strict=True))
        for name, runs in spent.items()
    }
    return {
        "per_person": per_person,
        "largest_difference_of_z": difference,
        "largest_z": single.abs().max().item(),
        "steps": params.steps,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "device": str(pipe.unet.device),
    }


def markdown(result: dict) -> str:
    """The table, and whether the goal is met."""
    first = result["per_person"]["one at a time"]
    lines = [
        f"{result['steps']} steps per person on {result['device']} with {result['threads']} threads; median of "
        f"{result['rounds']} rounds.",
        "",
        "| people inverted | seconds per person | times as fast | CPU seconds per person | times fewer |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, each in result["per_person"].items():
        fewer = f"{first['cpu_seconds'] / each['cpu_seconds']:.1f}" if each["cpu_seconds"] else ""
        lines.append(
            f"| {name} | {each['seconds']:.3f} | {first['seconds'] / each['seconds']:.1f} | "
            f"{each['cpu_seconds']:.3f} | {fewer} |"
        )
    best = max(first["seconds"] / each["seconds"] for each in result["per_person"].values())
    lines += [
        "",
        f"z differs by {result['largest_difference_of_z']:.1e} at most, where the largest is "
        f"{result['largest_z']:.1f}. Goal: {GOAL:g} times as fast, {'met' if best >= GOAL else 'missed'}.",
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
    text = markdown(result)
    write_json(args.out / "batched_inversion.json", result)
    write_atomically(args.out / "batched_inversion.md", lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    run_stage(main)
