"""Principal components of the changes that LoRAs make to the UNet's predictions.

The weights of two LoRAs of one person differ widely, and yet both draw the same face: most of their difference lies in
directions that hardly change predictions. Distances between predictions on common inputs ignore these directions. To
first order they are distances between weights in the metric of the prediction's Jacobian.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import in_resumable_batches
from w2wpp.compute.runtime import progress
from w2wpp.diffusion.denoising import region_weights, training_schedule
from w2wpp.diffusion.pipeline import encode_images, encode_prompts
from w2wpp.lora.adapters import adapted
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.shards import Shards
from w2wpp.lora.weights import BLOCK_ROWS
from w2wpp.spaces.affine import LinearSpace


@dataclass(frozen=True)
class NoisyInputs:
    """Noisy inputs for all models, and the weights of the pixels of their predictions.

    Attributes:
        latents: [m, c, h, w].
        timesteps: int64 [m].
        text: [1, length, hidden].
        pixel_weights: [h, w].
    """

    latents: Tensor
    timesteps: Tensor
    text: Tensor
    pixel_weights: Tensor


@torch.no_grad()
def noisy_inputs(
    pipe: StableDiffusionPipeline,
    photos: Tensor,
    prompt: str,
    shift: float,
    region: tuple[float, float, float, float],
    seed: int,
) -> NoisyInputs:
    """Photos at evenly spread noise levels.

    Args:
        photos: uint8 [count, h, w, 3].
        shift: of the timesteps, as in `w2wpp.diffusion.denoising.draw_timesteps`.
        region: in which predictions are compared, as in `w2wpp.diffusion.denoising.region_weights`.
    """
    schedule, device, clean = training_schedule(pipe), pipe.unet.device, encode_images(pipe, photos)
    even = (torch.arange(len(photos)) + 0.5) / len(photos)
    timesteps = (shift * even / (1 + (shift - 1) * even) * schedule.config.num_train_timesteps).long().to(device)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed)).to(device)
    return NoisyInputs(
        schedule.add_noise(clean, noise, timesteps),
        timesteps,
        encode_prompts(pipe, [prompt]),
        region_weights(pipe, region),
    )


def _predict(
    pipe: StableDiffusionPipeline, layout: WeightLayout, weights: Tensor, inputs: NoisyInputs, number: int
) -> Tensor:
    """Predictions of models with weights [n, d] on one input [n, c * h * w], times the root of the pixel weights."""
    n = len(weights)
    with adapted(pipe.unet, layout, weights):
        dtype = pipe.unet.dtype
        answer = pipe.unet(
            inputs.latents[number].to(dtype).expand(n, -1, -1, -1),
            inputs.timesteps[number].expand(n),
            inputs.text.to(dtype).expand(n, -1, -1),
        ).sample
    return (answer.float() * inputs.pixel_weights.sqrt()).flatten(1)


@torch.no_grad()
def predictions(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    inputs: NoisyInputs,
    at_once: int,
    scratch: Path,
) -> Tensor:
    """Predictions of models with weights float32 [n, d] on all inputs: float32 [n, m, c * h * w], on the CPU.

    Finished batches of `at_once` models are read from `scratch`.
    """
    with progress(None, "predictions", total=len(weights) * len(inputs.latents)) as bar:

        def predict(first: int, count: int) -> dict[str, Tensor]:
            some = weights[first : first + count].to(pipe.unet.device)
            answers = [_predict(pipe, layout, some, inputs, number) for number in range(len(inputs.latents))]
            bar.update(count * len(inputs.latents))
            return {"answers": torch.stack(answers, 1)}

        return in_resumable_batches(len(weights), at_once, scratch / "predictions", predict)["answers"]


def prediction_gradients(
    pipe: StableDiffusionPipeline,
    layout: WeightLayout,
    weights: Tensor,
    inputs: NoisyInputs,
    directions: Tensor,
    at_once: int,
    scratch: Path,
) -> Tensor:
    """Gradients of one model's predictions along given directions by its weights: float32 [q, d], on the CPU.

    Args:
        weights: of the model, float32 [d].
        directions: in the space of all its predictions, [q, m, c * h * w].
        at_once: directions per batch.
        scratch: folder of finished batches.
    """
    with progress(None, "prediction gradients", total=len(directions) * len(inputs.latents)) as bar:

        def differentiate(first: int, count: int) -> dict[str, Tensor]:
            some = directions[first : first + count].to(pipe.unet.device)
            copies = weights.to(pipe.unet.device).repeat(count, 1).requires_grad_()
            gradients = torch.zeros_like(copies)
            for number in range(len(inputs.latents)):
                along = (_predict(pipe, layout, copies, inputs, number) * some[:, number]).sum()
                gradients += torch.autograd.grad(along, copies)[0]
            bar.update(count * len(inputs.latents))
            return {"gradients": gradients}

        return in_resumable_batches(len(directions), at_once, scratch / "gradients", differentiate)["gradients"]


def fit_prediction_pca(
    pipe: StableDiffusionPipeline,
    zoo: Shards,
    mean: Tensor,
    inputs: NoisyInputs,
    people: int,
    components: int,
    at_once: int,
    scratch: Path,
) -> LinearSpace:
    """The space of the `components` directions in which the zoo's predictions differ most.

    The directions are the principal ones of some zoo people's predictions. Their gradients at the mean LoRA map any
    weight vector to coordinates without the UNet. A coordinate decodes to the zoo's mean weights given that coordinate
    (linear regression), so weights that it does not determine average out.

    Args:
        zoo: weight vectors [n, d].
        mean: of these vectors, float32 [d].
        people: number of zoo people whose predictions are computed.
        at_once: models that the UNet runs at once.
        scratch: folder of finished predictions, for another number of components or after a kill.

    Raises:
        ValueError: there are too few people for so many components.
    """
    sampled = min(people, len(zoo))
    if not 1 <= components < sampled:
        raise ValueError(f"{sampled} people span {sampled - 1} directions, not {components}")
    chosen = torch.linspace(0, len(zoo) - 1, sampled).round().long().tolist()
    answers = predictions(pipe, zoo.layout, zoo.rows(chosen).float(), inputs, at_once, scratch)
    _, _, directions = torch.linalg.svd((answers - answers.mean(0)).flatten(1), full_matrices=False)
    gradients = prediction_gradients(
        pipe, zoo.layout, mean, inputs, directions[:components].unflatten(1, answers.shape[1:]), at_once, scratch
    )

    coordinates = torch.cat([(block.float() - mean) @ gradients.T for block in zoo.blocks(BLOCK_ROWS)])
    left, singular, rotation = torch.linalg.svd(coordinates, full_matrices=False)
    scales = (singular / (len(zoo) - 1) ** 0.5).clamp_min(1e-6)
    z, synthesis, first = left * (len(zoo) - 1) ** 0.5, torch.zeros(components, zoo.dimension), 0
    for block in zoo.blocks(BLOCK_ROWS):
        synthesis += z[first : first + len(block)].T @ (block.float() - mean) / (len(zoo) - 1)
        first += len(block)
    return LinearSpace.fitted(zoo.layout, mean, scales, (rotation @ gradients) / scales[:, None], synthesis)
