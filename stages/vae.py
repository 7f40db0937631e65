"""Train the w2w++ VAE on the zoo people's weights, with KL annealing and early stopping on the validation people."""

from argparse import Namespace

import torch

from w2wpp.denoising import generate
from w2wpp.dreambooth import IDENTITY_PROMPT
from w2wpp.pca import fit_components
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import load_pipeline
from w2wpp.predictions import fit_prediction_pca, noisy_inputs
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.spaces import PCASpace, PredictionPCASpace, check_latent_dim
from w2wpp.storage import folder_hash, scratch_folder, write_json
from w2wpp.vae import train_vae
from w2wpp.weights import BLOCK_ROWS, Weights, read_weights


def fit_basis(args: Namespace, data: Weights) -> PCASpace | PredictionPCASpace:
    """The linear space whose coordinates the VAE works on."""
    params, seed = args.params.vae, args.params.seed
    if params.metric == "weights":
        return fit_components(data.zoo, data.mean, data.std, params.latent_dim, seed)[0]
    pipe, how = load_pipeline(args.base, device()), args.params.generate
    unadapted = torch.zeros(1, data.layout.dimension)
    pictures = generate(pipe, data.layout, unadapted, [CLASS_PROMPT], params.metric_inputs, how, "class images")[0, 0]
    inputs = noisy_inputs(pipe, pictures, IDENTITY_PROMPT, params.metric_shift, params.metric_region, seed)
    components = max(params.latent_dim, params.metric_components)
    scratch = scratch_folder(args.scratch, seed=seed, generate=how.model_dump(), base=folder_hash(args.base),
                             weights=folder_hash(args.weights), inputs=params.metric_inputs, shift=params.metric_shift,
                             region=params.metric_region, people=params.metric_people)
    return fit_prediction_pca(pipe, data.zoo, data.mean, inputs, params.metric_people, components, scratch)


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", weights="data/weights", out="data/spaces/vae",
                           scratch=".scratch/vae")
    params = args.params.vae
    data = read_weights(args.weights)
    check_latent_dim("vae.latent_dim", params.latent_dim, len(data.zoo), data.layout.dimension)

    basis = fit_basis(args, data)
    space, history = train_vae(data.zoo.blocks(BLOCK_ROWS), data.of("true", "validation"), basis, params)

    space.save(args.out / "space.safetensors")
    kept = next(row for row in history if row["kept"])
    write_json(args.out / "training.json", {"settings": params.model_dump(), "kept": kept, "history": history})


if __name__ == "__main__":
    run_stage(main)
