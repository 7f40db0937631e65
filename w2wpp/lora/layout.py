"""The order of a LoRA's tensors in a weight vector, and the conversion in both directions."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.settings import Positive, Prompt, Section

LoraTarget = Literal[
    "to_q",
    "to_k",
    "to_v",
    "to_out.0",
    "proj_in",
    "proj_out",
    "ff.net.0.proj",
    "ff.net.2",
    "attn1.to_q",
    "attn1.to_k",
    "attn1.to_v",
    "attn1.to_out.0",
    "attn2.to_q",
    "attn2.to_k",
    "attn2.to_v",
    "attn2.to_out.0",
]
LORA_TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)
# Down, middle, up is the order of the weights2weights data; nn.Module registers up before middle.
_BLOCK_ORDER = ("down_blocks", "mid_block", "up_blocks")


class LoraParams(Section):
    """The weights of the UNet that a LoRA adapts; weights2weights adapts to_q and to_v everywhere at rank 1."""

    rank: Annotated[int, Field(ge=1, le=64)] = 12
    """Rank of every adapted layer."""
    alpha: Positive = 24.0
    """The update is scaled by alpha / rank."""
    targets: Annotated[list[LoraTarget], Field(min_length=1)] = Field(
        ["proj_in", "proj_out", "attn1.to_v", "attn1.to_out.0", "ff.net.0.proj", "ff.net.2"]
    )
    """Linear layers of the UNet's transformers."""
    blocks: list[Prompt] = Field(["down_blocks.0", "up_blocks.1"])
    """Parts of the UNet to adapt; an empty list adapts all."""


@dataclass(frozen=True)
class Adapted:
    """One adapted linear layer: its module path and its fan-in and fan-out."""

    module: str
    fan_in: int
    fan_out: int


@dataclass(frozen=True)
class WeightLayout:
    """The place of every LoRA tensor in a weight vector of `dimension` numbers.

    Each adapted layer has first A [rank, fan_in], then B [fan_out, rank], both row-major. Layers have the order down,
    mid, up, and within these the UNet's own: attn1 before attn2, q before k before v before out. For Stable Diffusion
    1.5 at rank 1 with targets to_q and to_v this is the order of the published weights2weights vectors (d = 99,648).

    Attributes:
        layers: the adapted layers in order.
        rank: r of every layer.
        alpha: the LoRA's contribution is scaled by alpha / rank.
    """

    layers: tuple[Adapted, ...]
    rank: int
    alpha: float

    @classmethod
    def of_unet(
        cls, unet: nn.Module, rank: int, alpha: float, targets: Sequence[str], blocks: Sequence[str] = ()
    ) -> "WeightLayout":
        """The layout for the linear layers `targets`, such as "to_q" or "attn1.to_q", of the transformers of a UNet.

        Args:
            blocks: the parts of the UNet whose transformers are adapted, such as "up_blocks.1"; empty for all.

        Raises:
            InputError: the UNet has no such linear layer, or a block has none of the targets.
        """
        endings = tuple("." + target for target in targets)
        found = {
            name: module
            for name, module in unet.named_modules()
            if ".attentions." in name and name.endswith(endings) and isinstance(module, nn.Linear)
        }
        missing = [target for target in targets if not any(name.endswith("." + target) for name in found)]
        if missing:
            raise ArgumentError(
                LoraParams,
                "targets",
                f"no transformer of the UNet has a linear {missing[0]!r}",
                f"Known: {', '.join(LORA_TARGETS)}; proj_in and proj_out are convolutions in some UNets",
            )

        for block in blocks:
            if not any(name.startswith(block + ".") for name in found):
                raise ArgumentError(
                    LoraParams,
                    "blocks",
                    f"no {' or '.join(targets)} in a {block!r} of the UNet",
                    f"It has {', '.join(sorted({name.split('.transformer')[0] for name in found}))}",
                )
        if blocks:
            found = {
                name: module
                for name, module in found.items()
                if name.startswith(tuple(block + "." for block in blocks))
            }

        def block_of(name: str) -> int:
            return _BLOCK_ORDER.index(name.split(".")[0])

        layers = tuple(
            Adapted(name, found[name].in_features, found[name].out_features) for name in sorted(found, key=block_of)
        )
        return cls(layers, rank, alpha)

    @cached_property
    def entries(self) -> tuple[tuple[str, tuple[int, int], int], ...]:
        """(key, shape, offset) of every tensor in order; keys are peft's, relative to the UNet."""
        entries, offset = [], 0
        for layer in self.layers:
            for part, shape in (("lora_A", (self.rank, layer.fan_in)), ("lora_B", (layer.fan_out, self.rank))):
                entries.append((f"{layer.module}.{part}.weight", shape, offset))
                offset += shape[0] * shape[1]
        return tuple(entries)

    @cached_property
    def dimension(self) -> int:
        """d, the length of a weight vector."""
        return sum(self.rank * (layer.fan_in + layer.fan_out) for layer in self.layers)

    @cached_property
    def in_B(self) -> Tensor:
        """bool [d]: True for the entries of a weight vector that belong to a B."""
        return torch.cat([torch.full((shape[0] * shape[1],), ".lora_B." in key) for key, shape, _ in self.entries])

    @property
    def scale(self) -> float:
        """alpha / rank, the factor of B A x."""
        return self.alpha / self.rank

    @cached_property
    def hash(self) -> str:
        """16 hex digits over keys, shapes, offsets, rank and alpha; equal hashes mean interchangeable vectors."""
        return hashlib.sha256(json.dumps([self.entries, self.rank, float(self.alpha)]).encode()).hexdigest()[:16]

    def to_meta(self) -> dict:
        """A JSON-able description, undone by `from_meta`."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "rank": self.rank,
            "alpha": self.alpha,
            "dimension": self.dimension,
            "hash": self.hash,
        }

    @classmethod
    def from_meta(cls, meta: dict, where: str) -> "WeightLayout":
        """Undo `to_meta`.

        Raises:
            InputError: `meta` (read from the file `where`) is no layout, or does not match its own hash.
        """
        try:
            layout = cls(tuple(Adapted(**layer) for layer in meta["layers"]), int(meta["rank"]), float(meta["alpha"]))
            claimed, actual = meta["hash"], layout.hash
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                where, "layout", f"not a weight layout ({error!r})", "Run the stage that wrote it"
            ) from error
        if actual != claimed:
            raise InputError(
                where,
                "layout",
                f"hash {actual} differs from the recorded {claimed}",
                "Run the stage that wrote it again",
            )
        return layout

    def stack(self, weights: Tensor) -> dict[str, Tensor]:
        """Weight vectors [n, d] to the tensors of n LoRAs [n, *shape], keyed as `entries`."""
        parts = [part for pair in self.split(weights).values() for part in pair]
        return {key: part for (key, _, _), part in zip(self.entries, parts, strict=True)}

    def split(self, weights: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Views (A [n, rank, fan_in], B [n, fan_out, rank]) per module of weight vectors [n, d]; differentiable."""
        if weights.ndim != 2 or weights.shape[1] != self.dimension:
            raise ValueError(f"expected weights [n, {self.dimension}], got {list(weights.shape)}")
        views = [
            weights[:, offset : offset + shape[0] * shape[1]].unflatten(1, shape) for _, shape, offset in self.entries
        ]
        return {layer.module: (views[2 * i], views[2 * i + 1]) for i, layer in enumerate(self.layers)}


def flatten(state: dict[str, Tensor], layout: WeightLayout, where: str) -> Tensor:
    """One LoRA, keyed as `layout.entries`, to a weight vector [d] of the tensors' common dtype.

    Raises:
        InputError: naming file `where` and the first key that is missing, unexpected, of another shape, not float16,
            bfloat16 or float32, of another dtype than the rest, or not finite.
    """
    expected = {key: shape for key, shape, _ in layout.entries}
    unexpected = sorted(state.keys() - expected.keys())
    if unexpected:
        raise InputError(where, unexpected[0], "unexpected key", "Check the targets that LoRAs are read for")
    dtypes = set()
    for key, shape in expected.items():
        if key not in state:
            raise InputError(where, key, "key missing", "Check the targets that LoRAs are read for")
        tensor = state[key]
        if tuple(tensor.shape) != shape:
            raise InputError(where, key, f"shape {list(tensor.shape)}, expected {list(shape)}", "Check the rank")
        if tensor.dtype not in (torch.float16, torch.bfloat16, torch.float32):
            raise InputError(where, key, f"dtype {tensor.dtype}", "Convert it to float16, bfloat16 or float32")
        dtypes.add(tensor.dtype)
        if len(dtypes) > 1:
            raise InputError(where, key, "tensors of several dtypes", "Convert them to one dtype")
        if not torch.isfinite(tensor).all():
            raise InputError(where, key, "not finite", "Train this LoRA again")
    return torch.cat([state[key].reshape(-1) for key in expected])


def unflatten(weights: Tensor, layout: WeightLayout) -> dict[str, Tensor]:
    """A weight vector [d] to the tensors of one LoRA; the exact inverse of `flatten`.

    Raises:
        ValueError: the vector's length is not the layout's dimension.
    """
    if weights.shape != (layout.dimension,):
        raise ValueError(f"expected weights [{layout.dimension}], got {list(weights.shape)}")
    return {
        key: weights[offset : offset + shape[0] * shape[1]].reshape(shape).clone()
        for key, shape, offset in layout.entries
    }
