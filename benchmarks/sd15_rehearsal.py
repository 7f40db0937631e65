"""Rehearse Stable Diffusion 1.5 with everything but its weights, and compare memory with the estimates.

Random weights in the files of realistic-vision-v51 are loaded, a prompt is encoded, a LoRA trained and a photo inverted
for a step or two, a picture drawn, a LoRA exported and loaded by diffusers, and `w2wpp invert` run on one photo. Every
step runs in a process of its own, in float32 and in bfloat16. Without a GPU, weights in bfloat16 are cast after loading
and `w2wpp invert` computes in float32 alone. The results are sd15_rehearsal.json and .md in --out. The files, 2.5 GB in
true size, are deleted in the end.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
import yaml
from diffusers import StableDiffusionPipeline
from measuring import GIB, ROOT, gib, keep, machine, measured, on_machine, run_part
from PIL import Image
from sd15_memory import draw, invert, judge, peak, without_storage
from sd15_shape import (
    SHAPES,
    Shape,
    parameter_bytes,
    random_photo,
    random_space,
    random_vector,
    w2w_layout,
    write_model,
)

from w2wpp import cli
from w2wpp.api.settings import Settings, read_settings
from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.dreambooth import DreamBoothParams, train_loras
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.diffusion.pretrained import empty_unet
from w2wpp.files.errors import InputError
from w2wpp.ingest.exported import read_exported
from w2wpp.inversion import search
from w2wpp.inversion.photo_encoder import uninformed
from w2wpp.lora.adapters import adapted, initial_weights
from w2wpp.lora.export import export_lora
from w2wpp.lora.layout import WeightLayout
from w2wpp.report.tables import markdown_table
from w2wpp.run.stage import run_stage
from w2wpp.spaces.base import SPACE
from w2wpp.spaces.registry import load_space

DTYPES = ("float32", "bfloat16")
NEEDED = 14 * GIB  # memory that must be free before anything runs in true size without a GPU
INVERT_STEPS, INFERENCE_STEPS = 2, 2
JUDGED = 2  # timesteps that judge the search of `w2wpp invert`, or a CPU would take a quarter of an hour for them
LORA, BASE, PHOTO, SETTINGS = "lora.safetensors", "base", "photo.png", "settings.yaml"


def layout_of(folder: Path) -> WeightLayout:
    """The layout of weights2weights on the base model."""
    return w2w_layout(empty_unet(folder / BASE))


def loaded(folder: Path, dtype: str) -> StableDiffusionPipeline:
    """The base model in a dtype, on a CPU too, where the library itself always computes in float32."""
    return load_pipeline(folder / BASE, device(), dtype).to(getattr(torch, dtype))


def settings_of(folder: Path) -> Settings:
    """The settings of profiles/sd15.yaml, with fewer steps."""
    return read_settings(folder / SETTINGS)


def write_files(folder: Path, shape: Shape) -> dict:
    """The base model, a space of random directions, a photo and the settings; the model's bytes."""
    write_model(folder / BASE, shape)
    layout = layout_of(folder)
    random_space(layout, shape.latent_dim).save(folder / SPACE)
    Image.fromarray(random_photo(shape.pixels).numpy()).save(folder / PHOTO)
    profile = yaml.safe_load((ROOT / "profiles/sd15.yaml").read_text())
    profile["invert"] |= {"steps": INVERT_STEPS, "mask": "none"}
    profile["generate"] |= {"inference_steps": INFERENCE_STEPS}
    (folder / SETTINGS).write_text(yaml.safe_dump({key: profile[key] for key in ("invert", "generate")}))
    sizes = {path.relative_to(folder / BASE).as_posix(): path.stat().st_size for path in (folder / BASE).rglob("*.*")}
    return {"files": sizes, "dimension": layout.dimension, "tensors": 2 * len(layout.layers)}


def estimate(shape: Shape, dtype: str) -> dict[str, int]:
    """Bytes at the peak of each step: the weights, and the live tensors of sd15_memory.py on top."""
    with without_storage(shape, dtype) as (unet, vae, layout, held):
        inverting = peak(invert, unet, layout, 1, shape.latent_dim)
        more = {
            "load": 0,
            "train": peak(invert, unet, layout, 1, 1),
            "invert": inverting,
            "picture": peak(draw, unet, vae, layout, 1),
            # The command draws the guess and the result together.
            "command": max(inverting, peak(judge, unet, layout, JUDGED), peak(draw, unet, vae, layout, 2)),
        }
    return {step: held + each for step, each in more.items()}


def load(folder: Path, dtype: str) -> dict:
    """Read the base model."""
    with measured() as run:
        pipe = loaded(folder, dtype)
    return run | {"weight_bytes": parameter_bytes(pipe.unet, pipe.vae, pipe.text_encoder)}


def prompt(folder: Path, dtype: str) -> dict:
    """Encode a prompt."""
    pipe = loaded(folder, dtype)
    with measured() as run, torch.no_grad():
        text = encode_prompts(pipe, ["a photo of sks person"])
    return run | {"shape": list(text.shape), "finite": bool(text.isfinite().all())}


def train(folder: Path, dtype: str) -> dict:
    """One step of one person's LoRA on one photo, A and B."""
    pipe, layout = loaded(folder, dtype), layout_of(folder)
    size = pipe.unet.config.sample_size
    latents = torch.randn(1, 1, 4, size, size, generator=torch.Generator().manual_seed(0)).to(device())
    text, start = encode_prompts(pipe, ["sks person"])[None], initial_weights(layout, 0)
    params = DreamBoothParams(trained="both", steps=1, lr=1e-4, photos_per_step=1)
    with measured() as run:
        weights, losses = train_loras(pipe, layout, start, latents, text, latents[0], params, 0, "training")
    return run | {"loss": losses.item(), "moved": (weights[0].cpu() - start).abs().max().item()}


def invert_photo(folder: Path, dtype: str) -> dict:
    """Encode a photo, and take the steps of an inversion."""
    pipe, space = loaded(folder, dtype), load_space(folder / SPACE).to(device())
    photo = random_photo(8 * pipe.unet.config.sample_size)
    with measured() as run:
        latents = encode_images(pipe, photo[None])
        seen = search.EncodedPhotos(latents[None], encode_prompts(pipe, ["sks person"])[None])
        prior = uninformed(latents[0].numel(), space.latent_dim)(latents)
        options = search.SearchOptions(settings_of(folder).search)
        z, losses = search.invert(pipe, space, prior, seen, options)
    return run | {"losses": losses[:, 0].tolist(), "moved": z.norm().item()}


def picture(folder: Path, dtype: str) -> dict:
    """Draw one picture with guidance."""
    pipe, layout = loaded(folder, dtype), layout_of(folder)
    weights = random_vector(layout.dimension)[None]
    with measured() as run:
        drawn = generate(pipe, layout, weights, ["sks person"], 1, settings_of(folder).drawing, None)
    return run | {"shape": list(drawn.shape), "spread": drawn.float().std().item()}


def export(folder: Path, dtype: str) -> dict:
    """Write a LoRA for diffusers, peft and kohya's tools, and read the first one back."""
    layout = layout_of(folder)
    weights = random_vector(layout.dimension)
    with measured() as run:
        export_lora(folder / LORA, weights, layout)
        export_lora(folder / "peft", weights, layout, "peft")
        export_lora(folder / "kohya.safetensors", weights, layout, "kohya")
        read = read_exported(folder / LORA)
    return run | {"equal": read is not None and torch.equal(read[0], weights)}


def load_lora(folder: Path, dtype: str) -> dict:
    """`pipe.load_lora_weights` of the exported file; its prediction against that of the adapters used here."""
    pipe, layout = loaded(folder, dtype), layout_of(folder)
    size, generator = pipe.unet.config.sample_size, torch.Generator().manual_seed(0)
    noisy = torch.randn(1, 4, size, size, generator=generator).to(device(), pipe.unet.dtype)
    text, timestep = encode_prompts(pipe, ["sks person"]), torch.tensor([500], device=device())
    with torch.no_grad():
        plain = pipe.unet(noisy, timestep, text).sample.float()
        with adapted(pipe.unet, layout, random_vector(layout.dimension)[None].to(device())):
            ours = pipe.unet(noisy, timestep, text).sample.float()
        with measured() as run:
            pipe.load_lora_weights(str(folder / LORA))
        theirs = pipe.unet(noisy, timestep, text).sample.float()
    return run | {"difference": ((theirs - ours).norm() / (ours - plain).norm()).item()}


def command(folder: Path, dtype: str) -> dict:
    """`w2wpp invert` of one photo: two steps, a short judgement, and a picture each of the start and the result."""
    out = folder / "person.safetensors"
    options = {"-o": out, "--base": folder / BASE, "--space": folder / SPACE, "--params": folder / SETTINGS}
    arguments = [str(each) for option in options.items() for each in option]
    fixed = ["--encoder", "none", "--framing", "none", "--seeds", "1"]
    with measured() as run, patch.object(search, "CHECKED", JUDGED):
        try:
            cli.main(["invert", str(folder / PHOTO), *arguments, *fixed])
        except SystemExit as end:
            if end.code:
                raise
    read = read_exported(out)
    return run | {"finite": read is not None and bool(read[0].isfinite().all()), "sheet": out.stem + "-sheet.png"}


STEPS: dict[str, tuple[str, Callable[[Path, str], dict]]] = {
    "load": ("load the base model", load),
    "prompt": ("encode a prompt", prompt),
    "train": ("one training step of a LoRA", train),
    "invert": (f"encode a photo, {INVERT_STEPS} steps of inversion", invert_photo),
    "picture": (f"one picture, {INFERENCE_STEPS} steps", picture),
    "export": ("export", export),
    "load_lora": ("`load_lora_weights`", load_lora),
    "command": (f"`w2wpp invert`, {INVERT_STEPS} steps, judged on {JUDGED} timesteps of {search.CHECKED}", command),
}


def available_bytes() -> int:
    """Memory of this machine that is available without swapping."""
    return 1024 * int(Path("/proc/meminfo").read_text().split("MemAvailable:")[1].split()[0])


def do_part(name: str, dtype: str, folder: Path, shape: Shape) -> dict:
    """The result of a step, of writing the files, or of the estimate."""
    if name == "write":
        return write_files(folder, shape)
    return estimate(shape, dtype) if name == "estimate" else STEPS[name][1](folder, dtype)


def rehearse(dtypes: list[str], part: Callable[[str, str], dict]) -> dict:
    """All results.

    Args:
        part: does a part by its name and dtype, as `do_part`; a result {"failed": reason} stays in the table.

    Raises:
        InputError: the files cannot be written.
    """
    written = part("write", "float32")
    if "failed" in written:
        raise InputError("base model", None, f"the files cannot be written ({written['failed']})", "Free some space")
    return {
        **machine(),
        "model": written,
        "estimates": {dtype: part("estimate", dtype) for dtype in dtypes},
        "steps": {
            dtype: {
                name: part(name, dtype)
                for name in STEPS
                # On a CPU the command computes in float32, whatever is asked for.
                if name != "command" or dtype == "float32" or device().type == "cuda"
            }
            for dtype in dtypes
        },
    }


def markdown(result: dict) -> str:
    """The table of steps."""
    total = sum(result["model"]["files"].values())
    rows: list[list[str]] = []
    for dtype, steps in result["steps"].items():
        for name, run in steps.items():
            if "failed" in run:
                rows.append([STEPS[name][0], dtype, f"failed: {run['failed']}", "", "", ""])
                continue
            expected = result["estimates"][dtype].get(name)
            numbers = [f"{run['seconds']:.1f}", f"{run['cpu_seconds']:.1f}", gib(run["peak_bytes"])]
            rows.append([STEPS[name][0], dtype, *numbers, gib(expected) if expected else ""])
    titles = ["step", "dtype", "seconds", "CPU seconds", "peak (GiB)", "estimate (GiB)"]
    lines = [
        "# Rehearsal of Stable Diffusion 1.5",
        "",
        f"Random weights, {result['size']} size: {total / 1e9:.2f} GB of files, LoRAs of "
        f"{result['model']['dimension']:,} numbers in {result['model']['tensors']} tensors; {on_machine(result)}. The "
        "peak is that of the whole process in the step. The estimate has the weights and the live tensors, without "
        "Python, libraries and workspaces.",
        "",
        *markdown_table(titles, rows, texts=2),
    ]
    differences = [
        f"{run['difference']:.1g} in {dtype}"
        for dtype, steps in result["steps"].items()
        if "difference" in (run := steps["load_lora"])
    ]
    if differences:
        lines += [
            "",
            "A LoRA's effect on the prediction, loaded by diffusers or in the adapters here, differs by "
            f"{' and '.join(differences)} of its size.",
        ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--size", choices=list(SHAPES), default="true", help="true size, or a miniature for tests")
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--folder", type=Path, default=ROOT / ".scratch/sd15_rehearsal", help="where the files lie")
    parser.add_argument("--limit", type=float, default=1800, help="seconds after which a step is stopped")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks", help="folder of the results")
    parser.add_argument("--part", choices=["write", "estimate", *STEPS], help="do one step, print its result and stop")
    args = parser.parse_args()
    shape, folder = SHAPES[args.size], args.folder.absolute()
    if args.part:
        print(json.dumps(do_part(args.part, args.dtypes[0], folder, shape)))
        return
    if args.size == "true" and device().type == "cpu" and available_bytes() < NEEDED:
        raise InputError(
            "memory",
            None,
            f"{gib(available_bytes())} GiB are available, and {gib(NEEDED)} are needed",
            "Stop other programs, or give --size miniature",
        )
    folder.mkdir(parents=True, exist_ok=True)

    def apart(name: str, dtype: str) -> dict:
        print(name, dtype, file=sys.stderr)
        arguments = ["--part", name, "--dtypes", dtype, "--size", args.size, "--folder", str(folder)]
        return run_part(__file__, arguments, folder / "log.txt", args.limit)

    try:
        result = rehearse(args.dtypes, apart) | {"size": args.size}
    finally:
        shutil.rmtree(folder / BASE, ignore_errors=True)
        (folder / SPACE).unlink(missing_ok=True)
    keep(args.out, "sd15_rehearsal", result, markdown(result))


if __name__ == "__main__":
    # A stage keeps the memory that it frees, but a part has to show what it needs.
    main() if "--part" in sys.argv else run_stage(main)
