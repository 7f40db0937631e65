"""The training loop: scheduled steps of an optimizer on a loss, with optional averaged weights and a checkpoint.

Only the VAE has its own loop, for early stopping and gradients from several processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from w2wpp.compute.runtime import progress
from w2wpp.files.storage import write_atomically

CHECKPOINT_EVERY = 250  # steps
SHOWN_OVER = 50  # steps in the mean loss that the progress bar shows


@dataclass(frozen=True)
class Checkpoint:
    """The file that a training resumes from, and the trained modules by their names in it."""

    path: Path
    modules: dict[str, nn.Module]


def train(
    label: str | None,
    losses_of: Callable[[int], Tensor],
    optimizer: Optimizer,
    rate: Callable[[int], float],
    steps: int,
    *,
    clip: float | None = None,
    ema: float = 0.0,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Take the steps 0 .. steps - 1 of an optimizer, in place.

    Args:
        label: a name for the progress bar; None for no bar.
        losses_of: the losses of a step, a scalar or one of each independent problem [n], whose sum is minimised. Where
            there is a checkpoint, its random numbers must be those of a `step_generator`, so that a resumed run repeats
            an unbroken one.
        optimizer: of all that is trained.
        rate: the learning rate of a step.
        clip: limit of the gradient's norm.
        ema: decay of the averaged weights, which replace the trained ones at the end; 0 for none.
        checkpoint: written every `CHECKPOINT_EVERY` steps and at the end; training resumes from it if it exists.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    averages = [parameter.detach().clone() for parameter in parameters] if ema else []
    first = 0
    if checkpoint and checkpoint.path.exists():
        state = torch.load(checkpoint.path, map_location=parameters[0].device, weights_only=True)
        for key, module in checkpoint.modules.items():
            module.load_state_dict(state[key])
        optimizer.load_state_dict(state["optimizer"])
        averages, first = state["averages"], state["step"]

    bar = progress(range(first, steps), label, initial=first, total=steps)
    shown = 0.0
    for step in bar:
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        losses = losses_of(step)
        optimizer.zero_grad()
        losses.sum().backward()
        if clip:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        if ema:
            torch._foreach_lerp_(averages, [p.detach() for p in parameters], 1 - min(ema, (1 + step) / (10 + step)))
        shown += (losses.mean().item() - shown) / min(step - first + 1, SHOWN_OVER)
        bar.set_postfix(loss=f"{shown:.4f}", refresh=False)
        if checkpoint and ((step + 1) % CHECKPOINT_EVERY == 0 or step + 1 == steps):
            state = {key: module.state_dict() for key, module in checkpoint.modules.items()}
            state |= {"optimizer": optimizer.state_dict(), "averages": averages, "step": step + 1}
            write_atomically(checkpoint.path, partial(torch.save, state))
    if ema:
        with torch.no_grad():
            for parameter, average in zip(parameters, averages, strict=True):
                parameter.copy_(average)
