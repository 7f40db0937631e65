"""Estimate the GPU memory of Stable Diffusion 1.5 from tensors of the true shapes without storage.

Everything runs on tensors that have a shape and a dtype but no storage. The bytes of live tensors are summed at every
operation. CUDA's context, workspaces of kernels and fragmentation are left out. No GPU, model or network is needed.
"""

import argparse
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from measuring import gib
from sd15_shape import SHAPES, Shape, models, parameter_bytes, w2w_layout
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from w2wpp.inversion.search import CHECKED
from w2wpp.lora.adapters import adapted
from w2wpp.lora.layout import WeightLayout


class Peak(TorchDispatchMode):
    """The peak of live bytes of all storages within the context."""

    def __init__(self) -> None:
        super().__init__()
        self.alive, self.now, self.most = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self.alive:
            return
        size = self.alive[key] = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.now -= self.alive.pop(key)


def inputs(unet: UNet2DConditionModel, samples: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy latents, timesteps and text embeddings of a batch."""
    size, tokens = unet.config.sample_size, 77
    return (
        torch.empty(samples, 4, size, size, dtype=unet.dtype),
        torch.zeros(samples, dtype=torch.long),
        torch.empty(samples, tokens, unet.config.cross_attention_dim, dtype=unet.dtype),
    )


def invert(unet: UNet2DConditionModel, layout: WeightLayout, people: int, latent_dim: int) -> None:
    """One step of an inversion, as in `w2wpp.inversion.search.invert`."""
    z = torch.zeros(people, latent_dim, requires_grad=True)
    components, std = torch.empty(latent_dim, layout.dimension), torch.empty(layout.dimension)
    weights = z @ components * std + std
    with adapted(unet, layout, weights):
        output = unet(*inputs(unet, people)).sample
    (output.float() - torch.empty_like(output, dtype=torch.float32)).square().mean((1, 2, 3)).sum().backward()


@torch.no_grad()
def judge(unet: UNet2DConditionModel, layout: WeightLayout, timesteps: int = CHECKED) -> None:
    """The loss of one person's photo that judges a finished search, as in `w2wpp.inversion.search.photo_losses`."""
    with adapted(unet, layout, torch.empty(1, layout.dimension)):
        unet(*inputs(unet, timesteps))


@torch.no_grad()
def draw(unet: UNet2DConditionModel, vae: AutoencoderKL, layout: WeightLayout, pictures: int) -> None:
    """One denoising step with guidance, for pictures of as many LoRAs, and their decoding, as in `generate`."""
    with adapted(unet, layout, torch.empty(pictures, layout.dimension)):
        unet(*inputs(unet, 2 * pictures))
    vae.decode(inputs(unet, pictures)[0]).sample.float()


@contextmanager
def without_storage(
    shape: Shape, dtype: str
) -> Iterator[tuple[UNet2DConditionModel, AutoencoderKL, WeightLayout, int]]:
    """UNet, autoencoder and layout of LoRAs, for tensors without storage; and the bytes of all weights."""
    with FakeTensorMode():
        unet, vae, text = models(getattr(torch, dtype), shape)
        yield unet, vae, w2w_layout(unet), parameter_bytes(unet, vae, text)


def peak(work, *args) -> int:
    """Bytes at the peak of `work(*args)`, beside those before."""
    with Peak() as memory:
        work(*args)
    return memory.most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--people", type=int, nargs="+", default=[1, 2, 4, 8], help="people inverted at once")
    parser.add_argument("--pictures", type=int, nargs="+", default=[1, 8, 16], help="pictures drawn at once")
    parser.add_argument("--latent_dim", type=int, default=1000)
    args = parser.parse_args()
    with without_storage(SHAPES["true"], args.dtype) as (unet, vae, layout, held):
        print(f"weights of UNet, autoencoder and text encoder, {args.dtype}: {gib(held)} GiB")
        for people in args.people:
            print(f"inversion, {people} at once: {gib(peak(invert, unet, layout, people, args.latent_dim))} GiB more")
        for pictures in args.pictures:
            print(f"pictures, {pictures} at once: {gib(peak(draw, unet, vae, layout, pictures))} GiB more")


if __name__ == "__main__":
    main()
