"""The space of w2w++: a VAE over weights, trained with KL annealing on the coordinates of a linear basis."""

from datetime import timedelta
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from w2wpp.compute.batches import remember
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.files.storage import file_hash, folder_hash
from w2wpp.lora.weights import BLOCK_ROWS, Weights
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.base import BASIS, FitContext, Fitted, SpaceMethod, read_space
from w2wpp.spaces.pca import fit_components
from w2wpp.spaces.vae_space import BASES, VAESpace
from w2wpp.spaces.vae_training import VAEParams, basis_coordinates, train_vae
from w2wpp.spaces.within_person import within_person_space

# The other processes wait while the main process encodes the zoo, which takes hours for a large zoo.
PATIENCE = timedelta(days=7)


def _basis(
    data: Weights, params: VAEParams, latent_dim: int, context: FitContext, scratch: Path
) -> LinearSpace | PCASpace:
    """The linear space whose coordinates the VAE works on; if it is fitted here, `scratch` keeps it for later calls."""
    if params.metric == "predictions":
        return read_space(context.spaces / "linear" / BASIS, BASES)
    file = scratch / BASIS
    if not file.exists():
        basis: LinearSpace | PCASpace = fit_components(data.zoo, data.mean, data.std, latent_dim, context.seed)[0]
        if params.within_person_ridge:
            basis = within_person_space(basis, *data.pairs(), params.within_person_ridge, basis.latent_dim, VAEParams)
        basis.save(file)
    return read_space(file, BASES)


def fit(data: Weights, params: VAEParams, latent_dim: int, context: FitContext) -> Fitted | None:
    """The VAE of the best epoch; `accelerate launch --multi_gpu` trains it on several GPUs."""
    accelerator = Accelerator(
        cpu=device().type == "cpu", mixed_precision="no", kwargs_handlers=[InitProcessGroupKwargs(timeout=PATIENCE)]
    )
    source: dict[str, object] = {"metric": params.metric, "weights": folder_hash(context.weights)}
    if params.metric == "predictions":
        source["basis"] = file_hash(context.spaces / "linear" / BASIS)
    else:
        source |= {"seed": context.seed, "latent_dim": latent_dim, "ridge": params.within_person_ridge}
    scratch = scratch_folder(context.scratch, "coordinates", **source)
    with accelerator.main_process_first():
        basis = _basis(data, params, latent_dim, context, scratch)
        coordinates = remember(
            scratch / "coordinates.safetensors",
            lambda: basis_coordinates(data.zoo.blocks(BLOCK_ROWS), data.of("true", "validation"), basis),
        )
    # Another number of processes rounds differently, so it must not resume from this state.
    training = scratch_folder(
        context.scratch,
        "vae",
        **source,
        vae=params.model_dump(),
        processes=accelerator.num_processes,
        device=accelerator.device.type,
    )
    space, history = train_vae(coordinates, basis, params, training / "checkpoint.pt", accelerator)
    accelerator.wait_for_everyone()
    main = accelerator.is_main_process
    accelerator.end_training()
    kept = next(row for row in history if row["kept"])
    return (
        Fitted(space, None, {"training.json": {"settings": params.model_dump(), "kept": kept, "history": history}})
        if main
        else None
    )


METHOD = SpaceMethod("vae", "VAE", "VAE (w2w++)", "#D55E00", VAEParams, fit, (VAESpace,))
