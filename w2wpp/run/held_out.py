"""Checks of held-out people before they are inverted or scored; errors name the settings that say who they are."""

from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.files.errors import InputError
from w2wpp.lora.weights import Weights


def check_people(data: Weights, names: list[str], split: str, rendered: bool, where: str) -> None:
    """Refuse held-out people who lack a LoRA or who are in the zoo.

    Args:
        names: of the held-out people of `split`.
        rendered: whether they are people of this world, who have LoRAs.
        where: the file that errors name.

    Raises:
        InputError: a person lacks a LoRA or is in the zoo.
    """
    if rendered and not data.names("true", split) == data.names("one-photo", split) == names:
        raise InputError(
            where,
            "person",
            "not the people of the portraits, in their order",
            "See data/weights/quarantine.csv for refused LoRAs, then run `dvc repro -f collect`",
        )
    known = sorted(set(names) & set(data.names("zoo")))
    if known:
        raise InputError(
            where,
            "person",
            f"{known[0]!r} is in the zoo and among the {len(names)} held-out people, of whom the zoo must not know",
            "Rename the one in portraits.path, or take the LoRA away if it is the same person's",
        )


def check_photo_size(pipe: StableDiffusionPipeline, images: Tensor) -> None:
    """Refuse photos uint8 [..., h, w, 3] whose size differs from the base model's pictures.

    Raises:
        InputError: the size differs.
    """
    side = pipe.unet.config.sample_size * pipe.vae_scale_factor
    if images.shape[-3:-1] != (side, side):
        raise InputError(
            "data/portraits",
            None,
            f"photos of {images.shape[-2]} x {images.shape[-3]} pixels, but the base model draws {side} x {side}",
            f"Set portraits.photo_size (portraits.size of rendered ones) to {side}",
        )
