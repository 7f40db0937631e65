"""A LoRA's scale, alpha / rank, from its configuration."""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from w2wpp.files.errors import InputError
from w2wpp.files.tensor_files import opened, parse_object, printable

CONFIG_NAME = "adapter_config.json"
METADATA_KEY = "lora_adapter_metadata"
MAX_CONFIG_BYTES = 2**20

# peft's options under which the adapted weight is not the base model's W plus scale * B A.
_OTHER_MODELS = (
    "use_dora",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "kasa_config",
    "monteclora_config",
    "arrow_config",
    "alora_invocation_tokens",
)
_OTHER_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")


def positive(value: object, where: str, key: str) -> float:
    """A positive, finite number.

    Raises:
        InputError: naming `where` and `key`: the value is no such number.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 2.0**64:
        return float(value)
    raise InputError(where, key, f"{printable(repr(value))}, expected a positive number", "Train this LoRA again")


@dataclass(frozen=True)
class LoraScale:
    """The scales of a LoRA's modules by a peft configuration.

    Attributes:
        config: the configuration's fields.
        where: the file that holds it.
        source: "metadata", or "adapter_config.json" when it is a file of its own.

    Raises:
        InputError: the configuration is not that of a plain LoRA of the unchanged model.
    """

    config: dict
    where: str
    source: str

    def __post_init__(self) -> None:
        for option in _OTHER_MODELS:
            if self.config.get(option):
                raise InputError(self.where, option, "set, so this is no plain LoRA", "Train it without")
        if str(self.config.get("init_lora_weights")).lower().startswith(_OTHER_BASES):
            raise InputError(
                self.where,
                "init_lora_weights",
                "the LoRA belongs to a changed base model",
                "Convert it to a LoRA of the unchanged model",
            )

    def of(self, module: str, rank: int) -> float:
        """The factor of B A for a module whose tensors have `rank`.

        Raises:
            InputError: alpha or rank is missing or no positive number, or the rank differs from the tensors'.
        """
        given, alpha = (
            self._number(name, pattern, module)
            for name, pattern in (("r", "rank_pattern"), ("lora_alpha", "alpha_pattern"))
        )
        if given != rank:
            raise InputError(
                self.where,
                "r",
                f"{given:g} for {module}, whose tensors have rank {rank}",
                "Keep every LoRA with its own configuration",
            )
        return alpha / math.sqrt(rank) if self.config.get("use_rslora") else alpha / rank

    def _number(self, name: str, pattern_name: str, module: str) -> float:
        """The number of the first pattern that matches the end of the module's name, as in peft, else the common
        number.
        """
        patterns = self.config.get(pattern_name) or {}
        if not isinstance(patterns, dict):
            raise InputError(self.where, pattern_name, "not a JSON object", "Write it with peft")
        for pattern, value in patterns.items():
            # An untrusted regular expression could run for years, so only names are supported.
            if not re.fullmatch(r"\^?[\w.]+", pattern):
                raise InputError(
                    self.where, pattern_name, f"{printable(pattern)!r} is not a module's name", "Spell the modules out"
                )
            if module == pattern.removeprefix("^") or (pattern[0] != "^" and module.endswith("." + pattern)):
                return positive(value, self.where, pattern_name)
        return positive(self.config.get(name), self.where, name)


def scale_in_metadata(metadata: dict[str, str], where: str) -> LoraScale | None:
    """The UNet's configuration as diffusers writes it into a file's metadata; None if there is none.

    Raises:
        InputError: the configuration is not JSON, or not that of a plain LoRA.
    """
    if METADATA_KEY not in metadata:
        return None
    content = parse_object(metadata[METADATA_KEY], where, METADATA_KEY)
    config = {key.removeprefix("unet."): value for key, value in content.items() if key.startswith("unet.")}
    # A UNet that saves its own adapter writes no prefix.
    config = config or (content if "lora_alpha" in content else {})
    return LoraScale(config, where, "metadata") if config else None


def scale_beside(path: Path) -> LoraScale | None:
    """The configuration that peft writes beside the file `path`; None if there is none.

    Raises:
        InputError: the configuration is a symbolic link, too large, not JSON, or not that of a plain LoRA.
    """
    beside = Path(path).parent / CONFIG_NAME
    if not os.path.lexists(beside):
        return None
    where = printable(beside)
    with opened(beside, os.O_NOFOLLOW) as file:
        content = file.read(MAX_CONFIG_BYTES + 1)
    if len(content) > MAX_CONFIG_BYTES:
        raise InputError(where, None, f"more than {MAX_CONFIG_BYTES} bytes", "Write it with peft")
    return LoraScale(parse_object(content, where, None), where, CONFIG_NAME)
