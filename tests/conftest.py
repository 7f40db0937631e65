"""A tiny untrained base model and LoRA layouts on it, shared by the tests; nothing here needs the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import hypothesis
import numpy as np
import pytest
import skimage
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from w2wpp.adapters import initial_weights
from w2wpp.batches import Batch, Work
from w2wpp.layout import Adapted, WeightLayout
from w2wpp.params import LORA_TARGETS, BaseParams, Params, load_params
from w2wpp.people import CAPTION_WORDS
from w2wpp.pipeline import IDENTITY_TOKEN, build_pipeline
from w2wpp.populations import draw_batches, person_names, photo_batches, sample_people
from w2wpp.zoo import Role, lora_batches, train_batch

ROOT = Path(__file__).resolve().parents[1]
SIZE = 32
# Tiny models gain nothing from more threads and lose much to their spinning; and no thread survives a fork.
torch.set_num_threads(1)
# A machine that is busy elsewhere makes no example wrong.
hypothesis.settings.register_profile("w2wpp", deadline=None)
hypothesis.settings.load_profile("w2wpp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the file that takes longest, so that no worker is left alone with it at the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def base_params(params) -> BaseParams:
    """The committed base model, made tiny."""
    base = params.base
    return base.model_copy(update={
        "codec": base.codec.model_copy(update={"channels": 4, "widths": (8, 8), "steps": 2, "decoder_steps": 2,
                                               "batch": 4}),
        "text": base.text.model_copy(update={"hidden": 16, "layers": 1, "heads": 2}),
        "unet": base.unet.model_copy(update={"channels": [16, 32]}),
        "denoiser": base.denoiser.model_copy(update={"steps": 2, "batch": 4}),
    })


@pytest.fixture(scope="session")
def make_pipe(base_params) -> Callable[[], StableDiffusionPipeline]:
    """Builds the same tiny pipeline every time, trainable; no part is left at zero."""
    def make() -> StableDiffusionPipeline:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = build_pipeline(base_params, SIZE, [*CAPTION_WORDS, IDENTITY_TOKEN])
            with torch.no_grad():
                for module in (pipe.vae, pipe.text_encoder, pipe.unet):
                    for parameter in module.parameters():
                        parameter.add_(0.05 * torch.randn_like(parameter))
        pipe.set_progress_bar_config(disable=True)
        for module in (pipe.vae, pipe.text_encoder, pipe.unet):
            module.eval()
        return pipe
    return make


@pytest.fixture(scope="session")
def pipe(make_pipe) -> StableDiffusionPipeline:
    """The tiny pipeline, frozen; tests must not change it."""
    pipe = make_pipe()
    for module in (pipe.vae, pipe.text_encoder, pipe.unet):
        module.requires_grad_(False)
    return pipe


@pytest.fixture(scope="session")
def layout(pipe) -> WeightLayout:
    """Rank 1 on to_q and to_v."""
    return WeightLayout.of_unet(pipe.unet, 1, 8.0, ["to_q", "to_v"])


@pytest.fixture(scope="session")
def wide_layout(pipe) -> WeightLayout:
    """Rank 2 on every linear layer of the transformers, alpha other than the rank."""
    return WeightLayout.of_unet(pipe.unet, 2, 3.0, list(LORA_TARGETS))


@pytest.fixture(params=["rank 1", "rank 2 everywhere"])
def any_layout(request, layout, wide_layout) -> WeightLayout:
    return layout if request.param == "rank 1" else wide_layout


@pytest.fixture(scope="session")
def toy_layout() -> WeightLayout:
    """Two layers without a UNet: 30 numbers."""
    return WeightLayout((Adapted("down_blocks.0.attn1.to_q", 4, 6), Adapted("mid_block.attn1.to_v", 3, 2)), 2, 2.0)


@pytest.fixture(scope="session")
def draw_weights() -> Callable[..., torch.Tensor]:
    """draw_weights(layout, n, seed): weight vectors [n, d] of LoRAs that all do something, B not being zero."""
    def draw(layout: WeightLayout, n: int, seed: int = 0, size: float = 0.1) -> torch.Tensor:
        noise = torch.randn(n, layout.dimension, generator=torch.Generator().manual_seed(seed))
        return initial_weights(layout, seed) + size * noise
    return draw


@pytest.fixture
def normal() -> Callable[..., torch.Tensor]:
    """normal(*shape): standard normal numbers, the same in every test, new ones with every call."""
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(shape, generator=generator)


@pytest.fixture
def zoo_batches(tmp_path) -> Callable[..., list[Batch]]:
    """zoo_batches(scratch, count): batches of zoo people's LoRAs, two people at a time, from photos that are noise."""
    def make(scratch: Path, count: int = 5) -> list[Batch]:
        people, photos = sample_people(0, "zoo", count, 2), tmp_path / "photos"
        noise = np.random.default_rng(2).integers(256, size=(count, 2, SIZE, SIZE, 3), dtype=np.uint8)
        drawn = photo_batches(people, 2, photos)
        with patch("w2wpp.populations.render_people", lambda some, _: noise[[people.index(each) for each in some]]):
            draw_batches(drawn, SIZE)
        return lora_batches(Role("zoo", "zoo", person_names("zoo", count), people, 0), 2, scratch, drawn)
    return make


@pytest.fixture
def train_work(pipe, layout, normal, params) -> Callable[..., Work]:
    """train_work(steps): the work on `zoo_batches`."""
    start, class_latents = initial_weights(layout, 0), normal(3, 4, 4, 4)

    def make(steps: int = 3) -> Work:
        settings = params.collect.model_copy(update={"steps": steps})
        return partial(train_batch, pipe, layout, start, class_latents, settings)
    return make


@pytest.fixture(scope="session")
def face():
    """The astronaut's head, 64x64 like the world's pictures."""
    picture = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    return np.asarray(picture.crop((140, 20, 310, 190)).resize((64, 64), Image.Resampling.LANCZOS))
