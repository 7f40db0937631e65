"""Stable Diffusion 1.5 with random weights: its configurations in true size and in miniature, and its files.

The files have the layout of realistic-vision-v51 and the older names of weights that the loaders still have to convert:
fp16 safetensors, a tokenizer in two parts, `text_model.` before every name of the text encoder, and `query`, `key`,
`value` and `proj_attn` in the autoencoder. Safety checker and feature extractor are named, and have no files.
"""

import json
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from string import ascii_lowercase

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from w2wpp.lora.layout import WeightLayout
from w2wpp.spaces.affine import PCASpace
from w2wpp.world.base_model import build_tokenizer

OLD = {"_diffusers_version": "0.6.0"}
START, END = "<|startoftext|>", "<|endoftext|>"
WORDS = ("a", "photo", "of", "sks", "person", "smiling", "on", "blue", "background", "low", "quality", "blurry", ",")
UNET = OLD | {
    "_class_name": "UNet2DConditionModel",
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "center_input_sample": False,
    "cross_attention_dim": 768,
    "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "in_channels": 4,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-05,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
}
VAE = OLD | {
    "_class_name": "AutoencoderKL",
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
TEXT = {
    "_name_or_path": "openai/clip-vit-large-patch14",
    "architectures": ["CLIPTextModel"],
    "attention_dropout": 0.0,
    "bos_token_id": 0,
    "dropout": 0.0,
    "eos_token_id": 2,
    "hidden_act": "quick_gelu",
    "hidden_size": 768,
    "initializer_factor": 1.0,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 77,
    "model_type": "clip_text_model",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "projection_dim": 768,
    "torch_dtype": "float32",
    "transformers_version": "4.22.0.dev0",
    "vocab_size": 49_408,
}
SCHEDULER = OLD | {
    "_class_name": "PNDMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
INDEX = OLD | {
    "_class_name": "StableDiffusionPipeline",
    "feature_extractor": ["transformers", "CLIPFeatureExtractor"],
    "requires_safety_checker": True,
    "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
    "scheduler": ["diffusers", "PNDMScheduler"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}
OLDER_ATTENTION = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


@dataclass(frozen=True)
class Shape:
    """The configurations of UNet, autoencoder and text encoder, and the dimension of the space that goes with them."""

    unet: dict
    vae: dict
    text: dict
    latent_dim: int

    @property
    def pixels(self) -> int:
        """Height and width of a picture."""
        return 8 * self.unet["sample_size"]


SHAPES = {
    "true": Shape(UNET, VAE, TEXT, 1000),
    "miniature": Shape(
        UNET
        | {
            "_diffusers_version": "0.9.0",  # diffusers makes UNets of earlier ones draw 512 pixels
            "attention_head_dim": 2,
            "block_out_channels": [8, 16, 16, 16],
            "cross_attention_dim": 16,
            "norm_num_groups": 4,
            "sample_size": 8,
        },
        VAE | {"block_out_channels": [4, 4, 4, 4], "norm_num_groups": 2, "sample_size": 64},
        TEXT | {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1},
        4,
    ),
}


def models(dtype: torch.dtype, shape: Shape) -> tuple[UNet2DConditionModel, AutoencoderKL, CLIPTextModel]:
    """UNet, autoencoder and text encoder with random weights, frozen; made in this dtype, without a copy in another."""
    torch.set_default_dtype(dtype)
    try:
        unet = UNet2DConditionModel.from_config(shape.unet)
        vae = AutoencoderKL.from_config(shape.vae)
        text = CLIPTextModel(CLIPTextConfig(**shape.text))
    finally:
        torch.set_default_dtype(torch.float32)
    return unet.requires_grad_(False).eval(), vae.requires_grad_(False).eval(), text.requires_grad_(False).eval()


def w2w_layout(unet: nn.Module) -> WeightLayout:
    """The LoRAs of weights2weights on a UNet."""
    return WeightLayout.of_unet(unet, 1, 27.0, ["to_q", "to_v"])


def vocabulary(size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Ids and merges of a byte-pair encoding with as many tokens as CLIP's; each of `WORDS` is one token.

    The other merges join letters to all words of two, three and four letters, until there are enough.
    """
    made = json.loads(build_tokenizer(WORDS, 77).backend_tokenizer.to_str())["model"]["merges"]
    merges = [tuple(each) for each in made]
    alphabet = sorted(ByteLevel.alphabet())
    letters = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    wanted = size - len(letters) - 2
    joined = set(map("".join, merges))
    for length in (1, 2, 3):
        for head, last, end in product(product(ascii_lowercase, repeat=length), ascii_lowercase, ("", "</w>")):
            pair = ("".join(head), last + end)
            if len(merges) < wanted and "".join(pair) not in joined:
                merges.append(pair)
    tokens = [*letters, *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}, merges


def write_model(folder: Path, shape: Shape) -> None:
    """Write a base model of random weights, the same every time; takes memory for the fp16 weights alone."""
    torch.manual_seed(0)
    unet, vae, text = models(torch.float16, shape)
    for name, config, module, rename in (
        ("unet", shape.unet, unet, str),
        ("vae", shape.vae, vae, _older_attention),
        ("text_encoder", shape.text, text, lambda key: f"text_model.{key.removeprefix('text_model.')}"),
    ):
        tensors = {rename(key): tensor for key, tensor in module.state_dict().items()}
        if name == "text_encoder":
            tensors["text_model.embeddings.position_ids"] = torch.arange(shape.text["max_position_embeddings"])[None]
        _write_json(folder / name / "config.json", config)
        file = "model" if name == "text_encoder" else "diffusion_pytorch_model"
        save_file(tensors, folder / name / f"{file}.safetensors", {"format": "pt"})
    _write_json(folder / "scheduler/scheduler_config.json", SCHEDULER)
    _write_tokenizer(folder / "tokenizer", shape)
    _write_json(folder / "model_index.json", INDEX)


def _older_attention(key: str) -> str:
    if ".attentions." in key:
        for ours, older in OLDER_ATTENTION.items():
            key = key.replace(ours, older)
    return key


def _write_tokenizer(folder: Path, shape: Shape) -> None:
    ids, merges = vocabulary(shape.text["vocab_size"])

    def special(token: str) -> dict:
        return {"content": token, "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}

    tokens = {"bos_token": special(START), "eos_token": special(END), "unk_token": special(END)}
    _write_json(folder / "special_tokens_map.json", tokens | {"pad_token": END})
    _write_json(
        folder / "tokenizer_config.json",
        {
            "add_prefix_space": False,
            "do_lower_case": True,
            "errors": "replace",
            "model_max_length": shape.text["max_position_embeddings"],
            "name_or_path": "openai/clip-vit-large-patch14",
            "pad_token": END,
            "special_tokens_map_file": "./special_tokens_map.json",
            "tokenizer_class": "CLIPTokenizer",
            **{key: {"__type": "AddedToken", **token} for key, token in tokens.items()},
        },
    )
    _write_json(folder / "vocab.json", ids)
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges), ""]), "utf-8")


def _write_json(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), "utf-8")


def random_vector(dimension: int, seed: int = 0, size: float = 0.02) -> Tensor:
    """A weight vector [d] of a LoRA with an effect, since neither A nor B is zero."""
    return size * torch.randn(dimension, generator=torch.Generator().manual_seed(seed))


def random_space(layout: WeightLayout, latent_dim: int) -> PCASpace:
    """A space of random directions around a LoRA with an effect, the same every time."""
    space = PCASpace(latent_dim, layout)
    space.mean.copy_(random_vector(layout.dimension))
    space.std.fill_(0.01)
    space.components.normal_(std=layout.dimension**-0.5, generator=torch.Generator().manual_seed(0))
    return space


def parameter_bytes(*modules: nn.Module) -> int:
    """Bytes of all parameters."""
    return sum(each.numel() * each.element_size() for module in modules for each in module.parameters())


def random_photo(pixels: int) -> Tensor:
    """A smooth photo of random colours, uint8 [pixels, pixels, 3]."""
    colours = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = nn.functional.interpolate(colours, (pixels, pixels), mode="bilinear")
    return smooth[0].mul(255).round().byte().movedim(0, -1)
