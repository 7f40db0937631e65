"""Trainers' names of the tensors of a LoRA of a Stable Diffusion UNet."""

import re
from dataclasses import dataclass
from functools import lru_cache

from w2wpp.files.errors import InputError
from w2wpp.ingest.kinds import bystander, change, other_model
from w2wpp.lora.layout import WeightLayout

DOWN, UP, ALPHA = "down", "up", "alpha"

# Prefixes of torch.compile, DistributedDataParallel, FSDP and gradient checkpointing in the paths of modules.
_WRAPPERS = {"_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
_PEFT = "base_model.model."
_PREFIXES = (_PEFT, "unet.", "model.diffusion_model.", "diffusion_model.")
_FLAT_PREFIXES = ("lora_unet_", "lycoris_")
# peft may leave the adapter's name between the factor and "weight".
_FACTOR = re.compile(r"\.lora(?:_(?P<ab>[AB])|_(?P<to>down|up)|\.(?P<old>down|up))(?:\.(?P<adapter>[^.]+))?\.weight$")
# The same, and the counterparts of text encoders.
_ANY_FACTOR = re.compile(r"[._]lora(?:_[AB]|_(?:linear_layer\.)?(?:down|up)|\.(?:down|up))(?:\.[^.]+)?\.weight$")
_ALPHA = re.compile(r"\.(?:lora_)?alpha$")


@dataclass(frozen=True)
class Place:
    """The meaning of a key: part `DOWN` (A), `UP` (B) or `ALPHA` of a module, in the naming of a tool.

    Attributes:
        adapter: peft's name of the adapter, "" if the key has none.
    """

    module: str
    part: str
    naming: str
    adapter: str = ""


@dataclass(frozen=True)
class Keys:
    """The keys of a file, sorted by meaning.

    Attributes:
        naming: "peft", "diffusers", "kohya", "onetrainer" or "ldm".
        found: the key of each (module, part) of the layout.
        ignored: keys that belong to no module of the layout, sorted.
        beyond: ignored keys that are neither A, B nor alpha of another module, such as biases, whole weights and
            embeddings. They change the model by more than a LoRA.
    """

    naming: str
    found: dict[tuple[str, str], str]
    ignored: tuple[str, ...]
    beyond: tuple[str, ...]


class KeyTable:
    """The modules of a layout by their names in trainers' files; names are compared, never parsed.

    peft writes `base_model.model.[unet.]<module>.lora_A[.<adapter>].weight`. diffusers writes
    `[unet.]<module>.lora_A.weight`, `[unet.]<module>.lora.down.weight` and, long ago,
    `[unet.]<parent>.processor.to_q_lora.down.weight`. kohya's trainer, ai-toolkit and LyCORIS write `lora_unet_<module,
    with underscores for dots>.lora_down.weight` (LyCORIS alone: `lycoris_`), OneTrainer
    `unet.<module>.lora_down.weight` or, for ComfyUI, `diffusion_model.<module in the original code>.lora_A.weight`. B
    is named likewise, and a scalar alpha may accompany them. Wrappers add `_orig_mod.` and the like to any of these.

    Raises:
        ValueError: two modules of the layout have the same name.
    """

    def __init__(self, layout: WeightLayout) -> None:
        self._modules = tuple(layer.module for layer in layout.layers)
        self._stems: dict[str, tuple[str, str]] = {}
        for module in self._modules:
            names = {module: "", module.removesuffix(".0"): ""}  # a processor's to_out is the layer to_out.0
            original = _original_name(module)
            if original:
                names[original] = "ldm"
            for name, naming in names.items():
                for stem in (name, *(prefix + name.replace(".", "_") for prefix in _FLAT_PREFIXES)):
                    if self._stems.setdefault(stem, (module, naming)) != (module, naming):
                        raise ValueError(f"two modules of the layout are called {stem}")

    def sort(self, keys: list[str], where: str) -> Keys:
        """Sort the keys of the file `where` by meaning.

        Raises:
            InputError: naming the first key that occurs under a second name, belongs to another naming or adapter than
                the rest, or changes a module of the layout by anything but A, B and alpha. Or naming a missing module;
                if all are missing, a key that identifies the file.
        """
        meanings = {key: self._place(key) for key in sorted(keys)}
        places = {key: place for key, place in meanings.items() if place}
        found, ignored = self._found(places, where), tuple(key for key, place in meanings.items() if not place)
        for key in ignored:
            rest = self._after_module(key)
            if rest:
                kind = change(rest)
                raise InputError(
                    where,
                    key,
                    "neither A, B nor alpha of a LoRA" + (f" ({kind})" if kind else ""),
                    "Only plain LoRAs can be read: no DoRA, LoHa, LoKr, convolutions or biases",
                )
        if not found:
            self._refuse(keys, where)
        for module in self._modules:
            for part, letter in ((DOWN, "A"), (UP, "B")):
                if (module, part) not in found:
                    other = other_model(ignored)
                    hint = f", and {other[0]} looks like {other[1]}" if other else ""
                    raise InputError(
                        where,
                        module,
                        f"no LoRA {letter} for this module{hint}",
                        "It must adapt all targets and blocks that LoRAs are read for",
                    )
        beyond = tuple(key for key in ignored if not _ANY_FACTOR.search(key) and not _ALPHA.search(key))
        return Keys(places[found[self._modules[0], DOWN]].naming, found, ignored, beyond)

    def _found(self, places: dict[str, Place], where: str) -> dict[tuple[str, str], str]:
        """The key of each (module, part), after checking that all have one naming and one adapter."""
        found: dict[tuple[str, str], str] = {}
        first = next((place for place in places.values() if place.part != ALPHA), None)
        for key, place in places.items():
            # The key of an alpha is the same in the namings of OneTrainer and diffusers.
            named = "onetrainer" if place.part == ALPHA and place.naming == "diffusers" else place.naming
            if first and first.naming not in (place.naming, named):
                raise InputError(
                    where, key, f"named by {place.naming} in a file of {first.naming}", "Save it with one tool"
                )
            if first and place.part != ALPHA and place.adapter != first.adapter:
                raise InputError(
                    where,
                    key,
                    f"of the adapter {place.adapter!r}, where others are of {first.adapter!r}",
                    "Save each adapter alone, as peft does with save_pretrained(selected_adapters=[name])",
                )
            if (place.module, place.part) in found:
                raise InputError(where, key, f"the same as {found[place.module, place.part]}", "Remove one of them")
            found[place.module, place.part] = key
        return found

    def _place(self, key: str) -> Place | None:
        """The meaning of a key; None if it belongs to no module of the layout, or is neither A, B nor alpha."""
        plain, by_peft = _unwrapped(key)
        factor = _FACTOR.search(plain)
        ending = factor or _ALPHA.search(plain)
        if not ending or plain[: ending.start()] not in self._stems:
            return None
        module, naming = self._stems[plain[: ending.start()]]
        flat = plain.startswith(_FLAT_PREFIXES)
        naming = naming or ("kohya" if flat else "peft" if by_peft else "diffusers")
        if not factor:
            return Place(module, ALPHA, naming)
        if factor["to"] and naming == "diffusers":
            naming = "onetrainer"
        is_down = (factor["ab"] or factor["to"] or factor["old"]) in ("A", "down")
        return Place(module, DOWN if is_down else UP, naming, factor["adapter"] or "")

    def _after_module(self, key: str) -> str:
        """The part of a key after the name of a module of the layout; empty if the key contains no such name."""
        plain, _ = _unwrapped(key)
        return next(
            (plain[at + 1 :] for at in range(len(plain) - 1, 0, -1) if plain[at] == "." and plain[:at] in self._stems),
            "",
        )

    def _refuse(self, keys: list[str], where: str) -> None:
        """Identify a file that adapts no module of the layout."""
        if not keys:
            raise InputError(where, None, "holds no tensors", "Fetch it again, or delete it")
        beside = bystander(keys)
        if beside:
            raise InputError(where, *beside, "Leave it out; the LoRA of the UNet is another file")
        key, kind = other_model(keys) or (min(keys), "no LoRA of the UNet, or one with names that are not known here")
        raise InputError(
            where,
            key,
            kind if kind.startswith("no ") else f"looks like {kind}",
            "Give LoRAs of the base model, which adapt all targets and blocks that LoRAs are read for",
        )


@lru_cache(maxsize=4)
def key_table(layout: WeightLayout) -> KeyTable:
    """The `KeyTable` of a layout, cached."""
    return KeyTable(layout)


def _unwrapped(key: str) -> tuple[str, bool]:
    """A key without the prefixes of wrappers around the UNet, and whether peft's is among them."""
    plain, by_peft = ".".join(part for part in key.split(".") if part not in _WRAPPERS), False
    while plain.startswith(_PREFIXES):
        prefix = next(prefix for prefix in _PREFIXES if plain.startswith(prefix))
        plain, by_peft = plain.removeprefix(prefix), by_peft or prefix == _PEFT
    plain = re.sub(r"^(lora_unet_|lycoris_)_orig_mod_", r"\1", plain)
    return re.sub(r"\.processor\.(to_[a-z]+)_lora\.", r".\1.lora.", plain), by_peft


def _original_name(module: str) -> str | None:
    """A module's name in the original code of Stable Diffusion 1 and 2; None if the code has no such module.

    Each of its down blocks has two transformers and a downsampling layer; each up block has three transformers.
    """
    match = re.fullmatch(r"(?:(down|up)_blocks\.(\d)|(mid)_block)\.attentions\.(\d)\.(.+)", module)
    if not match:
        return None
    way, block, middle, place, rest = match.groups()
    if middle:
        return f"middle_block.1.{rest}" if place == "0" else None
    if int(place) >= (2 if way == "down" else 3):
        return None
    number = 3 * int(block) + int(place)
    return f"input_blocks.{number + 1}.1.{rest}" if way == "down" else f"output_blocks.{number}.1.{rest}"
