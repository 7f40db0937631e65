"""Train the w2w++ VAE on the zoo people's weights, with KL annealing and early stopping on the validation people.

`accelerate launch --multi_gpu` runs it on several GPUs.
"""

from argparse import Namespace
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from w2wpp.compute.runtime import device, run_stage, stage_arguments
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.dreambooth import IDENTITY_PROMPT
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.files.storage import folder_hash, read_pack, scratch_folder, write_json, write_pack
from w2wpp.lora.weights import BLOCK_ROWS, Weights, read_weights
from w2wpp.spaces.fit.pca import fit_components
from w2wpp.spaces.fit.predictions import fit_prediction_pca, noisy_inputs
from w2wpp.spaces.fit.vae import basis_coordinates, train_vae
from w2wpp.spaces.fit.within_person import within_person_space
from w2wpp.spaces.spaces import LinearSpace, PCASpace, check_latent_dim, load_space
from w2wpp.world.people import CLASS_PROMPT

# The others wait while the main process asks the UNet about people, for hours with a large model.
PATIENCE = timedelta(days=7)


def fit_basis(args: Namespace, data: Weights, scratch: Path) -> LinearSpace | PCASpace:
    """The linear space whose coordinates the VAE works on."""
    params, seed = args.params.vae, args.params.seed
    if params.metric == "weights":
        return fit_components(data.zoo, data.mean, data.std, params.latent_dim, seed)[0]
    pipe, how = load_pipeline(args.base, device()), args.params.generate
    unadapted = torch.zeros(1, data.layout.dimension)
    pictures = generate(pipe, data.layout, unadapted, [CLASS_PROMPT], params.metric_inputs, how, "class images")[0, 0]
    inputs = noisy_inputs(pipe, pictures, IDENTITY_PROMPT, params.metric_shift, params.metric_region, seed)
    # Directions beyond the latents are what the decoder can tell from them, and what they are chosen among.
    spanned = min(params.metric_people, len(data.zoo)) - 1
    components = max(params.latent_dim, min(max(params.metric_components, 2 * params.latent_dim), spanned))
    return fit_prediction_pca(pipe, data.zoo, data.mean, inputs, params.metric_people, components, scratch)


def basis_and_coordinates(args: Namespace, data: Weights, scratch: Path
                          ) -> tuple[LinearSpace | PCASpace, dict[str, Tensor]]:
    """The linear space and everyone's coordinates in it, read from a subfolder of `scratch` if they are there."""
    params = args.params.vae
    folder = scratch_folder(scratch, metric=params.metric, latent=params.latent_dim, basis=params.metric_components,
                            ridge=params.within_person_ridge)
    basis_file, coordinates_file = folder / "basis.safetensors", folder / "coordinates.safetensors"
    if not basis_file.exists():
        basis, zoo = fit_basis(args, data, scratch), data.zoo.blocks(BLOCK_ROWS)
        if params.within_person_ridge:
            basis = within_person_space(basis, *data.pairs(), params.within_person_ridge, basis.latent_dim)
        write_pack(coordinates_file, basis_coordinates(zoo, data.of("true", "validation"), basis))
        basis.save(basis_file)      # last: where it is, the coordinates are
    return load_space(basis_file), read_pack(coordinates_file)[0]


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", weights="data/weights", out="data/spaces/vae",
                           scratch=".scratch/vae")
    params = args.params.vae
    data = read_weights(args.weights)
    check_latent_dim("vae.latent_dim", params.latent_dim, len(data.zoo), data.layout.dimension)

    accelerator = Accelerator(cpu=device().type == "cpu", mixed_precision="no",
                              kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)])
    scratch = scratch_folder(args.scratch, seed=args.params.seed, generate=args.params.generate.model_dump(),
                             base=folder_hash(args.base), weights=folder_hash(args.weights),
                             inputs=params.metric_inputs, shift=params.metric_shift, region=params.metric_region,
                             people=params.metric_people)
    with accelerator.main_process_first():
        basis, coordinates = basis_and_coordinates(args, data, scratch)
    # Another number of processes rounds otherwise, and so does not go on from what this one left.
    training = scratch_folder(scratch, vae=params.model_dump(), processes=accelerator.num_processes,
                              device=accelerator.device.type)
    space, history = train_vae(coordinates, basis, params, training / "checkpoint.pt", accelerator)

    if accelerator.is_main_process:
        space.save(args.out / "space.safetensors")
        kept = next(row for row in history if row["kept"])
        write_json(args.out / "training.json", {"settings": params.model_dump(), "kept": kept, "history": history})
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    run_stage(main)
