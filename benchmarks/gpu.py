"""Measure on one GPU, in one run of at most 8 minutes, the speeds that this project claims.

LoRA training, batched against peft one at a time, and drawing, both on the shipped base model and in the shape of
Stable Diffusion 1.5 with random weights; inversion of 12 people in that shape, with its memory beside the estimate; an
epoch of the VAE against pythae's; and streamed PCA of 16,384 x 99,648 numbers. Without a GPU, sizes are small and
Stable Diffusion a miniature. Every part runs in a process of its own. The results are gpu.json and gpu.md in --out.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import vae_epoch
from batched_training import train_with_peft
from measuring import ROOT, gib, in_rounds, keep, machine, measured, on_machine, run_part
from sd15_memory import draw, invert, peak, without_storage
from sd15_shape import SHAPES, Shape, random_space, random_vector, w2w_layout, write_model
from streaming_pca import OVERSAMPLING, operations, write_synthetic

from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.dreambooth import DreamBoothParams, train_loras
from w2wpp.diffusion.pipeline import encode_prompts, load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_PROMPT
from w2wpp.inversion import search
from w2wpp.inversion.photo_encoder import uninformed
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import open_shards
from w2wpp.lora.statistics import standardise_shards
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.spaces.streaming_pca import fit_streaming_pca

GOAL = 10.0  # times as fast as one at a time, of training and inversion
PCA_POWERS = 4
SMALL = (
    "**No GPU was at hand, and these small sizes say nothing about one.** A peak is that of the whole process, with "
    "Python and libraries, which an estimate leaves out."
)


@dataclass(frozen=True)
class Plan:
    """The sizes of all parts. Pairs are (how many together, how many steps); `vae` is one of vae_epoch's sizes."""

    shape: Shape
    dtype: str
    train_embedded: tuple[int, int]
    train_sd15: tuple[int, int]
    invert_sd15: tuple[int, int]
    draw_embedded: tuple[int, int]
    draw_sd15: tuple[int, int]
    vae: str
    vae_epochs: int
    pca: tuple[int, int, int]


PLANS = {
    "true": Plan(
        shape=SHAPES["true"],
        dtype="bfloat16",
        train_embedded=(256, 100),
        train_sd15=(12, 10),
        invert_sd15=(12, 10),
        draw_embedded=(64, 10),
        draw_sd15=(16, 50),
        vae="large",
        vae_epochs=4,
        pca=(16_384, 99_648, 1000),
    ),
    "miniature": Plan(
        shape=SHAPES["miniature"],
        dtype="float32",
        train_embedded=(8, 2),
        train_sd15=(8, 2),
        invert_sd15=(8, 2),
        draw_embedded=(8, 2),
        draw_sd15=(8, 2),
        vae="miniature",
        vae_epochs=2,
        pca=(64, 128, 8),
    ),
}


def sd15(folder: Path, plan: Plan):
    """The pipeline of random weights in the shape of Stable Diffusion 1.5, and the layout of weights2weights."""
    pipe = load_pipeline(folder / "base", device(), plan.dtype)
    return pipe, w2w_layout(pipe.unet)


def embedded():
    """The shipped base model, and the layout of params.yaml."""
    lora = load_params(ROOT / "params.yaml").lora
    pipe = load_pipeline(ROOT / "data/base", device())
    return pipe, WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)


def latents_of(pipe, *shape: int) -> torch.Tensor:
    """Random latents [*shape, c, h, w]."""
    unet, generator = pipe.unet.config, torch.Generator().manual_seed(0)
    size = (*shape, unet.in_channels, unet.sample_size, unet.sample_size)
    return torch.randn(size, generator=generator).to(pipe.unet.device)


def compared(work: Callable[[int], object], together: int, per: int, unit: str) -> dict:
    """`measured` of work(1) and of work(together), each after one call that loads kernels.

    Args:
        per: the results are seconds per person and this many of `unit`.
    """
    counts = {"alone": 1, "together": together}
    for count in counts.values():
        work(count)
    runs = in_rounds({name: partial(work, count) for name, count in counts.items()}, rounds=1)
    each = {name: runs[name]["seconds"] / count / per for name, count in counts.items()}
    return {name: runs[name] | {"count": count, "seconds_each": each[name]} for name, count in counts.items()} | {
        "unit": unit,
        "times": each["alone"] / each["together"],
    }


def training(load: Callable, together: int, steps: int) -> dict:
    """Batched training against peft: one person with peft, many together here."""
    (pipe, layout), (wrapped, _) = load(), load()  # peft does not remove its wrappers
    params = DreamBoothParams(steps=steps, photos_per_step=1, trained="both", lr=1e-4)
    latents, text = latents_of(pipe, together, 2), encode_prompts(pipe, [IDENTITY_PROMPT])
    start, text = initial_weights(layout, 0), text.expand(together, 2, -1, -1)
    classes = latents[:, 0]

    def train(people: int) -> torch.Tensor:
        return train_loras(pipe, layout, start, latents[:people], text[:people], classes, params, 0, None)[0]

    def alone() -> torch.Tensor:
        return train_with_peft(wrapped, layout, start, latents[0], text[0], classes, params, 0)[0]

    result = compared(lambda count: alone() if count == 1 else train(count), together, 1, "person")
    moved, same = alone().cpu(), train(2)[0].cpu()
    difference = (moved - same).norm() / (moved - start).norm()
    rates = {name: 60 / result[name]["seconds_each"] for name in ("alone", "together")}
    return result | {"steps": steps, "people_a_minute": rates, "difference": difference.item()}


def inversion(folder: Path, plan: Plan) -> dict:
    """Inversion of many people together and of one, in seconds per person and step."""
    (together, steps), (pipe, layout) = plan.invert_sd15, sd15(folder, plan)
    space = random_space(layout, plan.shape.latent_dim).to(device())
    latents, text = latents_of(pipe, together, 1), encode_prompts(pipe, ["sks person"])
    text = text.expand(together, 1, -1, -1)
    prior = uninformed(latents[0, 0].numel(), space.latent_dim)(latents[:, 0])
    options = search.SearchOptions(search.InvertParams(steps=steps, lr=0.1, prompt="sks person"))

    def run(people: int) -> None:
        seen = search.EncodedPhotos(latents[:people], text[:people])
        search.invert(pipe, space, prior._replace(mean=prior.mean[:people]), seen, options)

    return compared(run, together, steps, "person and step") | {"steps": steps}


def drawing(load: Callable, plan: tuple[int, int], params: GenerateParams) -> dict:
    """Pictures of many LoRAs together and of one, in seconds per picture."""
    (together, steps), (pipe, layout) = plan, load()
    weights = torch.stack([random_vector(layout.dimension, seed) for seed in range(together)])
    params = params.model_copy(update={"inference_steps": steps, "batch": together})

    def run(count: int) -> None:
        generate(pipe, layout, weights[:count], [IDENTITY_PROMPT], 1, params, None)

    return compared(run, together, 1, "picture") | {"steps": steps}


def pca(folder: Path, plan: Plan) -> dict:
    """Streamed PCA of synthetic float16 rows, z-scoring included."""
    rows, dimension, components = plan.pca
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Fewer directions than the PCA asks for: making the data would otherwise take longer than the PCA.
        write_synthetic(Path(scratch) / "rows", rows, dimension, max(1, components // 16))
        shards = open_shards(Path(scratch) / "rows")
        with measured() as run:
            mean, std = standardise_shards(shards)
            _, shares = fit_streaming_pca(
                shards,
                mean,
                std,
                components,
                0,
                oversampling=OVERSAMPLING,
                power_iterations=PCA_POWERS,
                device=device(),
            )
    rate = operations(rows, dimension, components, PCA_POWERS) / run["seconds"]
    return run | {"size": list(plan.pca), "captured": shares.sum().item(), "operations_per_second": rate}


def estimate(plan: Plan) -> dict[str, int]:
    """Bytes of weights, and at the peaks of inversion and drawing, as sd15_memory.py estimates them."""
    with without_storage(plan.shape, plan.dtype) as (unet, autoencoder, layout, held):
        people, pictures = plan.invert_sd15[0], plan.draw_sd15[0]
        return {
            "inversion": held + peak(invert, unet, layout, people, plan.shape.latent_dim),
            "drawing_sd15": held + peak(draw, unet, autoencoder, layout, pictures),
        }


def write(folder: Path, plan: Plan) -> dict:
    """The random weights."""
    write_model(folder / "base", plan.shape)
    return {}


PARTS: dict[str, Callable[[Path, Plan], dict]] = {
    "write": write,
    "estimate": lambda folder, plan: estimate(plan),
    "training_embedded": lambda folder, plan: training(embedded, *plan.train_embedded),
    "training_sd15": lambda folder, plan: training(lambda: sd15(folder, plan), *plan.train_sd15),
    "inversion": inversion,
    "drawing_embedded": lambda folder, plan: drawing(embedded, plan.draw_embedded, GenerateParams()),
    "drawing_sd15": lambda folder, plan: drawing(
        lambda: sd15(folder, plan), plan.draw_sd15, GenerateParams(guidance=3.0, negative_prompt="low quality, blurry")
    ),
    "vae": lambda folder, plan: vae_epoch.compare(vae_epoch.SIZES[plan.vae], plan.vae_epochs, 1, vae_epoch.installed()),
    "pca": pca,
}
TITLES = {
    "training_embedded": "training LoRAs of the shipped base",
    "training_sd15": "training LoRAs in the shape of SD 1.5",
    "inversion": "inversion in the shape of SD 1.5",
    "drawing_embedded": "drawing with the shipped base",
    "drawing_sd15": "drawing in the shape of SD 1.5",
}


def measure(size: str, run: Callable[[str], dict]) -> dict:
    """The results of all parts, which `run` does by their names."""
    return {**machine(), "size": size, "parts": {name: run(name) for name in PARTS}}


def markdown(result: dict) -> str:
    """The tables."""
    parts = result["parts"]
    rows = []
    for name, title in TITLES.items():
        part = parts[name]
        if "failed" in part:
            continue
        numbers = [f"{part[each]['seconds_each']:.4f}" for each in ("alone", "together")]
        expected = parts["estimate"].get(name)
        memory = [gib(part["together"]["peak_bytes"]), gib(expected) if expected else ""]
        rows.append([title, str(part["together"]["count"]), part["unit"], *numbers, f"{part['times']:.1f}", *memory])
    together = "peak together (GiB)"
    titles = ["what", "together", "seconds per", "alone", "together", "times as fast", together, "estimate (GiB)"]
    lines = [
        "# Speeds",
        "",
        f"Measured {on_machine(result)}; Stable Diffusion 1.5 in {result['size']} size with random weights. Alone, "
        f"LoRAs are trained with peft. Goal of training and inversion on a GPU: {GOAL:g} times as fast as alone.",
        *([] if result["size"] == "true" else ["", SMALL]),
        "",
        *markdown_table(titles, rows, texts=3),
    ]
    failed = [f"- {name}: {part['failed']}" for name, part in parts.items() if "failed" in part]
    lines.append("")
    for name in ("training_embedded", "training_sd15"):
        if "failed" not in parts[name]:
            rates = parts[name]["people_a_minute"]
            lines.append(
                f"- {name}: {rates['alone']:.1f} people a minute alone, {rates['together']:.1f} together, "
                f"{parts[name]['steps']} steps each; a LoRA differs by {parts[name]['difference']:.1e} of its size."
            )
    if "failed" not in parts["inversion"]:
        run = parts["inversion"]["together"]
        lines.append(
            f"- inversion: {run['seconds'] / parts['inversion']['steps']:.2f} s a step of {run['count']} people."
        )
    if "failed" not in parts["vae"]:
        epochs, fewer = parts["vae"]["epoch"], vae_epoch.times(parts["vae"])
        other = "pythae is not installed" if fewer is None else f"pythae takes {fewer:.1f} times as long"
        lines.append(f"- an epoch of the VAE: {epochs['here']['seconds']:.3f} s; {other}.")
    if "failed" not in parts["pca"]:
        run = parts["pca"]
        count, dimension, components = run["size"]
        lines.append(
            f"- streamed PCA of {count:,} x {dimension:,} numbers, {components:,} components: {run['seconds']:.1f} s, "
            f"{run['operations_per_second'] / 1e12:.2f} TFLOP/s, {gib(run['peak_bytes'])} GiB."
        )
    return "\n".join([*lines, *failed]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--minutes", type=float, default=8, help="a part still running then is stopped")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of the results")
    parser.add_argument("--part", choices=list(PARTS), help="do one part, print its result and stop")
    parser.add_argument("--folder", type=Path, help="of the weights, for --part")
    args = parser.parse_args()
    size = "true" if device().type == "cuda" else "miniature"
    if args.part:
        print(json.dumps(PARTS[args.part](args.folder, PLANS[size])))
        return
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as scratch:

        def apart(name: str) -> dict:
            print(name, file=sys.stderr)
            arguments = ["--part", name, "--folder", scratch]
            return run_part(__file__, arguments, Path(scratch) / "log.txt", end - time.monotonic())

        result = measure(size, apart)
    keep(args.out, "gpu", result, markdown(result))


if __name__ == "__main__":
    run_stage(main)
