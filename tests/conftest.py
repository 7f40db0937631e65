"""A tiny untrained base model and LoRA layouts on it, shared by the tests; no test needs the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import importlib.util
import io
import json
import shutil
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import RLock
from unittest.mock import patch

import hypothesis
import numpy as np
import onnx
import pytest
import skimage
import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm import tqdm
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

from w2wpp.compute.batches import Batch, Work
from w2wpp.diffusion.prompts import IDENTITY_TOKEN
from w2wpp.faces.frames import CENTRE, SQUARE
from w2wpp.files.storage import write_csv, write_pack
from w2wpp.inversion.editing import Directions
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.layout import LORA_TARGETS, Adapted, WeightLayout
from w2wpp.lora.shards import write_shard
from w2wpp.run.params import Params, load_params
from w2wpp.spaces.affine import PCASpace
from w2wpp.world.base_model import BaseParams, build_pipeline, build_tokenizer
from w2wpp.world.captions import CAPTION_WORDS
from w2wpp.world.drawing import draw_batches, photo_batches
from w2wpp.world.populations import person_names, sample_people
from w2wpp.world.zoo import Role, lora_batches, train_batch

ROOT = Path(__file__).resolve().parents[1]
SIZE = 32
# Tiny models gain nothing from more threads and lose time to their spinning; and no thread survives a fork.
torch.set_num_threads(1)
# A busy machine must not fail an example.
hypothesis.settings.register_profile("w2wpp", deadline=None)
hypothesis.settings.load_profile("w2wpp")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the file that takes longest, so that it does not run alone at the end."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def params() -> Params:
    """The committed params.yaml."""
    return load_params(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def base_params(params) -> BaseParams:
    """The settings of the committed base model, with tiny sizes."""
    base = params.base
    return base.model_copy(
        update={
            "codec": base.codec.model_copy(
                update={"channels": 4, "widths": (8, 8), "steps": 2, "decoder_steps": 2, "batch": 4}
            ),
            "text": base.text.model_copy(update={"hidden": 16, "layers": 1, "heads": 2}),
            "unet": base.unet.model_copy(update={"channels": [16, 32]}),
            "denoiser": base.denoiser.model_copy(update={"steps": 2, "batch": 4}),
        }
    )


@pytest.fixture(scope="session")
def make_pipe(base_params) -> Callable[..., StableDiffusionPipeline]:
    """make_pipe(size=SIZE) builds the same tiny pipeline every time, trainable; no part is left at zero."""

    def make(size: int = SIZE) -> StableDiffusionPipeline:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            pipe = build_pipeline(base_params, size, [*CAPTION_WORDS, IDENTITY_TOKEN])
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
    """draw_weights(layout, n, seed): weight vectors [n, d] of LoRAs with an effect, because B is not zero."""

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
    """zoo_batches(scratch, count): batches of zoo people's LoRAs, two people at a time, from photos of noise."""

    def make(scratch: Path, count: int = 5) -> list[Batch]:
        people, photos = sample_people(0, "zoo", count, 2), tmp_path / "photos"
        noise = np.random.default_rng(2).integers(256, size=(count, 2, SIZE, SIZE, 3), dtype=np.uint8)
        drawn = photo_batches(people, 2, photos)
        with patch("w2wpp.world.drawing.render_people", lambda some, _: noise[[people.index(each) for each in some]]):
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
def fork() -> Callable[[Callable[[], object]], int]:
    """fork(function) calls it in a child process, which exits with 0, or 1 if it raised; returns its process id."""

    def start(function: Callable[[], object]) -> int:
        child = os.fork()
        if child:
            return child
        # Processes share the lock of progress bars: a child killed while it draws one would never release it.
        tqdm.set_lock(RLock())
        try:
            function()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)

    return start


@pytest.fixture(scope="session")
def face():
    """The astronaut's head, 64x64 like the world's pictures."""
    picture = Image.open(Path(skimage.__file__).parent / "data" / "astronaut.png").convert("RGB")
    return np.asarray(picture.crop((140, 20, 310, 190)).resize((64, 64), Image.Resampling.LANCZOS))


@pytest.fixture(scope="session")
def sd15_base(tmp_path_factory) -> Path:
    """A pipeline of Stable Diffusion 1.5's classes and blocks, with fewer channels and random weights; 64 pixels."""
    folder = tmp_path_factory.mktemp("sd15") / "base"
    tokenizer = build_tokenizer([*CAPTION_WORDS, IDENTITY_TOKEN], 40)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16, 16, 16),
            cross_attention_dim=16,
            layers_per_block=2,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        for name, parameter in unet.named_parameters():
            if name.endswith(("proj_out.weight", "to_out.0.weight")):
                parameter.data.mul_(10)  # otherwise the effect of LoRAs on attention would be tiny
        StableDiffusionPipeline(
            unet=unet,
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(4, 4, 4, 4),
                norm_num_groups=2,
                latent_channels=4,
            ),
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer),
                    hidden_size=16,
                    intermediate_size=16,
                    num_hidden_layers=1,
                    num_attention_heads=2,
                    max_position_embeddings=40,
                    bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            ),
            tokenizer=tokenizer,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            scheduler=PNDMScheduler(
                beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
            ),
        ).save_pretrained(folder)
    as_published(folder)
    return folder


def as_published(folder: Path) -> None:
    """Convert a pipeline to the files of 2022 and 2023: older names of weights and components, a tokenizer in parts."""
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "requires_safety_checker": True,
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    weights = folder / "text_encoder/model.safetensors"
    tensors = {f"text_model.{key.removeprefix('text_model.')}": tensor for key, tensor in load_file(weights).items()}
    save_file(tensors | {"text_model.embeddings.position_ids": torch.arange(40)[None]}, weights, {"format": "pt"})
    tokenizer = folder / "tokenizer"
    words = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    (tokenizer / "vocab.json").write_text(json.dumps(words["vocab"]))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, words["merges"]), ""]))
    (tokenizer / "tokenizer.json").unlink()


@pytest.fixture(scope="session")
def write_loras() -> Callable[[Path, WeightLayout, int], None]:
    """write_loras(folder, layout, count): LoRAs of several tools and ranks, some also with a text encoder's keys."""
    spec = importlib.util.spec_from_file_location("fuzz_loras", ROOT / "benchmarks/fuzz_loras.py")
    fuzz = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fuzz)

    def write(folder: Path, layout: WeightLayout, count: int) -> None:
        for number in range(count):
            naming = ("peft", "diffusers", "kohya")[number % 3]
            tensors, metadata = fuzz.sound_lora(naming, layout, 1 + number % 4, 2.0, number, text=number % 2 == 0)
            path = folder / (
                f"{number:02d}/pytorch_lora_weights.safetensors"
                if naming == "diffusers"
                else f"{number:02d}.safetensors"
            )
            path.parent.mkdir(parents=True, exist_ok=True)
            save_file(
                {key: 0.1 * tensor if tensor.ndim == 2 else tensor for key, tensor in tensors.items()},
                path,
                metadata=metadata or None,
            )

    return write


@pytest.fixture(scope="session")
def arcface_onnx() -> Callable[..., str]:
    """arcface_onnx(path) writes a linear stand-in for ArcFace, means of 16x16 patches in a fixed random projection."""

    def write(path, e=6, batch=1, size=112):
        features = 3 * (size // 16) ** 2
        weights = np.random.default_rng(0).normal(size=(features, e)).astype(np.float32)
        nodes = [
            helper.make_node("AveragePool", ["input"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]),
            helper.make_node("Flatten", ["pooled"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["output"]),
        ]
        graph = helper.make_graph(
            nodes,
            "arcface",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, [batch, e])],
            [numpy_helper.from_array(weights, "weights")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        onnx.save(model, str(path))
        return f"insightface:{path}"

    return write


@pytest.fixture(scope="session")
def write_networks(arcface_onnx) -> Callable[..., None]:
    """write_networks(folder, e): an insightface pack with a detector in the format of SCRFD. It always reports a face
    in the place of aligned photos, and none on a picture of one colour. With `second`, it also reports a smaller face,
    with higher certainty.
    """
    points = np.array(
        [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
    )  # insightface's, in the 112x112 frame
    points = 0.5 + (points - [CENTRE.real, CENTRE.imag]) / SQUARE / 1.5  # in shares of the photo and a border

    def write(folder: Path, e: int = 6, second: bool = False) -> None:
        folder.mkdir(parents=True)
        arcface_onnx(folder / "recognition.onnx", e)
        side, initializers, outputs = 640, [], []
        nodes = [
            helper.make_node("ReduceMax", ["input"], ["most"], keepdims=0),
            helper.make_node("ReduceMin", ["input"], ["least"], keepdims=0),
            helper.make_node("Sub", ["most", "least"], ["contrast"]),
            helper.make_node("Sign", ["contrast"], ["any"]),
        ]
        for name, width in (("score", 1), ("box", 4), ("points", 10)):
            for stride in (8, 16, 32):
                cells = side // stride
                values = np.zeros((cells * cells * 2, width), np.float32)
                if stride == 32:  # the cell whose corner is the middle of the picture
                    values[2 * (cells // 2 * cells + cells // 2)] = {
                        "score": 0.9,
                        "box": 5.0,
                        "points": (side * points - side / 2).flatten() / stride,
                    }[name]
                if stride == 8 and second:  # a tenth of the size, around (80, 80)
                    values[2 * (10 * cells + 10)] = {
                        "score": 0.99,
                        "box": 2.0,
                        "points": 0.1 * (side * points - side / 2).flatten() / stride,
                    }[name]
                key = f"{name}_{stride}"
                initializers.append(numpy_helper.from_array(values, f"{key}_known"))
                nodes.append(helper.make_node("Mul", [f"{key}_known", "any"], [key]))
                outputs.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, list(values.shape)))
        graph = helper.make_graph(
            nodes,
            "scrfd",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, side, side])],
            outputs,
            initializers,
        )
        onnx.save(
            helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8),
            str(folder / "detection.onnx"),
        )

    return write


@pytest.fixture(scope="session")
def sd15_clip(tmp_path_factory) -> Path:
    """A CLIP model with random weights, in the format of transformers."""
    folder, tokenizer = tmp_path_factory.mktemp("clip"), build_tokenizer(CAPTION_WORDS, 40)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(
            CLIPConfig(
                projection_dim=8,
                vision_config=small | {"image_size": 32, "patch_size": 16},
                text_config=small
                | {"vocab_size": len(tokenizer), "max_position_embeddings": 40, "eos_token_id": tokenizer.eos_token_id},
            )
        ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def draw_people() -> Callable[..., None]:
    """draw_people(folder, people, photos): PNGs and JPEGs of people who differ by their colours, in changing light."""

    def draw(folder: Path, people: int, photos: int, size: tuple[int, int] = (80, 96)) -> None:
        for person in range(people):
            (folder / f"Person {person}").mkdir(parents=True)
            colors = np.random.default_rng(person).integers(0, 256, (5, 4, 3), dtype=np.uint8)
            for photo in range(photos):
                rng = np.random.default_rng(100 + photo)
                lit = (colors + rng.normal(0, 25, (5, 4, 1))).clip(0, 255).astype(np.uint8)
                noise = rng.normal(0, 6, (*size[::-1], 3))
                picture = np.asarray(Image.fromarray(lit).resize(size, Image.Resampling.BICUBIC)) + noise
                Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(
                    folder / f"Person {person}" / f"{photo}.{'jpg' if photo % 2 else 'png'}"
                )

    return draw


@pytest.fixture(scope="module")  # a session's browser would hold an event loop that notebooks need
def browser():
    """A real browser without a window; tests are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium here; Debian's package is `chromium`")
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    quiet += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=found[0], args=quiet)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def keep() -> Callable[..., None]:
    """keep(page, name) leaves a picture of a page in the folder W2WPP_SCREENSHOTS, where that is set, for the docs."""
    folder = os.environ.get("W2WPP_SCREENSHOTS")

    def save(page, name: str) -> None:
        if folder:
            page.wait_for_timeout(500)  # what fades in is there then
            shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
            Path(folder).mkdir(parents=True, exist_ok=True)
            shot.save(Path(folder, f"{name}.webp"), quality=85, method=6)

    return save


@pytest.fixture(scope="session")
def make_space() -> Callable[[WeightLayout, torch.Tensor, torch.Tensor], PCASpace]:
    """make_space(layout, directions [k, d], mean [d]): a space of LoRAs with large effects, frozen like a space from a
    file.
    """

    def make(layout: WeightLayout, directions: torch.Tensor, mean: torch.Tensor) -> PCASpace:
        space = PCASpace(len(directions), layout)
        space.mean.copy_(mean)
        space.components.copy_(torch.linalg.qr(directions.T).Q.T)
        space.scales.fill_(2.0)
        return space.requires_grad_(False).eval()

    return make


@pytest.fixture
def repro(tmp_path, pipe, layout, draw_weights, make_space, monkeypatch) -> Path:
    """A current directory with miniatures of data/base, the space data/spaces/pca and its photo encoder, as
    `make repro` writes them.
    """
    directions = draw_weights(layout, 4, seed=4, size=1.0) - initial_weights(layout, 4)
    make_space(layout, directions, draw_weights(layout, 1)[0]).save(tmp_path / "data/spaces/pca/space.safetensors")
    pipe.save_pretrained(tmp_path / "data/base")
    PhotoEncoder(torch.full((64, 4), 0.01), torch.zeros(4), torch.ones(4)).save(
        tmp_path / "data/photo_encoders/pca.safetensors"
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def save_directions() -> Callable[[str], Directions]:
    """save_directions(space) leaves directions of two labels where the pipeline leaves those of a space of four."""

    def save(space: str) -> Directions:
        readouts = torch.tensor([[1.0, 0.5, 0.0, 0.0], [0.5, 1.0, 0.0, 0.2]])
        directions = Directions(("age", "glasses"), ("age", "glasses"), readouts, torch.eye(4) + 0.1)
        directions.save(Path(f"data/edits/{space}/directions.safetensors"))
        return directions

    return save


@pytest.fixture
def save_zoo(layout, draw_weights) -> Callable[[], torch.Tensor]:
    """save_zoo() leaves weight vectors [12, d] of zoo-0 to zoo-11 in data/weights, as `flatten` leaves them."""

    def save() -> torch.Tensor:
        vectors, folder = draw_weights(layout, 12, seed=7), Path("data/weights")
        write_shard(folder / "vectors/zoo-zoo", 0, vectors, layout)
        rows = [{"person": f"zoo-{number}", "split": "zoo", "role": "zoo"} for number in range(12)]
        write_csv(folder / "people.csv", rows)
        statistics = {"mean": vectors.mean(0), "std": vectors.std(0)}
        write_pack(folder / "statistics.safetensors", statistics, {"layout": layout.to_meta()})
        return vectors

    return save
