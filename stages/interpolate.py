"""Blend two zoo people along the straight line between their latents."""

import torch

from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.files.storage import write_pack
from w2wpp.lora.weights import read_weights
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import load_space


def main() -> None:
    args = stage_arguments(
        __doc__, space=True, base="data/base", weights="data/weights", spaces="data/spaces", out="data/interpolations"
    )
    params, out = args.params.interpolate, args.out / args.space
    pipe = load_pipeline(args.base, device(), args.params.generate.dtype)
    space = load_space(args.spaces / args.space / "space.safetensors")
    data = read_weights(args.weights)

    count = min(params.pairs, len(data.zoo) // 2)
    pairs = torch.randperm(len(data.zoo), generator=step_generator(args.params.seed, 1))[: 2 * count].reshape(2, -1)
    start, end = (space.encode(data.zoo.rows(rows).float()) for rows in pairs.tolist())
    z = torch.stack([torch.lerp(start, end, float(t)) for t in torch.linspace(0, 1, params.steps)], dim=1)
    pictures = generate(
        pipe,
        space.layout,
        space.decode(z.flatten(0, 1)),
        [params.prompt],
        1,
        args.params.generate,
        f"interpolations in {args.space}",
    )

    write_pack(
        out / "pictures.safetensors",
        {"z": z, "pictures": pictures[:, 0, 0].unflatten(0, z.shape[:2])},
        {"people": [[data.names("zoo")[row] for row in pair] for pair in pairs.T.tolist()]},
    )


if __name__ == "__main__":
    run_stage(main)
