"""Function-weighted PCA: the linear space of the changes that LoRAs make to the UNet's predictions.

It is the VAE without the nonlinearity, so the difference between the two is the gain by nonlinearity.
"""

from typing import Annotated

import torch
from pydantic import Field

from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.prompts import CLASS_PROMPT, IDENTITY_PROMPT
from w2wpp.files.errors import ArgumentError
from w2wpp.files.settings import Count, Region, Ridge, Section, Shift
from w2wpp.files.storage import folder_hash
from w2wpp.lora.weights import Weights
from w2wpp.spaces.affine import LinearSpace
from w2wpp.spaces.base import FitContext, Fitted, SpaceMethod
from w2wpp.spaces.predictions import fit_prediction_pca, noisy_inputs
from w2wpp.spaces.within_person import within_person_space


class LinearParams(Section):
    """Function-weighted PCA, the linear space that the VAE builds on."""

    latent_dim: Count | None = None
    """Dimensions; null: those of the VAE."""
    inputs: Count = 32
    """Noisy pictures of the base model on which predictions are compared."""
    timestep_shift: Shift = 2.0
    """Shift of the timesteps: 1 is uniform; a larger shift draws more of the noisy ones."""
    region: Region = (0.125, 0.125, 0.875, 1.0)
    """Part of the picture in which predictions are compared: left, top, right, bottom."""
    people: Annotated[int, Field(ge=2)] = 2000
    """Zoo people whose predictions are computed."""
    components: Count = 256
    """Directions of the predictions: at least twice the latent dimension, at most as many as people span."""
    people_at_once: Count = 64
    """People whose LoRAs the UNet runs at once."""
    within_person_ridge: Ridge = 1.0
    """A smaller ridge suppresses within-person variance more; null ranks directions by variance alone."""


def fit(data: Weights, params: LinearParams, latent_dim: int, context: FitContext) -> Fitted:
    """The space of the leading directions of people's predictions, and all directions as its basis.

    Raises:
        ArgumentError: too few people for so many dimensions, or for the within-person ridge.
    """
    # A decoder can predict directions beyond the latents; the latents are also chosen among all directions.
    spanned = min(params.people, len(data.zoo)) - 1
    if latent_dim > spanned:
        raise ArgumentError(
            LinearParams,
            "people",
            f"{spanned + 1} people span {spanned} directions, not {latent_dim}",
            "Raise it, or lower latent_dim",
        )
    components = max(latent_dim, min(max(params.components, 2 * latent_dim), spanned))
    pipe = load_pipeline(context.base, device(), context.drawing.dtype)
    unadapted = torch.zeros(1, data.layout.dimension)
    pictures = generate(pipe, data.layout, unadapted, [CLASS_PROMPT], params.inputs, context.drawing, "class images")[
        0, 0
    ]
    inputs = noisy_inputs(pipe, pictures, IDENTITY_PROMPT, params.timestep_shift, params.region, context.seed)
    scratch = scratch_folder(
        context.scratch,
        "predictions",
        seed=context.seed,
        drawing=context.drawing.model_dump(),
        base=folder_hash(context.base),
        weights=folder_hash(context.weights),
        inputs=params.inputs,
        timestep_shift=params.timestep_shift,
        region=params.region,
        people=params.people,
    )
    basis = fit_prediction_pca(
        pipe, data.zoo, data.mean, inputs, params.people, components, params.people_at_once, scratch
    )
    if params.within_person_ridge:
        basis = within_person_space(basis, *data.pairs(), params.within_person_ridge, basis.latent_dim, LinearParams)
    return Fitted(basis.truncated(latent_dim), basis, {})


METHOD = SpaceMethod("linear", "linear", "linear (function-weighted PCA)", "#009E73", LinearParams, fit, (LinearSpace,))
