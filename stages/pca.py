"""Fit the w2w baseline: z-score every weight, then principal component analysis of the zoo people.

Of all components, those are kept that people differ in most, or, by pca.within_person_ridge, those combinations of them
that people differ in most compared to LoRAs of one person.
"""

from w2wpp.compute.runtime import run_stage, stage_arguments
from w2wpp.files.storage import write_json
from w2wpp.lora.weights import read_weights
from w2wpp.spaces.fit.pca import fit_components
from w2wpp.spaces.fit.within_person import within_person_space
from w2wpp.spaces.spaces import check_latent_dim


def main() -> None:
    args = stage_arguments(__doc__, weights="data/weights", out="data/spaces/pca")
    data, latent_dim = read_weights(args.weights), args.params.pca.latent_dim
    check_latent_dim("pca.latent_dim", latent_dim, len(data.zoo), data.layout.dimension)

    full, shares = fit_components(data.zoo, data.mean, data.std, latent_dim, args.params.seed)
    ridge = args.params.pca.within_person_ridge
    space = within_person_space(full, *data.pairs(), ridge, latent_dim) if ridge else full.truncated(latent_dim)

    space.save(args.out / "space.safetensors")
    variance = full.scales[0].square() / shares[0]
    kept = (space.synthesis / data.std).square().sum() / variance
    write_json(args.out / "explained_variance.json", {"shares": shares.tolist(), "kept": kept.item()})


if __name__ == "__main__":
    run_stage(main)
