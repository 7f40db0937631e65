"""Fit one space to the zoo people's weights: PCA, function-weighted PCA or the VAE.

`accelerate launch --multi_gpu stages/fit.py --space vae` trains the VAE on several GPUs.
"""

import torch

from w2wpp.files.storage import write_json
from w2wpp.lora.weights import read_weights
from w2wpp.run.stage import run_stage, stage_arguments
from w2wpp.spaces.base import BASIS, SPACE, FitContext, check_latent_dim
from w2wpp.spaces.registry import METHODS


def main() -> None:
    args = stage_arguments(
        __doc__,
        space=True,
        base="data/base",
        weights="data/weights",
        spaces="data/spaces",
        out="data/spaces",
        scratch=".scratch/fit",
    )
    method, data, out = METHODS[args.space], read_weights(args.weights), args.out / args.space
    settings, latent_dim = getattr(args.params, args.space), args.params.latent_dim(args.space)
    check_latent_dim(method.settings, latent_dim, len(data.zoo), data.layout.dimension)

    context = FitContext(args.params.seed, args.base, args.weights, args.spaces, args.scratch, args.params.generate)
    fitted = method.fit(data, settings, latent_dim, context)
    if fitted is None:  # the main process of the training writes the space
        return
    donors = min(args.params.sample.donors, len(data.zoo))
    if donors:
        rows = torch.linspace(0, len(data.zoo) - 1, donors).round().int().tolist()
        fitted.space.keep_donors(data.zoo.rows(rows).float())
    fitted.space.save(out / SPACE)
    if fitted.basis:
        fitted.basis.save(out / BASIS)
    for name, record in fitted.records.items():
        write_json(out / name, record)


if __name__ == "__main__":
    run_stage(main)
