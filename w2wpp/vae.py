"""Training of the w2w++ VAE with KL annealing (Bowman et al. 2016, arXiv 1511.06349)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from w2wpp.params import KLParams, VAEParams
from w2wpp.runtime import progress
from w2wpp.spaces import PCASpace, PredictionPCASpace, VAESpace
from w2wpp.training import cosine_rate, step_generator

COLLAPSED_BELOW_NATS = 0.01


def kl_weight(epoch: int, epochs: int, params: KLParams) -> float:
    """The weight of the KL term: constant, rising once, or rising in cycles (Fu et al. 2019, arXiv 1903.10145)."""
    if params.schedule == "none":
        return params.weight
    period = epochs / (params.cycles if params.schedule == "cyclical" else 1)
    return params.weight * min(1.0, (epoch % period) / period / params.warmup)


def kl_per_unit(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q(z | w) || N(0, 1)) in nats per latent unit, averaged over a batch [n, k] -> [k]."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean(0)


def reconstruction_error(space: VAESpace, output: Tensor, target: Tensor) -> Tensor:
    """Squared error in the basis' metric, relative to the training variance, of coordinates [n, basis] (scalar)."""
    variance = space.basis.scales.square()
    return ((output - target).square() * variance).sum(1).mean() / variance.sum()


def error_beyond(basis: PCASpace | PredictionPCASpace, weights: Tensor) -> Tensor:
    """The part of `reconstruction_error` that weight vectors [n, d] owe to what `basis` cannot hold (scalar).

    It is zero for the people whom the basis was fitted to, and most of the error of others.
    """
    return basis.unexplained(weights).mean() / basis.scales.square().sum()


def train_vae(train: Iterable[Tensor], validation: Tensor, basis: PCASpace | PredictionPCASpace, params: VAEParams
              ) -> tuple[VAESpace, list[dict]]:
    """Train on the training people, keep the epoch that is best on the validation people.

    Args:
        train: weight vectors, in blocks [*, d] that are read once; of all of them, only coordinates are in memory.
        validation: weight vectors [m, d] float32 of people who are never trained on.
        basis: all principal components of `train`, the leading ones of very many vectors, or of their predictions.

    Returns:
        The space, and one row per epoch: kl_weight, and of both splits the relative reconstruction error and the KL in
        nats; of the validation people also the number of collapsed units (below 0.01 nats).
    """
    torch.manual_seed(params.seed)
    space = VAESpace(params.latent_dim, basis.layout, params.metric, basis.latent_dim, params.width, params.layers)
    space.basis.load_state_dict(basis.state_dict())
    beyond = error_beyond(basis, validation)
    train = torch.cat([basis.encode(block.float()) for block in train])
    validation = basis.encode(validation)
    trained = [*space.encoder.parameters(), *space.decoder.parameters()]
    optimizer = torch.optim.AdamW(trained, params.lr, weight_decay=params.weight_decay)
    history, best, best_loss, best_epoch = [], None, float("inf"), 0
    batches = max(1, len(train) // params.batch)
    bar = progress(range(params.epochs), "vae")
    for epoch in bar:
        weight = kl_weight(epoch, params.epochs, params.kl)
        generator = step_generator(params.seed, epoch)
        sums = torch.zeros(2)
        for rows in torch.randperm(len(train), generator=generator).tensor_split(batches):
            mean, log_variance = space.posterior(train[rows])
            z = mean + (0.5 * log_variance).exp() * torch.randn(mean.shape, generator=generator)
            error = reconstruction_error(space, space.decode_coordinates(z), train[rows])
            kl = kl_per_unit(mean, log_variance).sum()
            optimizer.param_groups[0]["lr"] = cosine_rate(epoch, params.epochs, params.lr, warmup=5)
            optimizer.zero_grad()
            (error + weight * kl / params.latent_dim).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            sums += torch.stack([error.detach(), kl.detach()]) * len(rows) / len(train)
        row = {"epoch": epoch, "kl_weight": weight, "train_error": sums[0].item(), "train_kl": sums[1].item(),
               **_validate(space, validation, beyond)}
        history.append(row)
        # Judged with the final KL weight, or annealing itself would look like progress or its opposite.
        loss = row["validation_error"] + params.kl.weight * row["validation_kl"] / params.latent_dim
        if loss < best_loss:
            best_loss, best_epoch = loss, epoch
            best = {key: value.clone() for key, value in space.state_dict().items()}
        bar.set_postfix(train=f"{row['train_error']:.4f}", validation=f"{row['validation_error']:.4f}", refresh=False)
        if epoch - best_epoch >= params.patience:
            break
    space.load_state_dict(best)
    for row in history:
        row["kept"] = int(row["epoch"] == best_epoch)
    return space.requires_grad_(False).eval(), history


@torch.no_grad()
def _validate(space: VAESpace, coordinates: Tensor, beyond: Tensor) -> dict[str, float | int]:
    mean, log_variance = space.posterior(coordinates)
    kl = kl_per_unit(mean, log_variance)
    error = reconstruction_error(space, space.decode_coordinates(mean), coordinates) + beyond
    return {"validation_error": error.item(), "validation_kl": kl.sum().item(),
            "collapsed_units": int((kl < COLLAPSED_BELOW_NATS).sum())}
