"""Sample people who never existed: z ~ N(0, I), decoded to LoRAs, shown with several prompts and seeds each."""

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

    z = space.prior.sample(params.people, step_generator(args.params.seed, 0))
    weights = space.decode(z)
    pictures = generate(pipe, space.layout, weights, [plain], params.seeds, drawing, label)
    if further:
        prompted = generate(pipe, space.layout, weights, further, params.seeds, drawing.prompted, label)
        pictures = torch.cat([pictures, prompted], 1)

    export_lora(out / "sample-0.safetensors", weights[0], space.layout)
    write_pack(out / "pictures.safetensors", {"z": z, "pictures": pictures}, {"prompts": params.prompts})


if __name__ == "__main__":
    run_stage(main)
