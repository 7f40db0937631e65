"""The scale of a LoRA comes from a sound configuration; others are refused."""

import json
import math

import pytest
from diffusers.loaders.lora_base import LORA_ADAPTER_METADATA_KEY
from safetensors.torch import save_file
from toy_loras import LAYOUT, QUERY, refused, write, write_config

from w2wpp.ingest.foreign import read_lora
from w2wpp.ingest.scale import METADATA_KEY


@pytest.mark.parametrize(
    ("config", "key", "reason"),
    [
        ({"r": 2}, "lora_alpha", "None, expected"),
        ({"r": 2, "lora_alpha": 0}, "lora_alpha", "0, expected"),
        ({"r": 2, "lora_alpha": True}, "lora_alpha", "True, expected"),
        ({"r": 2, "lora_alpha": 10**400}, "lora_alpha", "expected a positive"),
        ({"r": 2, "lora_alpha": math.nan}, "lora_alpha", "nan, expected"),
        ({"r": 2, "lora_alpha": "\n\x1b"}, "lora_alpha", "expected a positive"),
        ({"r": 3, "lora_alpha": 1}, "r", f"3 for {QUERY}, whose tensors have rank 2"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": []}, None, None),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": [1]}, "alpha_pattern", "not a JSON object"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": {"(a+)+$": 1}}, "alpha_pattern", "is not a module's name"),
        ({"r": 2, "lora_alpha": 1, "alpha_pattern": {"to_q": -1}}, "alpha_pattern", "-1, expected"),
        ({"r": 2, "lora_alpha": 1, "use_dora": True}, "use_dora", "no plain LoRA"),
        ({"r": 2, "lora_alpha": 1, "init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "changed base model"),
    ],
)
@pytest.mark.parametrize("beside", [False, True])
def test_configurations(tmp_path, config, key, reason, beside):
    path = tmp_path / "x.safetensors"
    tensors = write(path, "peft")
    if beside:
        write_config(tmp_path, **config)
    else:
        config = {f"unet.{name}": value for name, value in config.items()}
        save_file(tensors, path, metadata={METADATA_KEY: json.dumps(config)})
    if key is None:
        assert read_lora(path, LAYOUT).alpha_from == ("adapter_config.json" if beside else "metadata")
        return
    error = refused(path)
    assert (error.key, error.where) == (key, str(tmp_path / "adapter_config.json" if beside else path))
    assert reason in error.reason


def test_metadata_key_is_that_of_diffusers():
    assert METADATA_KEY == LORA_ADAPTER_METADATA_KEY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("[1]", "not a JSON object"),
        ("{", "not valid"),
        ('{"r": 1, "r": 2}', "given twice"),
        ("[" * 10**5, "not valid"),
        (" " * (2**20 + 1), "more than 1048576 bytes"),
        (b"\xff\xfe\x00", "not valid JSON"),
    ],
)
def test_unreadable_configurations(tmp_path, content, reason):
    write(tmp_path / "x.safetensors", "peft")
    (tmp_path / "adapter_config.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    assert reason in refused(tmp_path / "x.safetensors").reason
    (tmp_path / "adapter_config.json").rename(tmp_path / "elsewhere.json")
    (tmp_path / "adapter_config.json").symlink_to(tmp_path / "elsewhere.json")
    assert "cannot be read" in refused(tmp_path / "x.safetensors").reason
