"""How peft, diffusers and kohya's trainer name the tensors of a LoRA."""

from dataclasses import dataclass

from w2wpp.files.errors import InputError
from w2wpp.lora.layout import WeightLayout

DOWN, UP, ALPHA = "down", "up", "alpha"


@dataclass(frozen=True)
class Place:
    """What a key means: part `DOWN` (A), `UP` (B) or `ALPHA` of a module, in the naming of a tool."""

    module: str
    part: str
    naming: str


class KeyTable:
    """Every key under which a layout's modules are known, made from the modules' own names and never taken apart.

    peft writes `base_model.model.[unet.]<module>.lora_A.weight`. diffusers writes `[unet.]<module>.lora_A.weight`,
    `[unet.]<module>.lora.down.weight` and, long ago, `[unet.]<parent>.processor.to_q_lora.down.weight`. kohya's trainer
    writes `lora_unet_<module, with underscores for dots>.lora_down.weight`. B is named alike; a scalar alpha may lie
    beside.

    Raises:
        ValueError: two modules of the layout have the same name in one of the namings.
    """

    def __init__(self, layout: WeightLayout) -> None:
        self._places: dict[str, Place] = {}
        self._stems: set[str] = set()
        for layer in layout.layers:
            module = layer.module
            parent, _, projection = module.removesuffix(".0").rpartition(".")
            for prefix in ("base_model.model.unet.", "base_model.model."):
                self._add(module, "peft", prefix + module, "lora_A", "lora_B")
            for prefix in ("unet.", ""):
                self._add(module, "diffusers", prefix + module, "lora_A", "lora_B")
                self._add(module, "diffusers", prefix + module, "lora.down", "lora.up")
                self._add(module, "diffusers", f"{prefix}{parent}.processor.{projection}_lora", "down", "up")
            self._add(module, "kohya", "lora_unet_" + module.replace(".", "_"), "lora_down", "lora_up")

    def _add(self, module: str, naming: str, stem: str, down: str, up: str) -> None:
        self._stems.add(stem)
        for part, ending in ((DOWN, f"{down}.weight"), (UP, f"{up}.weight"), (ALPHA, "alpha")):
            place = Place(module, part, naming)
            if self._places.setdefault(f"{stem}.{ending}", place) != place:
                raise ValueError(f"two modules of the layout are called {stem} in the {naming} naming")

    def sort(self, keys: list[str], where: str) -> tuple[str, dict[tuple[str, str], str], tuple[str, ...]]:
        """Tell the keys of the file `where` apart: its naming, the key of each (module, part), and all other keys.

        Raises:
            InputError: naming the first key that is given under a second name, belongs to another naming than the rest,
                or changes a module of the layout by something else than A, B and alpha; or a missing module.
        """
        found, others, naming = {}, [], None
        for key in sorted(keys):
            place = self._places.get(key)
            if place is None:
                if self._is_of_a_module(key):
                    raise InputError(where, key, "neither A, B nor alpha of a LoRA",
                                     "Only plain LoRAs can be read: no DoRA, LoHa, LoKr, convolutions or biases")
                others.append(key)
            elif naming not in (None, place.naming):
                raise InputError(where, key, f"named by {place.naming} in a file of {naming}", "Save it with one tool")
            elif (place.module, place.part) in found:
                raise InputError(where, key, f"the same as {found[place.module, place.part]}", "Remove one of them")
            else:
                naming = place.naming
                found[place.module, place.part] = key
        for module in dict.fromkeys(place.module for place in self._places.values()):
            for part, letter in ((DOWN, "A"), (UP, "B")):
                if (module, part) not in found:
                    raise InputError(where, module, f"no LoRA {letter} for this module",
                                     "It must adapt all targets and blocks that LoRAs are read for")
        return naming, found, tuple(others)

    def _is_of_a_module(self, key: str) -> bool:
        return any(key[:at] in self._stems for at, character in enumerate(key) if character == ".")


def is_of_text_encoder(key: str) -> bool:
    """Whether a key outside the layout belongs to a text encoder, in any of the namings."""
    return key.removeprefix("base_model.model.").startswith(("text_encoder", "text_model", "lora_te"))
