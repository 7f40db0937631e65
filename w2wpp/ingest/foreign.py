"""LoRAs made by other people's tools, read as weight vectors of a layout."""

import hashlib
import json
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import PICKLE_SUFFIXES, Entry, check_size, opened, printable, read_header, read_tensor
from w2wpp.ingest.keys import ALPHA, DOWN, UP, key_table
from w2wpp.ingest.kinds import is_of_text_encoder
from w2wpp.ingest.scale import positive, scale_beside, scale_in_metadata
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.rank_reduction import reduce_rank

MAX_RANK = 256
_WEIGHT_DTYPES = ("F16", "BF16", "F32")
# kohya's trainer keeps an alpha that was given as an integer as one, whatever the precision of the weights.
_ALPHA_DTYPES = (*_WEIGHT_DTYPES, "F64", "I32", "I64")


@dataclass(frozen=True)
class ForeignLora:
    """A LoRA as a layout has it.

    Attributes:
        vector: float32 [d], canonical (see `w2wpp.lora.rank_reduction.reduce_rank`), finite.
        naming: "peft", "diffusers", "kohya", "onetrainer" or "ldm", the names of Stable Diffusion's own code.
        rank: the highest of its modules' in the file.
        alpha_from: where alpha was found: "tensors", "metadata", "adapter_config.json", several of them joined by
            "and", or "rank" when nowhere, which means alpha = rank.
        energy: the share of the squared singular values of all products that the layout's rank keeps, 0 to 1.
        worst_module: the module that keeps the smallest share.
        worst_energy: that share, 0 to 1.
        ignored: keys of the file that belong to no module of the layout, sorted.
        beyond: those of them that are no LoRA either, such as biases, whole layers and embeddings.
        digest: SHA-256, in hex, of the file and of the adapter_config.json that was used.
    """

    vector: Tensor
    naming: str
    rank: int
    alpha_from: str
    energy: float
    worst_module: str
    worst_energy: float
    ignored: tuple[str, ...]
    beyond: tuple[str, ...]
    digest: str

    @property
    def of_text_encoder(self) -> tuple[str, ...]:
        """Those of the ignored keys that belong to a text encoder."""
        return tuple(filter(is_of_text_encoder, self.ignored))


def read_lora(path: str | Path, layout: WeightLayout) -> ForeignLora:
    """Read a safetensors LoRA with the keys of any trainer that `w2wpp.ingest.keys.KeyTable` knows.

    Its effect (alpha / rank) B A is kept, and expressed at the layout's own rank and alpha: a higher rank is cut to the
    best approximation, a lower one padded with zeros. alpha is that of the file's `.alpha` tensors, else of its
    metadata, else, for the keys of peft, of the adapter_config.json beside it, else the rank.

    Everything is checked before the first weight is read, and only weights of the layout's modules ever are, one module
    at a time, so that time and memory are bounded by the layout and the limits here and in `w2wpp.files.tensor_files`.

    Raises:
        InputError: naming file and key: the file cannot be read, is a pickle, or is no sound safetensors file within
            the limits of `tensor_files`; it mixes namings or adapters, lacks a module of the layout, or adapts one
            otherwise than by A and B (DoRA, LoHa, biases); a factor is not float16, bfloat16 or float32, has a wrong
            shape, a rank above `MAX_RANK` or a number that is not finite; alpha is no positive number; the
            configuration contradicts the tensors; the result exceeds float32.
    """
    path, where = Path(path), printable(path)
    if path.suffix.lower() in PICKLE_SUFFIXES:
        raise InputError(
            where,
            None,
            "a pickle by its name, which could run code when loaded",
            "Have it converted to safetensors by someone who trusts it",
        )
    with opened(path) as file:
        entries, metadata = read_header(file, where)
        keys = key_table(layout).sort(list(entries), where)
        check_size(file, where)
        found = {place: entries[key] for place, key in keys.found.items()}
        ranks = _check_shapes(found, layout, where)
        config = scale_in_metadata(metadata, where) or (scale_beside(path) if keys.naming == "peft" else None)
        parts, kept, energy, sources = [], {}, {}, set()
        for layer in layout.layers:
            module, rank = layer.module, ranks[layer.module]
            if (module, ALPHA) in found:
                scale, source = _alpha(file, found[module, ALPHA], where) / rank, "tensors"
            else:
                scale, source = (config.of(module, rank), config.source) if config else (1.0, "rank")
            sources.add(source)
            down, up = (read_tensor(file, found[module, part], where)[None] for part in (DOWN, UP))
            try:
                a, b, kept[module], energy[module] = reduce_rank(down, up, scale / layout.scale, layout.rank)
            except torch.linalg.LinAlgError as error:
                raise InputError(where, module, "its singular values cannot be computed", "Train it again") from error
            parts += [a.flatten(), b.flatten()]
            if not all(torch.isfinite(part).all() for part in parts[-2:]):
                raise InputError(where, module, "too large for float32", "Train this LoRA again")
        digest = _digest(file, config.config if config else None)
    shares = {module: float(kept[module] / energy[module]) if energy[module] > 0 else 1.0 for module in energy}
    whole = sum(energy.values())
    worst = min(shares, key=shares.__getitem__)
    return ForeignLora(
        vector=torch.cat(parts),
        naming=keys.naming,
        rank=max(ranks.values()),
        alpha_from=" and ".join(sorted(sources)),
        energy=float(sum(kept.values()) / whole) if whole > 0 else 1.0,
        worst_module=worst,
        worst_energy=shares[worst],
        ignored=keys.ignored,
        beyond=keys.beyond,
        digest=digest,
    )


def _check_shapes(found: dict[tuple[str, str], Entry], layout: WeightLayout, where: str) -> dict[str, int]:
    """The rank of every module, once dtypes and shapes of all its tensors are what the layout allows."""
    ranks = {}
    for layer in layout.layers:
        down, up = (found[layer.module, part] for part in (DOWN, UP))
        alpha = found.get((layer.module, ALPHA))
        for entry, dtypes in ((down, _WEIGHT_DTYPES), (up, _WEIGHT_DTYPES), (alpha, _ALPHA_DTYPES)):
            if entry and entry.dtype not in dtypes:
                raise InputError(where, entry.key, f"dtype {entry.dtype}", "Convert it to float16, bfloat16 or float32")
        rank = down.shape[0] if down.shape else 0
        if not 1 <= rank <= MAX_RANK:
            raise InputError(
                where, down.key, f"shape {list(down.shape)}: ranks 1 to {MAX_RANK} can be read", "Resize the LoRA"
            )
        for factor, shape in ((down, (rank, layer.fan_in)), (up, (layer.fan_out, rank))):
            if factor.shape != shape:
                raise InputError(
                    where,
                    factor.key,
                    f"shape {list(factor.shape)}, expected {list(shape)}",
                    "Use a LoRA of the same base model, of linear layers, with one rank in A and B",
                )
        if alpha and alpha.shape not in ((), (1,)):
            raise InputError(where, alpha.key, f"shape {list(alpha.shape)}, expected one number", "Save one alpha")
        ranks[layer.module] = rank
    return ranks


def _alpha(file: BinaryIO, entry: Entry, where: str) -> float:
    return positive(read_tensor(file, entry, where).item(), where, entry.key)


def _digest(file: BufferedReader, config: dict | None) -> str:
    """SHA-256 of an open file and a configuration: the same bytes beside another alpha are another LoRA."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(config, sort_keys=True).encode())
    return digest.hexdigest()
