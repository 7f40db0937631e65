"""A face recogniser of this world: an ArcFace network (Deng et al. 2019, arXiv 1801.07698) on the base people.

No other stage learns from it or is tuned with it, so it gives a second opinion on identity.
"""

from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from w2wpp.compute.schedules import cosine_rate, step_generator
from w2wpp.compute.training import train
from w2wpp.diffusion.pipeline import random_pixels
from w2wpp.faces.embeddings import ARCFACE_SIZE
from w2wpp.files.settings import Count, Positive, Rate, Section


class ArcFaceParams(Section):
    """The second recogniser, trained on the base people."""

    dim: Count = 128
    """Numbers in an embedding."""
    width: Count = 64
    """Channels of the first block."""
    steps: Count = 1000
    """Training steps."""
    batch: Annotated[int, Field(ge=2)] = 128
    """Faces per step."""
    lr: Rate = 2.0e-3
    """Learning rate of AdamW."""
    margin: Annotated[float, Field(ge=0, le=1)] = 0.3
    """Additive angular margin, in radians."""
    scale: Positive = 24.0
    """Scale of the cosines."""


class _Block(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class ArcFaceNetwork(nn.Module):
    """Aligned faces float32 [n, 3, 112, 112] in [-1, 1] to embeddings [n, dim], not normalised.

    Faces of this world have few pixels, so the first layer takes patches of 8x8.
    """

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.AvgPool2d(2),
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, width, 3, padding=1),
            _Block(width),
            _Block(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            _Block(2 * width),
            _Block(2 * width),
            nn.BatchNorm2d(2 * width),
            nn.PReLU(2 * width),
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(0.2), nn.Linear(2 * width * 49, dim), nn.BatchNorm1d(dim))

    def forward(self, faces: Tensor) -> Tensor:
        return self.head(self.body(faces))


def train_arcface(chips: Tensor, people: Tensor, params: ArcFaceParams, seed: int) -> ArcFaceNetwork:
    """Train with the additive angular margin, which rises from zero over the first third.

    Args:
        chips: aligned faces uint8 [n, 112, 112, 3].
        people: int64 [n], the person of each face, from 0.
    """
    torch.manual_seed(seed)
    network = ArcFaceNetwork(params.dim, params.width)
    centers = nn.Parameter(torch.randn(int(people.max()) + 1, params.dim) * 0.05)
    optimizer = torch.optim.AdamW(
        [{"params": network.parameters(), "weight_decay": 5e-4}, {"params": [centers], "weight_decay": 0.0}], params.lr
    )

    def loss_of(step: int) -> Tensor:
        generator = step_generator(seed, step)
        rows, _, faces = random_pixels(chips, params.batch, generator)
        brightness = 1 + 0.1 * torch.randn(len(faces), 1, 1, 1, generator=generator)
        cosines = F.normalize(network(faces * brightness)) @ F.normalize(centers).T
        own = cosines.gather(1, people[rows, None])
        margin = params.margin * min(1.0, 3 * step / params.steps)
        harder = torch.cos(torch.acos(own.clamp(-1 + 1e-6, 1 - 1e-6)) + margin)
        return F.cross_entropy(params.scale * cosines.scatter(1, people[rows, None], harder), people[rows])

    train("arcface", loss_of, optimizer, partial(cosine_rate, steps=params.steps, lr=params.lr), params.steps)
    return network.eval().requires_grad_(False)


def export_onnx(path: Path, network: ArcFaceNetwork) -> None:
    """Write a file that `insightface:<path>` reads: input [n, 3, 112, 112] RGB in [-1, 1], output [n, dim]."""
    path.parent.mkdir(parents=True, exist_ok=True)
    face = torch.zeros(2, 3, ARCFACE_SIZE, ARCFACE_SIZE)
    torch.onnx.export(
        network,
        (face,),
        path,
        input_names=["face"],
        output_names=["embedding"],
        dynamic_axes={"face": {0: "n"}, "embedding": {0: "n"}},
        dynamo=False,
    )
