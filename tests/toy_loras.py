"""Files of LoRAs of two small layers, for tests."""

import json

import fuzz_loras as fuzz
import pytest
from safetensors.torch import save_file

from w2wpp.files.errors import InputError
from w2wpp.ingest.foreign import read_lora

LAYOUT = fuzz.LAYOUT
QUERY, OUT = (layer.module for layer in LAYOUT.layers)


def write(path, naming="diffusers", rank=2, alpha=None, seed=0, **kwargs):
    """A sound LoRA of the toy layout; returns its tensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors, metadata = fuzz.sound_lora(naming, LAYOUT, rank, alpha, seed, **kwargs)
    save_file(tensors, path, metadata=metadata or None)
    return tensors


def refused(path, layout=LAYOUT):
    with pytest.raises(InputError) as caught:
        read_lora(path, layout)
    assert caught.value.remedy
    assert "\n" not in str(caught.value)
    return caught.value


def write_config(folder, **config):
    (folder / "adapter_config.json").write_text(json.dumps(config))
