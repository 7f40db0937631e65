"""Sample people who never existed.

Some are shown with several prompts and seeds each. Others draw one picture each, by which samples are scored, and so do
the donors nearest to them, from other noise, to see whether the samples are the same people.
"""

import torch

from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.files.storage import write_pack
from w2wpp.lora.export import export_lora
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.registry import load_space


def main() -> None:
    args = stage_arguments(__doc__, space=True, base="data/base", spaces="data/spaces", out="data/samples")
    params, out = args.params.sample, args.out / args.space
    drawing, label, (plain, *further) = args.params.generate, f"samples from {args.space}", params.prompts
    pipe = load_pipeline(args.base, device(), drawing.dtype)
    space = load_space(args.spaces / args.space / "space.safetensors")

    def one_each(weights: torch.Tensor, first_seed: int) -> torch.Tensor:
        seeds = [[first_seed + number] for number in range(len(weights))]
        return generate(pipe, space.layout, weights, [plain], seeds, drawing, f"scored {label}")[:, 0, 0]

    z, weights = space.sample(params.people, step_generator(args.params.seed, 0), params.smoothing)
    pictures = generate(pipe, space.layout, weights, [plain], params.seeds, drawing, label)
    if further:
        prompted = generate(pipe, space.layout, weights, further, params.seeds, drawing.prompted, label)
        pictures = torch.cat([pictures, prompted], 1)
    latents, scored = space.sample(params.scored, step_generator(args.params.seed, 1), params.smoothing)
    kept = {"z": z, "pictures": pictures, "scored": one_each(scored, 0)}
    if len(space.donor_latents):
        donors = space.complete(space.donor_latents[space.nearest_donors(latents)])
        kept["donors"] = one_each(donors, params.scored)

    export_lora(out / "sample-0.safetensors", weights[0], space.layout)
    write_pack(out / "pictures.safetensors", kept, {"prompts": params.prompts})


if __name__ == "__main__":
    run_stage(main)
