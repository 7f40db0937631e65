"""Files in the format of weights2weights, for tests."""

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import UNet2DConditionModel

from w2wpp.files.errors import InputError
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_people import ATTRIBUTES, SPLITS
from w2wpp.ingest.w2w_source import find_files
from w2wpp.lora.layout import Adapted, WeightLayout

TOY = WeightLayout((Adapted("down_blocks.0.attn1.to_q", 4, 6), Adapted("mid_block.attn1.to_v", 3, 2)), 2, 2.0)
SHARES = {"validation": 0.2, "test": 0.2}


def published_table(people, seed=0):
    """The content of identity_df.pt: 40 attributes of the photo that names each row, and its person."""
    rng = np.random.default_rng(seed)
    files = pd.Index([f"{100 + row:06d}.jpg" for row in range(len(people))], name="file")
    attributes = {name: rng.choice([-1, 1], len(people)) for name in ATTRIBUTES}
    return pd.DataFrame({**attributes, "identity": people}, index=files)


def draw_people(count, seed=0):
    """Numbers of about count / 3 people, most with several rows, in random order."""
    return np.random.default_rng(seed).integers(1, 1 + max(4, count // 3), count)


def publish(folder, weights, people=None):
    """A folder with the two files, as they were published."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(weights, folder / "all_weights.pt")
    torch.save(published_table(draw_people(len(weights)) if people is None else people), folder / "identity_df.pt")
    return find_files(folder)


def pack(files, folder, layout=TOY, **kwargs):
    return pack_w2w(files, layout, folder / "out", folder / "scratch", **{"rows_per_shard": 8, **SHARES, **kwargs})


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def vectors(data):
    """All vectors [n, d], in the order of `data.people`."""
    return torch.cat([block for split in SPLITS if split in data.shards for block in data.shards[split].blocks(100)])


def refused(call, *args, **kwargs):
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert caught.value.remedy
    assert str(caught.value).isprintable()
    return caught.value


def make_unet():
    """Stable Diffusion 1.5's, without numbers."""
    with torch.device("meta"):
        return UNet2DConditionModel(
            sample_size=64,
            block_out_channels=(320, 640, 1280, 1280),
            cross_attention_dim=768,
            layers_per_block=2,
            attention_head_dim=8,
        )
