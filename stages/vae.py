"""Train the w2w++ VAE on the zoo people's weights, with KL annealing and early stopping on the validation people."""

from w2wpp.pca import fit_components
from w2wpp.runtime import run_stage, stage_arguments
from w2wpp.spaces import check_latent_dim
from w2wpp.storage import write_json
from w2wpp.vae import train_vae
from w2wpp.weights import BLOCK_ROWS, read_weights


def main() -> None:
    args = stage_arguments(__doc__, weights="data/weights", out="data/spaces/vae")
    params, seed = args.params.vae, args.params.seed
    data = read_weights(args.weights)
    check_latent_dim("vae.latent_dim", params.latent_dim, len(data.zoo), data.layout.dimension)

    basis, _ = fit_components(data.zoo, data.mean, data.std, params.latent_dim, seed)
    space, history = train_vae(data.zoo.blocks(BLOCK_ROWS), data.of("true", "validation"), basis, params, seed)

    space.save(args.out / "space.safetensors")
    kept = next(row for row in history if row["kept"])
    write_json(args.out / "training.json", {"settings": params.model_dump(), "kept": kept, "history": history})


if __name__ == "__main__":
    run_stage(main)
