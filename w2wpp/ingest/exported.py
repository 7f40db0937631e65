"""LoRA files that this project wrote in diffusers' format, read without loss."""

from pathlib import Path

from torch import Tensor

from w2wpp.files.tensor_files import Entry, opened, parse_object, printable, read_header, read_tensor
from w2wpp.ingest.scale import METADATA_KEY, positive
from w2wpp.lora.layout import Adapted, WeightLayout, flatten

_DTYPES = ("F16", "BF16", "F32")


def read_exported(path: str | Path) -> tuple[Tensor, WeightLayout] | None:
    """The weight vector float32 [d] that `w2wpp.lora.export.export_lora` wrote, and its layout.

    The file determines the layout: its metadata name every module in order, and all tensors have one rank.

    Returns:
        None for any other safetensors file, including another tool's LoRA.

    Raises:
        InputError: as of `w2wpp.ingest.foreign.read_lora`, for a file that is no sound safetensors file, or whose
            weights are not finite.
    """
    where = printable(path)
    with opened(Path(path)) as file:
        entries, metadata = read_header(file, where)
        layout = _layout(entries, metadata, where)
        if layout is None:
            return None
        state = {key: read_tensor(file, entries[f"unet.{key}"], where).float() for key, _, _ in layout.entries}
    return flatten(state, layout, where), layout


def _layout(entries: dict[str, Entry], metadata: dict[str, str], where: str) -> WeightLayout | None:
    if METADATA_KEY not in metadata:
        return None
    config = parse_object(metadata[METADATA_KEY], where, METADATA_KEY)
    modules = config.get("unet.target_modules")
    if not isinstance(modules, list) or not all(isinstance(module, str) for module in modules):
        return None
    rank, layers = config.get("unet.r"), []
    for module in modules:
        down, up = (entries.get(f"unet.{module}.lora_{letter}.weight") for letter in "AB")
        if down is None or up is None or down.dtype not in _DTYPES or up.dtype not in _DTYPES:
            return None
        if len(down.shape) != 2 or len(up.shape) != 2 or down.shape[0] != rank or up.shape[1] != rank:
            return None
        layers.append(Adapted(module, down.shape[1], up.shape[0]))
    if not layers or len(set(modules)) < len(modules) or len(entries) != 2 * len(layers) or not isinstance(rank, int):
        return None
    return WeightLayout(tuple(layers), rank, positive(config.get("unet.lora_alpha"), where, METADATA_KEY))
