"""The base model of the embedded world: Stable Diffusion's components in miniature, untrained."""

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Literal

from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
from pydantic import Field, model_validator
from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from w2wpp.codec import PatchCodec
from w2wpp.files.settings import Count, Path, Rate, Section, Share, Shift, Weight

Width = Annotated[int, Field(ge=8, multiple_of=8)]


class CodecParams(Section):
    """The latent codec."""

    channels: Annotated[int, Field(ge=1, le=192)] = 16
    """Channels of a latent."""
    widths: Annotated[tuple[Width, Width], Field(strict=False)] = (96, 160)
    """Channels of the convolutional residuals."""
    steps: Count = 1600
    """Training steps of encoder and decoder."""
    decoder_steps: Count = 1200
    """Further training steps of the decoder alone."""
    batch: Count = 32
    """Photos per step."""
    lr: Rate = 1.0e-3
    """Learning rate of AdamW."""
    latent_noise: Weight = 0.05
    """Standard deviation of noise on the latents in training."""


class TextParams(Section):
    """The text encoder."""

    hidden: Annotated[int, Field(ge=8)] = 128
    """Channels."""
    layers: Count = 2
    """Transformer layers."""
    heads: Count = 4
    """Attention heads."""
    max_tokens: Annotated[int, Field(ge=8, le=77)] = 40
    """Tokens of a prompt."""

    @model_validator(mode="after")
    def _heads_share(self) -> "TextParams":
        if self.hidden % self.heads:
            raise ValueError("base.text.hidden must be a multiple of base.text.heads")
        return self


class UNetParams(Section):
    """The denoiser's UNet."""

    channels: Annotated[list[Annotated[int, Field(ge=16, multiple_of=16)]], Field(min_length=1, max_length=4)] = Field(
        [64, 128]
    )
    """Channels of each level."""
    heads: Count = 4
    """Attention heads."""


class DenoiserParams(Section):
    """Training of text encoder and UNet."""

    prediction: Literal["v_prediction", "epsilon"] = "v_prediction"
    """Prediction target of the UNet."""
    noise_schedule: Literal["squaredcos_cap_v2", "scaled_linear"] = "squaredcos_cap_v2"
    """`squaredcos_cap_v2`: cosine; `scaled_linear`: that of Stable Diffusion."""
    timestep_shift: Shift = 2.0
    """Shift of the timesteps: 1 is uniform; a larger shift draws more of the noisy ones, which determine the person."""
    steps: Count = 24500
    """Training steps."""
    batch: Count = 32
    """Photos per step."""
    lr: Rate = 1.5e-3
    """Learning rate of AdamW."""
    ema: Share = 0.999
    """Decay of the averaged weights."""
    caption_dropout: Share = 0.1
    """Share of captions left empty, for classifier-free guidance."""
    class_prompt: Share = 0.1
    """Share of captions replaced by the class prompt."""
    name_prompt: Share = 0.5
    """Share of captions replaced by the class prompt with sks, which then denotes the person."""
    name_dropout: Share = 0.1
    """Share of names left out, so that sks without a name denotes anybody."""

    @model_validator(mode="after")
    def _captions_remain(self) -> "DenoiserParams":
        if self.caption_dropout + self.class_prompt + self.name_prompt > 1:
            raise ValueError(
                "caption_dropout, class_prompt and name_prompt are shares of the captions and must not "
                "add up to more than 1"
            )
        return self


class BaseParams(Section):
    """The text-conditioned latent diffusion model that LoRAs adapt."""

    source: Literal["trained", "pretrained"] = "trained"
    """`trained`: here, on rendered people; `pretrained`: a StableDiffusionPipeline from elsewhere."""
    model: Path | None = None
    """Of a pretrained model: its folder, or its name on the Hugging Face Hub."""
    revision: Path | None = None
    """Revision on the Hub."""
    people: Annotated[int, Field(ge=2)] = 8000
    """Rendered people to train on."""
    photos: Count = 3
    """Photos per person."""
    codec: CodecParams = CodecParams()
    text: TextParams = TextParams()
    unet: UNetParams = UNetParams()
    denoiser: DenoiserParams = DenoiserParams()

    @model_validator(mode="after")
    def _model_is_named(self) -> "BaseParams":
        if self.source == "pretrained" and self.model is None:
            raise ValueError("base.source pretrained needs base.model, a folder or a name on the Hugging Face Hub")
        return self


def build_tokenizer(words: Iterable[str], max_tokens: int) -> CLIPTokenizer:
    """A CLIP tokenizer (byte-pair encoding) with a single token for each of `words`.

    The merges are computed here, because `train_new_from_iterator` breaks ties at random. A tokenizer that is rebuilt
    when training resumes would otherwise have other ids than the model has learned.
    """
    pieces = sorted({piece for word in words for piece in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]+", word.lower())})
    splits = [(*piece[:-1], piece[-1] + "</w>") for piece in pieces]
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = ["<|startoftext|>", "<|endoftext|>", *alphabet, *(letter + "</w>" for letter in alphabet)]
    merges = []
    while pairs := Counter(pair for split in splits for pair in pairwise(split)):
        merges.append(min(pairs, key=lambda pair: (-pairs[pair], pair)))
        splits = [_merge(split, *merges[-1]) for split in splits]
        vocabulary.append("".join(merges[-1]))
    ids = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    return CLIPTokenizer(vocab=ids, merges=merges, model_max_length=max_tokens)


def _merge(split: tuple[str, ...], left: str, right: str) -> tuple[str, ...]:
    """`split` with every adjacent pair of `left` and `right` joined."""
    merged: list[str] = []
    for part in split:
        if part == right and merged and merged[-1] == left:
            merged[-1] += part
        else:
            merged.append(part)
    return tuple(merged)


def build_text_encoder(tokenizer: CLIPTokenizer, params: TextParams) -> CLIPTextModel:
    """A randomly initialised CLIP text model with `params.hidden` channels over `tokenizer`'s vocabulary."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=params.hidden,
            intermediate_size=4 * params.hidden,
            num_hidden_layers=params.layers,
            num_attention_heads=params.heads,
            max_position_embeddings=params.max_tokens,
            projection_dim=params.hidden,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def build_pipeline(params: BaseParams, size: int, words: Iterable[str]) -> StableDiffusionPipeline:
    """The untrained base model for pictures of `size` pixels, with Stable Diffusion's components in miniature."""
    tokenizer = build_tokenizer(words, params.text.max_tokens)
    levels = len(params.unet.channels)
    unet = UNet2DConditionModel(
        sample_size=size // 8,
        in_channels=params.codec.channels,
        out_channels=params.codec.channels,
        layers_per_block=1,
        block_out_channels=tuple(params.unet.channels),
        down_block_types=("CrossAttnDownBlock2D",) * levels,
        up_block_types=("CrossAttnUpBlock2D",) * levels,
        cross_attention_dim=params.text.hidden,
        norm_num_groups=16,
        use_linear_projection=True,
        # diffusers reads `attention_head_dim` as the number of heads in this model.
        attention_head_dim=params.unet.heads,
    )
    return StableDiffusionPipeline(
        vae=PatchCodec(params.codec.channels, tuple(params.codec.widths)),
        text_encoder=build_text_encoder(tokenizer, params.text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(
            num_train_timesteps=1000,
            beta_schedule=params.denoiser.noise_schedule,
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type=params.denoiser.prediction,
            steps_offset=1,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
