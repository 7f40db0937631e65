"""Training of the w2w++ VAE with KL annealing (Bowman et al. 2016, arXiv 1511.06349), by one process or several."""

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn
from torch.optim import Optimizer

from w2wpp.compute.runtime import progress
from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.files.errors import ArgumentError
from w2wpp.files.settings import Count, Rate, Ridge, Section, Weight, Whole
from w2wpp.files.storage import write_atomically
from w2wpp.lora.weights import BLOCK_ROWS
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.prior import StandardNormal
from w2wpp.spaces.vae_space import VAESpace

COLLAPSED_BELOW_NATS = 0.01
CHECKPOINT_SECONDS = 30.0


class KLParams(Section):
    """Annealing of the KL term."""

    schedule: Literal["monotonic", "cyclical", "none"] = "monotonic"
    """The rise of the KL term's weight: once, in cycles, or none."""
    weight: Weight = 1.0e-2
    """Final weight of the KL term."""
    warmup: Rate = 0.3
    """Share of the epochs, or of a cycle, over which the weight rises."""
    cycles: Count = 4
    """Cycles of the cyclical schedule."""


class VAEParams(Section):
    """The VAE of w2w++."""

    seed: Whole = 0
    """Seed of the VAE's training alone."""
    latent_dim: Count = 64
    """Dimensions of the latent space."""
    metric: Literal["predictions", "weights"] = "predictions"
    """Target of the reconstruction: the UNet's predictions, as in the linear space, or z-scored weights, as in PCA."""
    within_person_ridge: Ridge = 1.0
    """As for `pca`, if the metric is weights; for predictions, `linear` provides the basis."""
    width: Count = 4096
    """Units of a hidden layer."""
    layers: Whole = 1
    """Hidden layers of encoder and decoder; 0 keeps both linear."""
    epochs: Count = 200
    """Maximum number of epochs."""
    batch: Count = 256
    """People per step."""
    lr: Rate = 2.0e-4
    """Learning rate of AdamW."""
    weight_decay: Weight = 1.0
    """Weight decay of AdamW."""
    patience: Count = 20
    """Epochs without a smaller validation error before training stops."""
    kl: KLParams = KLParams()


def kl_weight(epoch: int, epochs: int, params: KLParams) -> float:
    """The weight of the KL term: constant, rising once, or rising in cycles (Fu et al. 2019, arXiv 1903.10145)."""
    if params.schedule == "none":
        return params.weight
    period = epochs / (params.cycles if params.schedule == "cyclical" else 1)
    return params.weight * min(1.0, (epoch % period) / period / params.warmup)


def reconstruction_error(space: VAESpace, output: Tensor, target: Tensor) -> Tensor:
    """Squared error in the basis' metric, relative to the training variance, of coordinates [n, basis] (scalar)."""
    variance = space.basis.scales.square()
    return ((output - target).square() * variance).sum(1).mean() / variance.sum()


def error_beyond(basis: LinearSpace | PCASpace, weights: Tensor) -> Tensor:
    """The part of `reconstruction_error` of weight vectors [n, d] that lies outside `basis` (scalar).

    It is zero for the people whom the basis was fitted to, and most of the error for other people.
    """
    return basis.unexplained(weights).mean() / basis.scales.square().sum()


def basis_coordinates(train: Iterable[Tensor], validation: Tensor, basis: LinearSpace | PCASpace) -> dict[str, Tensor]:
    """Coordinates in the basis, which the VAE is trained on instead of weight vectors.

    Args:
        train: the training people's weight vectors, in blocks [*, d] of any float dtype, each read once.
        validation: weight vectors [m, d] float32 of people who are not trained on.
        basis: the principal components of `train`, all or the leading ones, or those of the predictions.

    Returns:
        float32 on the CPU: coordinates "train" [n, basis] and "validation" [m, basis], and "beyond", the validation
        people's `error_beyond` (scalar).
    """
    return {
        "train": torch.cat([basis.encode(block.float()) for block in train]),
        "validation": basis.encode(validation),
        "beyond": error_beyond(basis, validation),
    }


def train_vae(
    coordinates: dict[str, Tensor],
    basis: LinearSpace | PCASpace,
    params: VAEParams,
    checkpoint: Path,
    accelerator: Accelerator,
) -> tuple[VAESpace, list[dict]]:
    """Train on the training people, keep the epoch that is best on the validation people; resumes from `checkpoint`.

    All processes of `accelerator` call this with equal arguments. Each takes its share of every batch. Rows and noise
    of a batch do not depend on the number of processes, so any number gives the same history up to rounding.

    Args:
        coordinates: as `basis_coordinates` returns them; they may be memory-mapped.
        basis: of the coordinates; on a CPU the returned space shares its tensors.
        checkpoint: file in which the main process saves the state of training regularly, for all to resume from.
        accelerator: without mixed precision.

    Returns:
        The space, float32 on the CPU, standardised for the training people, and one row per epoch, equal on all
        processes. A row has kl_weight, and for both splits the relative reconstruction error and the KL in nats, before
        standardisation. For validation people it also has the number of collapsed units (below 0.01 nats). The first
        row is before training.

    Raises:
        InputError: there are more processes than rows in a batch.
    """
    train, processes = coordinates["train"], accelerator.num_processes
    if processes > min(params.batch, len(train)):
        raise ArgumentError(
            VAEParams,
            "batch",
            f"{min(params.batch, len(train))} rows for {processes} processes",
            "Start fewer processes, or raise it where there are people enough",
        )
    torch.manual_seed(params.seed)
    space = VAESpace(params.latent_dim, basis.layout, basis.kind, basis.latent_dim, params.width, params.layers)
    space.basis.load_state_dict(basis.state_dict(), assign=True)
    space.to(accelerator.device)
    validation = _unmapped(coordinates["validation"]).to(accelerator.device)
    encoder, decoder = space.encoder, space.decoder
    networks = nn.ModuleDict({"encoder": encoder, "decoder": decoder})
    optimizer = torch.optim.AdamW(networks.parameters(), params.lr, weight_decay=params.weight_decay)
    space.encoder, space.decoder, optimizer = accelerator.prepare(encoder, decoder, optimizer)
    history: list[dict] = []
    best: dict[str, Tensor] | None = None
    best_error, best_epoch = float("inf"), 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        networks.load_state_dict(state["networks"])
        optimizer.load_state_dict(state["optimizer"])
        history, best, best_error, best_epoch = (state[key] for key in ("history", "best", "best_error", "best_epoch"))

    kept_at = time.monotonic()
    bar = progress(
        range(len(history), params.epochs),
        "vae",
        initial=len(history),
        total=params.epochs,
        disable=not accelerator.is_main_process,
    )
    for epoch in bar:
        if epoch - best_epoch > params.patience:
            break
        row = {
            "epoch": epoch,
            **_train_epoch(space, train, optimizer, epoch, params, accelerator),
            **_validate(space, validation, coordinates["beyond"]),
        }
        # All processes use the main process's numbers, because rounding could make one stop before the others.
        row = broadcast_object_list([row])[0]
        history.append(row)
        # Judged without the KL term: a narrower posterior raises it although the means, which alone are used, improve.
        if row["validation_error"] < best_error:
            best_error, best_epoch = row["validation_error"], epoch
            best = {key: value.clone() for key, value in networks.state_dict().items()}
        bar.set_postfix(train=f"{row['train_error']:.4f}", validation=f"{row['validation_error']:.4f}", refresh=False)
        if accelerator.is_main_process and time.monotonic() - kept_at >= CHECKPOINT_SECONDS:
            state = {
                "networks": networks.state_dict(),
                "optimizer": optimizer.state_dict(),
                "history": history,
                "best": best,
                "best_error": best_error,
                "best_epoch": best_epoch,
            }
            write_atomically(checkpoint, partial(torch.save, state))
            kept_at = time.monotonic()

    assert best is not None, "the validation error is not finite"
    networks.load_state_dict(best)
    space.encoder, space.decoder = encoder, decoder
    for row in history:
        row["kept"] = int(row["epoch"] == best_epoch)
    space.cpu().requires_grad_(False).eval()
    space.standardise(_unmapped(block) for block in train.split(BLOCK_ROWS))
    return space, history


def _unmapped(tensor: Tensor) -> Tensor:
    # Matrix products of memory-mapped files, whose memory is not aligned, may round differently.
    return tensor.clone()


def _train_epoch(
    space: VAESpace, train: Tensor, optimizer: Optimizer, epoch: int, params: VAEParams, accelerator: Accelerator
) -> dict[str, float]:
    """One epoch on coordinates [n, basis]; this process takes its share of every batch."""
    weight, processes = kl_weight(epoch, params.epochs, params.kl), accelerator.num_processes
    group, generator = optimizer.param_groups[0], step_generator(params.seed, epoch)
    # The first epoch is the untrained space, which is the linear one; it is kept if training does not improve on it.
    group["lr"] = cosine_rate(epoch - 1, params.epochs, params.lr, warmup=5) if epoch else 0.0
    sums = torch.zeros(2, device=accelerator.device)
    for rows in torch.randperm(len(train), generator=generator).tensor_split(max(1, len(train) // params.batch)):
        noise = torch.randn(len(rows), params.latent_dim, generator=generator)
        own, noise = (each.tensor_split(processes)[accelerator.process_index] for each in (rows, noise))
        target = train[own].to(accelerator.device)
        mean, log_variance = space.posterior(target)
        z = mean + (0.5 * log_variance).exp() * noise.to(accelerator.device)
        error = reconstruction_error(space, space.decode_coordinates(z), target)
        kl = StandardNormal.kl_per_unit(mean, log_variance).sum()
        # Gradients of processes are averaged with equal weights, but one process may have a row more than another.
        share = len(own) * processes / len(rows)
        optimizer.zero_grad()
        accelerator.backward(share * (error + weight * kl / params.latent_dim))
        accelerator.clip_grad_norm_(group["params"], 1.0)
        optimizer.step()
        sums += torch.stack([error.detach(), kl.detach()]) * len(own) / len(train)
    error, kl = accelerator.reduce(sums, "sum").tolist()
    return {"kl_weight": weight, "train_error": error, "train_kl": kl}


@torch.no_grad()
def _validate(space: VAESpace, coordinates: Tensor, beyond: Tensor) -> dict[str, float | int]:
    mean, log_variance = space.posterior(coordinates)
    kl = StandardNormal.kl_per_unit(mean, log_variance)
    error = reconstruction_error(space, space.decode_coordinates(mean), coordinates) + beyond
    return {
        "validation_error": error.item(),
        "validation_kl": kl.sum().item(),
        "collapsed_units": int((kl < COLLAPSED_BELOW_NATS).sum()),
    }
