"""Packs of many LoRAs, as the collect stage writes them: each tensor of a LoRA is stacked over people."""

from pathlib import Path

import torch

from w2wpp.compute.schedules import chunks
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import KEY

LORAS_PER_FILE = 500
_SCALE = ".scale"
_REMEDY = "Run `dvc repro -f collect`, or `git checkout data/zoo`"


def write_loras(folder: Path, name: str, layout: WeightLayout, weights: torch.Tensor) -> list[str]:
    """Write packs of the LoRAs of weights [n, d]; returns the file name of each LoRA.

    Packs are small, so that a growing zoo leaves existing files unchanged. A tensor that all LoRAs of a pack share is
    stored once, in float16. Each other tensor of a LoRA has its own scale and 8 bits per number. This loses a
    ten-thousandth of its variance; two LoRAs of one person differ by half of it.
    """
    files = []
    for first, count in chunks(len(weights), LORAS_PER_FILE):
        files += [f"{name}-{first:05d}.safetensors"] * count
        tensors = {}
        for key, part in layout.stack(weights[first : first + count]).items():
            if (part == part[0]).all():
                tensors[key] = part[:1].to(torch.float16)
            else:
                scale = part.abs().amax((1, 2), keepdim=True).clamp_min(1e-12) / 127
                tensors |= {key: (part / scale).round().to(torch.int8), key + _SCALE: scale}
        write_pack(folder / files[-1], tensors, {"layout": layout.to_meta()})
    return files


def read_loras(pack: Path, count: int, expected: WeightLayout | None) -> tuple[dict[str, torch.Tensor], WeightLayout]:
    """The tensors of `count` LoRAs, stacked, and their layout.

    Args:
        pack: of `write_loras`, whose tensors are returned in float16, or of `write_shard`, in their own dtype.
        expected: the required layout, if there is one.

    Raises:
        InputError: the pack is missing or malformed, or has another layout or number of LoRAs.
    """
    tensors, meta = read_pack(pack)
    layout = WeightLayout.from_meta(meta.get("layout", {}), str(pack))
    if expected and layout.hash != expected.hash:
        raise InputError(str(pack), "layout", "not the layout of the files before it", _REMEDY)
    short = [key for key, tensor in tensors.items() if len(tensor) not in (1, count)]
    if short:
        raise InputError(str(pack), short[0], f"{len(tensors[short[0]])} LoRAs, the manifest has {count}", _REMEDY)
    if tensors.keys() == {KEY}:
        if tensors[KEY].shape != (count, layout.dimension):
            raise InputError(
                str(pack), KEY, f"shape {list(tensors[KEY].shape)}, expected {[count, layout.dimension]}", _REMEDY
            )
        return layout.stack(tensors[KEY]), layout
    for key in [key for key in tensors if key + _SCALE in tensors]:
        tensors[key] = (tensors[key] * tensors.pop(key + _SCALE)).to(torch.float16)
    return {key: tensor.expand(count, *tensor.shape[1:]) for key, tensor in tensors.items()}, layout
