"""Per-sample LoRA adapters: in one batch through a frozen UNet, sample i uses LoRA i."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from w2wpp.files.errors import InputError
from w2wpp.lora.layout import WeightLayout


class Early(NamedTuple):
    """Other LoRAs that adapt the UNet at noisy timesteps: weight vectors [n, d], used from `timestep` upwards."""

    weights: Tensor
    timestep: int


@contextmanager
def adapted(unet: nn.Module, layout: WeightLayout, weights: Tensor, early: Early | None = None) -> Iterator[None]:
    """Within this context the adapted layers of `unet` compute W x + scale * B_i (A_i x) for sample i.

    A batch of m * n samples is m repetitions of the n LoRAs in order (0 .. n-1, 0 .. n-1, ...), which is how diffusers
    stacks the unconditional and the conditional half of classifier-free guidance. Gradients reach `weights`.

    Args:
        weights: weight vectors [n, d] on the device of the UNet; they are cast to its dtype.
        early: what takes their place where the UNet is called with a noisy timestep, one for the whole batch; None for
            nothing.

    Raises:
        ValueError: the weights have another dimension than the layout, or a batch is no multiple of n.
        InputError: the UNet has no such layers.
    """
    count = weights.shape[0]
    modules = dict(unet.named_modules())
    missing = [layer.module for layer in layout.layers if layer.module not in modules]
    if missing:
        raise InputError(
            "base model",
            missing[0],
            "the UNet has no such layer, but the weights are of it",
            "Use the base model that the LoRAs were trained on",
        )

    dtype = next(unet.parameters()).dtype
    late = layout.split(weights.to(dtype))
    noisy = late if early is None else layout.split(early.weights.to(dtype))
    current = late

    def choose(_, inputs: tuple) -> None:
        nonlocal current
        current = noisy if early and inputs[1] >= early.timestep else late

    def hook(name: str):
        def add(_, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = inputs[0]  # [m * n, length, fan_in]
            if x.shape[0] % count:
                raise ValueError(f"a batch of {x.shape[0]} cannot be shared among {count} LoRAs")
            down, up = current[name]
            x = x.unflatten(0, (-1, count))  # [m, n, length, fan_in]
            return output + layout.scale * (x @ down.mT @ up.mT).flatten(0, 1)

        return add

    with ExitStack() as hooks:
        if early is not None:
            hooks.enter_context(unet.register_forward_pre_hook(choose))
        for name in late:
            hooks.enter_context(modules[name].register_forward_hook(hook(name)))
        yield


def initial_weights(layout: WeightLayout, seed: int) -> Tensor:
    """The initial weight vector [d] of every LoRA: A as in peft (Kaiming uniform with a = sqrt 5), B zero.

    All people share it, so that their LoRAs are comparable coordinate by coordinate (weights2weights, sec. 3.1).
    """
    generator = torch.Generator().manual_seed(seed)
    weights = torch.zeros(1, layout.dimension)
    for down, _ in layout.split(weights).values():
        bound = 1 / math.sqrt(down.shape[-1])
        down.uniform_(-bound, bound, generator=generator)
    return weights[0]
