"""What is in a LoRA or a space, in words, and what it fits."""

from collections import Counter
from pathlib import Path

import torch

from w2wpp.api import artifacts
from w2wpp.api.person import Person, check_fit, decode, load_lora, load_space, shared_rows
from w2wpp.diffusion.pretrained import empty_unet
from w2wpp.files.errors import InputError
from w2wpp.files.folders import expanded
from w2wpp.files.storage import open_pack
from w2wpp.files.tensor_files import opened, printable, read_header
from w2wpp.ingest.exported import read_exported
from w2wpp.ingest.foreign import read_lora
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.products import product_distance
from w2wpp.spaces.base import WeightSpace


def description(file: Path, space: str, base: str) -> dict[str, str]:
    """What a file holds and what it fits, a line each by its first word.

    Args:
        file: a space, or a LoRA.
        space: that a LoRA may fit, see `w2wpp.load_space`.
        base: that either may fit, see `w2wpp.load_base`.

    Raises:
        InputError: the file cannot be read, or is neither.
    """
    file = expanded(file)
    if _is_pack(file):
        return {"file": _size(file)} | _of_space(load_space(file), base)
    with opened(file) as content:
        entries, _ = read_header(content, printable(file))
    dtypes = Counter(entry.dtype for entry in entries.values())
    tensors = ", ".join(f"{count} {dtype}" for dtype, count in dtypes.items())
    return {"file": f"{_size(file)}, tensors: {tensors}"} | _of_lora(file, space, base)


def _is_pack(file: Path) -> bool:
    try:
        with open_pack(file):
            return True
    except InputError:
        return False


def _size(file: Path) -> str:
    return f"{printable(file)}, {file.stat().st_size / 1e6:.1f} MB"


def _of_space(space: WeightSpace, base: str) -> dict[str, str]:
    one_A = shared_rows(space) is not None
    config = ", ".join(f"{key} {value}" for key, value in space.config().items() if key != "latent_dim")
    return {
        "space": f"{space.kind}, {space.latent_dim} dimensions" + (f" ({config})" if config else ""),
        "LoRAs": _in_words(space.layout) + (", one A for all" if one_A else ""),
        "base": _fit(space.layout, base),
    }


def _of_lora(file: Path, space: str, base: str) -> dict[str, str]:
    exported, lines = read_exported(file), {"LoRA": "not written by w2w++ for diffusers"}
    if exported:
        lines = {"LoRA": f"of w2w++ for diffusers; {_in_words(exported[1])}", "base": _fit(exported[1], base)}
    try:
        loaded = load_space(space)
        if not exported:
            lora = read_lora(file, loaded.layout)
            cut = f", {lora.energy:.1%} of it within rank {loaded.layout.rank}" if lora.energy < 1 else ""
            besides = f"; {len(lora.ignored)} keys of other modules" if lora.ignored else ""
            naming = f"in the keys of {lora.naming}, rank {lora.rank}, alpha from {lora.alpha_from}"
            lines = {"LoRA": naming + cut + besides, "base": _fit(loaded.layout, base)}
        return lines | {"space": _kept(load_lora(file, loaded), space)}
    except InputError as error:
        return lines | {"space": f"{space} does not fit, or is not there: {error}"}


def _kept(person: Person, name: str) -> str:
    """How much of what tells a LoRA from the mean of its space the space keeps."""
    points = decode(torch.stack([torch.zeros_like(person.z), person.z]), person.space)
    whole, lost = (product_distance(person.weights, point, person.layout) for point in points)
    share = max(0.0, 1 - (lost / whole) ** 2) if whole else 1.0
    return (
        f"fits {name}; {person.z.norm():.1f} from its mean, where people lie at "
        f"{person.space.latent_dim**0.5:.1f} or so; the space keeps {share:.0%} of what tells it from the mean"
    )


def _in_words(layout: WeightLayout) -> str:
    targets = Counter(
        layer.module.rpartition("transformer_blocks.")[2].split(".", 1)[-1]
        if "transformer_blocks." in layer.module
        else layer.module.rpartition(".")[2]
        for layer in layout.layers
    )
    blocks = dict.fromkeys(layer.module.split(".attentions")[0] for layer in layout.layers)
    return (
        f"rank {layout.rank}, alpha {layout.alpha:g}, {layout.dimension} numbers in {len(layout.layers)} layers: "
        f"{', '.join(targets)} of {', '.join(blocks)}"
    )


def _fit(layout: WeightLayout, base: str) -> str:
    try:
        check_fit(layout, empty_unet(artifacts.base_folder(base)))
    except InputError as error:
        return f"does not fit {base}: {error.reason}"
    return f"fits {base}"
