"""The latent codec: a linear patch transform with a zero-initialised convolutional residual in encoder and decoder."""

from dataclasses import dataclass
from typing import Literal, overload

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

PATCH = 8


@dataclass
class CodecLatents(BaseOutput):
    """Output of `PatchCodec.encode`: `latents` [b, c, h/8, w/8], unscaled."""

    latents: Tensor


@dataclass
class CodecSample(BaseOutput):
    """Output of `PatchCodec.decode`: `sample` [b, 3, h, w], nominally in [-1, 1]."""

    sample: Tensor


class ResidualBlock(nn.Module):
    """Pre-activation residual block, the identity map at initialisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm2 = nn.GroupNorm(8, channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]  # torch has biases optional

    def forward(self, x: Tensor) -> Tensor:
        x_in = x
        x = self.conv1(F.silu(self.norm1(x)))
        return x_in + self.conv2(F.silu(self.norm2(x)))


def _zeroed(conv: nn.Conv2d) -> nn.Conv2d:
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # torch has biases optional
    return conv


class PatchCodec(ModelMixin, ConfigMixin):
    """An 8x-downsampling autoencoder in place of Stable Diffusion's `AutoencoderKL`.

    The linear path is a PCA of 8x8 patches (see `fit_linear`); the convolutional paths start at zero and learn the
    residual of the linear path. It has no KL term: the latents are deterministic.

    Args:
        latent_channels: channels c of the latent.
        widths: channels of the convolutional paths on the 4x and the 8x downsampled grid.
        block_out_channels: only for diffusers, which derives the downsampling factor 2**(len - 1) from it.
        scaling_factor: latents times this have unit variance.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 16,
        widths: tuple[int, int] = (96, 160),
        block_out_channels: tuple[int, ...] = (1, 1, 1, 1),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
    ):
        super().__init__()
        fine, coarse = widths
        self.linear_encoder = nn.Conv2d(3, latent_channels, PATCH, stride=PATCH)
        self.linear_decoder = nn.ConvTranspose2d(latent_channels, 3, PATCH, stride=PATCH)
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, fine, 3, padding=1),
            ResidualBlock(fine),
            ResidualBlock(fine),
            nn.Conv2d(fine, coarse, 3, stride=2, padding=1),
            ResidualBlock(coarse),
            ResidualBlock(coarse),
            nn.GroupNorm(8, coarse),
            nn.SiLU(),
            _zeroed(nn.Conv2d(coarse, latent_channels, 3, padding=1)),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, coarse, 3, padding=1),
            ResidualBlock(coarse),
            ResidualBlock(coarse),
            nn.Conv2d(coarse, fine * 4, 1),
            nn.PixelShuffle(2),
            ResidualBlock(fine),
            ResidualBlock(fine),
            ResidualBlock(fine),
            nn.GroupNorm(8, fine),
            nn.SiLU(),
            _zeroed(nn.Conv2d(fine, 48, 3, padding=1)),
            nn.PixelShuffle(4),
        )

    @torch.no_grad()
    def fit_linear(self, images: Tensor) -> None:
        """Set the linear path to the leading principal components of the 8x8 patches of `images` [b, 3, h, w]."""
        channels = self.config.latent_channels
        patches = F.unfold(images, PATCH, stride=PATCH).transpose(1, 2).reshape(-1, 3 * PATCH * PATCH)
        mean = patches.mean(0)
        _, vectors = torch.linalg.eigh(torch.cov((patches - mean).T))
        components = vectors.flip(1)[:, :channels]
        scale = ((patches - mean) @ components).std(0)
        self.linear_encoder.weight.copy_((components / scale).T.reshape(channels, 3, PATCH, PATCH))
        self.linear_encoder.bias.copy_(-(mean @ (components / scale)))  # type: ignore[union-attr]  # as in `_zeroed`
        self.linear_decoder.weight.copy_((components * scale).T.reshape(channels, 3, PATCH, PATCH))
        self.linear_decoder.bias.copy_(mean.reshape(3, -1).mean(1))  # type: ignore[union-attr]  # as in `_zeroed`

    @overload
    def encode(self, x: Tensor, return_dict: Literal[True] = True) -> CodecLatents: ...

    @overload
    def encode(self, x: Tensor, return_dict: Literal[False]) -> tuple[Tensor]: ...

    def encode(self, x: Tensor, return_dict: bool = True) -> CodecLatents | tuple[Tensor]:
        """Images [b, 3, h, w] in [-1, 1] to latents [b, c, h/8, w/8]; h and w are multiples of 8."""
        latents = self.linear_encoder(x) + self.encoder(x)
        return CodecLatents(latents=latents) if return_dict else (latents,)

    @overload
    def decode(self, z: Tensor, return_dict: Literal[True] = True, generator: object = None) -> CodecSample: ...

    @overload
    def decode(self, z: Tensor, return_dict: Literal[False], generator: object = None) -> tuple[Tensor]: ...

    def decode(self, z: Tensor, return_dict: bool = True, generator: object = None) -> CodecSample | tuple[Tensor]:
        """Latents [b, c, h, w] to images [b, 3, 8h, 8w]; `generator` is accepted for diffusers and not used."""
        sample = self.linear_decoder(z) + self.decoder(z)
        return CodecSample(sample=sample) if return_dict else (sample,)

    def forward(self, x: Tensor) -> Tensor:
        """Encode and decode images [b, 3, h, w]."""
        return self.decode(self.encode(x).latents).sample


def gradient_loss(output: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of the horizontal and vertical image gradients of two batches [b, 3, h, w]."""
    return F.l1_loss(output.diff(dim=-1), target.diff(dim=-1)) + F.l1_loss(output.diff(dim=-2), target.diff(dim=-2))


def codec_loss(codec: PatchCodec, images: Tensor, latent_noise: float, generator: torch.Generator) -> Tensor:
    """L1 + MSE + gradient loss of decoding noisy latents; the noise makes nearby latents decode alike."""
    latents = codec.encode(images).latents
    output = codec.decode(latents + latent_noise * torch.randn(latents.shape, generator=generator).to(latents)).sample
    return (
        F.l1_loss(output, images)
        + 2 * F.mse_loss(output, images)
        + 0.7 * gradient_loss(output, images)
        + 1e-4 * latents.square().mean()
    )


def psnr_db(output: Tensor, target: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of images in [-1, 1] (peak-to-peak 2); `output` is clamped first."""
    return (10 * torch.log10(4 / F.mse_loss(output.clamp(-1, 1), target))).item()
