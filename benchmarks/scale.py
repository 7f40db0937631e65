"""Measure how the cheap stages' cost grows with the zoo, and tell what the pipeline takes for 2,000 LoRAs to a million.

The stages that read every LoRA are measured at three sizes each, on random LoRAs of the layout of weights2weights, and
fitted by a line. What a GPU does is counted in floating-point operations, on tensors without storage, and turned into
hours at the rate of the one inversion that weights2weights published. The results are scale.json and scale.md.
"""

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import vae_epoch
from diffusers import UNet2DConditionModel
from measuring import GIB, ROOT, keep, machine, measured, on_machine, plain_layout
from scipy.optimize import nnls
from sd15_memory import draw, invert, judge, without_storage
from sd15_shape import SHAPES, UNET, w2w_layout
from streaming_pca import OVERSAMPLING, operations
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from w2wpp.inversion.photo_encoder import fit_photo_encoder
from w2wpp.inversion.search import CHECKED
from w2wpp.lora.flattening import flatten_zoo
from w2wpp.lora.packs import write_loras
from w2wpp.lora.shards import open_shards, write_shards
from w2wpp.lora.statistics import standardise_shards
from w2wpp.report.tables import markdown_table
from w2wpp.run.stage import run_stage
from w2wpp.spaces.pca import MAX_COMPONENTS
from w2wpp.spaces.streaming_pca import fit_streaming_pca

ZOOS = (2_000, 65_000, 1_000_000)
DIMENSION = 99_648  # of a LoRA of weights2weights
POWERS = 4  # power iterations of the pipeline's PCA
EPOCHS = 200
# Settings of weights2weights, and the published seconds of an inversion on an A100 (arXiv 2406.09413).
TRAINING_STEPS, PICTURES_PER_STEP, INVERSION_STEPS, INVERSION_SECONDS = 800, 2, 400, 55.0
PICTURE_STEPS = 50
LATENTS = {"true": (4, 64, 64), "miniature": (4, 8, 8)}
SIZES: dict[str, dict[str, tuple[int, int, int]]] = {
    "true": {"flatten": (64, 128, 256), "pca": (256, 512, 1024), "vae": (256, 512, 768), "encoder": (50, 100, 200)},
    "miniature": {"flatten": (2, 4, 8), "pca": (16, 32, 64), "vae": (16, 32, 64), "encoder": (8, 16, 32)},
}


@contextmanager
def vectors(count: int, dimension: int):
    """A folder for files, the layout of weights2weights, or a small part, and random vectors float16 [count, d]."""
    with torch.device("meta"):
        layout = w2w_layout(UNet2DConditionModel.from_config(UNET))
    if dimension < layout.dimension:
        layout = plain_layout(dimension)
    rows = torch.randn(count, layout.dimension, generator=torch.Generator().manual_seed(0)).half()
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder), layout, rows


def flatten(size: str, count: int) -> dict:
    """Check and flatten a zoo."""
    with vectors(count, DIMENSION if size == "true" else 64) as (folder, layout, rows):
        files = write_loras(folder / "loras", "zoo-zoo", layout, rows.float())
        people = [f"{number:07d}" for number in range(count)]
        manifest = pd.DataFrame({"person": people, "split": "zoo", "role": "zoo", "file": files})
        manifest.to_csv(folder / "manifest.csv", index=False)
        with measured() as run:
            flatten_zoo(folder, folder / "out")
    return run


def pca(size: str, count: int) -> dict:
    """Fit streamed PCA; with far fewer components than the pipeline's, as the cost is proportional to them."""
    dimension, components = (DIMENSION, 96) if size == "true" else (128, 8)
    with vectors(count, dimension) as (folder, layout, rows):
        shards = write_shards(folder / "rows", iter([rows]), layout, max(1, count // 8))
        with measured() as run:
            fit_streaming_pca(
                open_shards(folder / "rows"),
                *standardise_shards(shards),
                components,
                0,
                oversampling=OVERSAMPLING,
                power_iterations=POWERS,
            )
    return run | {"operations": operations(count, dimension, components, POWERS)}


def vae(size: str, count: int) -> dict:
    """Two epochs less one of the VAE."""
    sizes = vae_epoch.SIZES["large" if size == "true" else "miniature"]._replace(people=count)
    return vae_epoch.compare(sizes, 2, 1, ["here"])["epoch"]["here"]


def encoder(size: str, count: int) -> dict:
    """Fit the photo encoder to one picture of each person, and its mirror image."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(count, 2, *LATENTS[size], generator=generator)
    z = torch.randn(count, SHAPES[size].latent_dim, generator=generator)
    with measured() as run:
        fit_photo_encoder(latents, z, 0.1)
    return run


STAGES: dict[str, tuple[str, Callable[[str, int], dict]]] = {
    "flatten": ("flatten, LoRAs", flatten),
    "pca": ("streamed PCA of 96 components, LoRAs", pca),
    "vae": ("an epoch of the VAE on 4,096 coordinates, LoRAs", vae),
    "encoder": ("photo encoder, people", encoder),
}


def counted() -> dict[str, int]:
    """Floating-point operations of a step of training and of inversion of one person, and of a picture.

    The picture has 50 steps with guidance, and is decoded.
    """
    shape = SHAPES["true"]
    with without_storage(shape, "bfloat16") as (unet, autoencoder, layout, _):
        works = {
            "training": partial(invert, unet, layout, PICTURES_PER_STEP, 1),
            "inversion": partial(invert, unet, layout, 1, shape.latent_dim),
            "judged": partial(judge, unet, layout),
            "drawn": partial(draw, unet, autoencoder, layout, 1),  # one step, and the decoding
        }
        found = {}
        for name, work in works.items():
            # Fused attention is not counted.
            with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
                work()
            found[name] = counter.get_total_flops()
    further = (PICTURE_STEPS - 1) * 2 * found.pop("judged") // CHECKED
    return {"picture": found.pop("drawn") + further, **found}


def fitted(runs: Sequence[Mapping[str, float]]) -> tuple[float, float]:
    """CPU seconds at size 0 and of one more, by least squares; neither below 0."""
    (start, slope), _ = nnls([(1, run["size"]) for run in runs], [run["cpu_seconds"] for run in runs])
    return float(start), float(slope)


def measure(size: str) -> dict:
    """All measurements and counts."""
    runs = {
        name: [{"size": count} | stage(size, count) for count in SIZES[size][name]]
        for name, (_, stage) in STAGES.items()
    }
    return {**machine(), "size": size, "runs": runs, "operations": counted()}


def published_rate(result: dict) -> float:
    """Floating-point operations per second of the published inversion."""
    return result["operations"]["inversion"] * INVERSION_STEPS / INVERSION_SECONDS


def product_rate(result: dict) -> float:
    """Floating-point operations per CPU second of the largest streamed PCA, with all that it does besides products."""
    run = result["runs"]["pca"][-1]
    return run["operations"] / run["cpu_seconds"]


def growth(result: dict) -> list[str]:
    """The table of what was measured."""
    rows = []
    for name, (title, _) in STAGES.items():
        runs = result["runs"][name]
        start, slope = fitted(runs)
        exponent = np.polyfit(*np.log([(run["size"], run["cpu_seconds"]) for run in runs]).T, 1)[0]
        seconds = " / ".join(f"{run['cpu_seconds']:.2f}" for run in runs)
        sizes = " / ".join(f"{run['size']:,}" for run in runs)
        rows.append([title, sizes, seconds, f"{start:.2f} + {1000 * slope:.2f} per 1,000", f"size^{exponent:.2f}"])
    return markdown_table(["what grows", "sizes", "CPU seconds", "fitted CPU seconds", "grows as"], rows)


def takes(result: dict) -> list[str]:
    """The table of what the pipeline takes, by number of LoRAs."""
    counts, runs = result["operations"], result["runs"]
    rate = published_rate(result)

    def hours(seconds: float) -> str:
        return f"{seconds / 3600:,.2g}" if seconds < 36_000 else f"{seconds / 3600:,.0f}"

    def gigabytes(size: float) -> str:
        return f"{size / 1e9:,.1f}"

    def components(count: int) -> int:
        return min(MAX_COMPONENTS, count - 1)

    def passes(count: int) -> int:
        return 1 + (2 * POWERS + 2 if count < DIMENSION else POWERS + 2)

    def line(stage: str) -> Callable[[int], float]:
        start, slope = fitted(runs[stage])
        return lambda count: start + slope * count

    epoch, flat = line("vae"), line("flatten")
    training = counts["training"] * TRAINING_STEPS / rate
    cells: list[tuple[str, str, Callable[[int], str]]] = [
        ("train the LoRAs, GPU hours", "Ray, `--shard`", lambda n: hours(n * training)),
        (
            "LoRAs over the network, trained elsewhere or published, float32, GB",
            "",
            lambda n: gigabytes(4 * DIMENSION * n),
        ),
        ("`flatten`, CPU hours", "nothing", lambda n: hours(flat(n))),
        ("vectors in float16, disk, GB; DVC's cache copies them", "", lambda n: gigabytes(2 * DIMENSION * n)),
        (
            f"components, at most {MAX_COMPONENTS:,}, CPU hours",
            "nothing",
            lambda n: hours(operations(n, DIMENSION, components(n), POWERS) / product_rate(result)),
        ),
        ("the same, read from disk, GB", "", lambda n: gigabytes(2 * passes(n) * DIMENSION * n)),
        (
            "the same, memory, GiB",
            "",
            lambda n: f"{4 * (components(n) + OVERSAMPLING) * (DIMENSION + min(n, DIMENSION)) / GIB:.1f}",
        ),
        (f"VAE, {EPOCHS} epochs on 4,096 coordinates, CPU hours", "`accelerate`", lambda n: hours(EPOCHS * epoch(n))),
        ("VAE's coordinates, float32, memory, GB", "", lambda n: gigabytes(4 * components(n) * n)),
        (
            "photo encoder of 200 people, CPU hours",
            "nothing",
            lambda n: hours(line("encoder")(200)),
        ),
        (
            f"invert a photo ({INVERSION_STEPS} steps), GPU seconds each",
            "Ray, `--shard`",
            lambda n: f"{INVERSION_SECONDS:.0f}",
        ),
        (
            f"draw a picture ({PICTURE_STEPS} steps), GPU seconds each",
            "nothing",
            lambda n: f"{counts['picture'] / rate:.0f}",
        ),
    ]
    rows = [[title, spread, *(of(count) for count in ZOOS)] for title, spread, of in cells]
    return markdown_table(["what", "spread by", *(f"{count:,} LoRAs" for count in ZOOS)], rows, texts=2)


def markdown(result: dict) -> str:
    """The page."""
    counts = result["operations"]
    rate = published_rate(result)
    lines = [
        "# Scale",
        "",
        "## What grows with the zoo",
        "",
        f"Random LoRAs of {DIMENSION if result['size'] == 'true' else 64:,} numbers; {on_machine(result)}.",
        "",
        *growth(result),
        "",
        "## What it takes",
        "",
        "**An estimate: nothing in this table ran at these sizes, and no GPU was at hand.** CPU hours are those of one "
        "core, from the fits above; those of the components, from their operations at "
        f"{product_rate(result) / 1e9:.0f} GFLOP/s, as the largest PCA above. Operations are counted on tensors "
        f"without storage: {counts['training'] / 1e12:.2f} trillion for a step of training on {PICTURES_PER_STEP} "
        f"pictures, {counts['inversion'] / 1e12:.2f} for a step of inversion, {counts['picture'] / 1e12:.2f} for a "
        f"picture. A GPU is an A100 at {rate / 1e12:.0f} TFLOP/s, 4 % of its peak: what the published inversion of one "
        f"photo reaches, {INVERSION_STEPS} steps in {INVERSION_SECONDS:.0f} s. Batches should do better. The "
        "profile of Stable Diffusion 1.5 needs no photo encoder, and the VAE mostly stops before its last epoch.",
        "",
        *takes(result),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="true", help="true size, or a miniature for tests")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of the results")
    args = parser.parse_args()
    result = measure(args.size)
    keep(args.out, "scale", result, markdown(result))


if __name__ == "__main__":
    run_stage(main)
