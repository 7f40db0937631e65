"""Measure the speed-up of training LoRAs together over one at a time with peft, and that both give the same result.

The same people are trained on the shipped base with the settings of params.yaml (fewer steps by default). First each
person is trained alone, by diffusers' `unet.add_adapter` with a peft `LoraConfig` and torch's Adam, then all in batches
of growing size. Rounds of both are interleaved, so that a busy machine slows both. The upper bound assumes that all
matrix products and convolutions are as fast as large matrix products. The results are batched_training.json and .md,
which the stage `report` reads: a new measurement makes it stale.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path

import torch
from measuring import ROOT, in_rounds, keep, machine, on_machine, product_rate
from peft import LoraConfig
from torch.utils.flop_counter import FlopCounterMode

from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.diffusion.denoising import prediction_loss, training_schedule
from w2wpp.diffusion.dreambooth import train_loras
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.diffusion.prompts import CLASS_PROMPT, IDENTITY_PROMPT
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.layout import WeightLayout, flatten, unflatten
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.world.drawing import draw
from w2wpp.world.populations import sample_people

ALONE = "one at a time"


def train_with_peft(
    pipe, layout: WeightLayout, start, latents, text, class_latents, params, seed: int
) -> tuple[torch.Tensor, float]:
    """One person's LoRA with peft, from the random numbers of `train_loras`: weight vector [d] and final loss."""
    config = LoraConfig(r=layout.rank, lora_alpha=layout.alpha, target_modules=[m.module for m in layout.layers])
    pipe.unet.add_adapter(config)
    adapter = {key.replace(".default", ""): p for key, p in pipe.unet.named_parameters() if "lora_" in key}
    with torch.no_grad():
        for key, tensor in unflatten(start, layout).items():
            adapter[key].copy_(tensor)
    trained = [p for key, p in adapter.items() if params.trained == "both" or ".lora_B." in key]
    optimizer = torch.optim.Adam(trained, params.lr, betas=(0.9, 0.99), eps=params.adam_epsilon)
    schedule = training_schedule(pipe)
    class_text = encode_prompts(pipe, [CLASS_PROMPT]).expand(params.class_images_per_step, -1, -1)
    shares = torch.tensor(
        [1 / params.photos_per_step] * params.photos_per_step
        + [params.prior_weight / max(1, params.class_images_per_step)] * params.class_images_per_step
    ).to(latents)
    tail = []
    for step in range(params.steps):
        generator = step_generator(seed, step)
        photos = torch.randint(len(latents), (params.photos_per_step,), generator=generator)
        shared = torch.randint(len(class_latents), (params.class_images_per_step,), generator=generator)
        clean = torch.cat([latents[photos], class_latents[shared]])
        prompts = torch.cat([text[photos], class_text])
        losses = prediction_loss(pipe, schedule, clean[:, None], prompts[:, None], params.timestep_shift, generator)[
            :, 0
        ]
        optimizer.param_groups[0]["lr"] = cosine_rate(step, params.steps, params.lr, warmup=10)
        optimizer.zero_grad()
        (losses * shares).sum().backward()
        optimizer.step()
        if step >= params.steps - max(1, params.steps // 5):
            tail.append(losses[: params.photos_per_step].mean().item())
    weights = flatten({key: parameter.detach() for key, parameter in adapter.items()}, layout, "peft")
    pipe.unet.delete_adapters("default")
    return weights, statistics.fmean(tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps per LoRA; 0 for collect.steps")
    parser.add_argument("--alone", type=int, default=4, help="people trained one at a time in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--together", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks")
    args = parser.parse_args()

    settings = load_params(ROOT / "params.yaml")
    params = settings.collect.model_copy(update={"steps": args.steps or settings.collect.steps})
    pipe, wrapped = (load_pipeline(ROOT / "data/base", device()) for _ in range(2))  # peft does not remove its wrappers
    lora, seed = settings.lora, settings.seed
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets, lora.blocks)
    start = initial_weights(layout, seed)
    people = sample_people(seed, "zoo", max(args.together), params.photos)
    images = draw(people, settings.portraits.size, "people")
    latents = encode_images(pipe, images.flatten(0, 1)).unflatten(0, images.shape[:2])
    text = encode_prompts(pipe, [IDENTITY_PROMPT]).expand(*latents.shape[:2], -1, -1)
    class_latents = latents[:, 0]

    with FlopCounterMode(display=False) as counter:
        train_loras(pipe, layout, start, latents[:1], text[:1], class_latents, params, seed, "operations of one LoRA")
    alone: list[tuple[torch.Tensor, float]] = []
    together: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def train_alone() -> None:
        alone[:] = [
            train_with_peft(wrapped, layout, start, latents[i], text[i], class_latents, params, seed)
            for i in range(args.alone)
        ]

    def train_together(size: int) -> None:
        together[size] = train_loras(
            pipe, layout, start, latents[:size], text[:size], class_latents, params, seed, f"{size} together"
        )

    counts = {ALONE: args.alone, **{f"{size} together": size for size in args.together}}
    sizes = {f"{size} together": partial(train_together, size) for size in args.together}
    runs = in_rounds({ALONE: train_alone, **sizes}, args.rounds)
    weights, losses = together[args.together[-1]]
    shared = min(args.alone, len(losses))
    result = {
        "dimension": layout.dimension,
        "steps": params.steps,
        "rounds": args.rounds,
        **machine(),
        "operations_per_lora": counter.get_total_flops(),
        "matmul_operations_per_second": product_rate(),
        "final_loss": {
            "one at a time": statistics.fmean(loss for _, loss in alone[:shared]),
            "together": losses[:shared].mean().item(),
        },
        "largest_weight_difference": max((weights[i] - alone[i][0]).abs().max().item() for i in range(shared)),
        "people_per_minute": {name: 60 * count / runs[name]["seconds"] for name, count in counts.items()},
    }
    slowest = result["people_per_minute"][ALONE]
    lines = [
        f"{result['steps']} steps per LoRA {on_machine(result)}; median of {args.rounds} rounds.",
        "",
        *markdown_table(
            ["LoRAs trained", "people per minute", "times as fast"],
            [(name, f"{each:.1f}", f"{each / slowest:.1f}") for name, each in result["people_per_minute"].items()],
        ),
    ]
    rate = result["matmul_operations_per_second"]
    bound = 60 * rate / result["operations_per_lora"]
    lines += [
        "",
        f"These steps of a LoRA take {result['operations_per_lora'] / 1e9:.1f} billion operations in matrix "
        f"products and convolutions. Large matrix products do {rate / 1e9:.0f} billion a second here. That would "
        f"give {bound:.0f} LoRAs a minute, {bound / slowest:.1f} times as many as one at a time.",
    ]
    keep(args.out, "batched_training", result, "\n".join(lines) + "\n")


if __name__ == "__main__":
    run_stage(main)
