"""Fit the w2w baseline: z-score every weight, then principal component analysis of the zoo people."""

from w2wpp.pca import fit_components
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.spaces import check_latent_dim
from w2wpp.storage import write_json
from w2wpp.weights import read_weights


def main() -> None:
    args = stage_arguments(__doc__, weights="data/weights", out="data/spaces/pca")
    data, latent_dim = read_weights(args.weights), args.params.pca.latent_dim
    check_latent_dim("pca.latent_dim", latent_dim, len(data.zoo), data.layout.dimension)

    full, shares = fit_components(data.zoo, data.mean, data.std, latent_dim, args.params.seed)
    space = full.truncated(latent_dim)

    space.save(args.out / "space.safetensors")
    write_json(args.out / "explained_variance.json", {"shares": shares.tolist()})


if __name__ == "__main__":
    run_stage(main)
