"""w2w++: a latent space over the weights of identity LoRAs.

A space makes people of points: each point decodes to a LoRA, and so to a person that a diffusion model draws.

    import w2wpp

    space = w2wpp.load_space("vae")  # data/spaces/vae, or the file of any space
    person = w2wpp.sample(space, seed=7)  # z ~ N(0, I), decoded to a LoRA
    person.save("person.safetensors")  # for pipe.load_lora_weights of diffusers
    person.draw("a photo of sks person, smiling", seeds=4)[0].save("person.png")

Two people of one space blend, and every person can be written for another tool:

    blend = w2wpp.blend(person, w2wpp.sample(space, seed=8), 0.3)
    blend.save("blend.safetensors", format="kohya", dtype="fp16")

And one photo of any size, or several of one person, are the point that explains them best:

    me = w2wpp.invert("photo.jpg", space="vae")
    me.save("me.safetensors")

Attributes of a person change along directions that labels of zoo people gave:

    older = me.edit({"age": 3.0})  # or w2wpp.edit(space, me, {"age": 3.0})

Everything here but `invert`, which finds faces, runs without the rendered world. Names are those of the current
directory's data/, where `make repro` leaves what it makes; base models and spaces of one's own are given by their
paths. Whatever is wrong with an input is an `InputError` of one line.
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from w2wpp.api.editing import edit, learn_directions
    from w2wpp.api.from_photo import Inversion, InvertParams, PhotoOptions, invert
    from w2wpp.api.person import (
        GenerateParams,
        Lora,
        Person,
        blend,
        decode,
        encode,
        load_base,
        load_lora,
        load_space,
        sample,
    )
    from w2wpp.files.errors import InputError

# Read when transformers is first imported, which otherwise reports absent optional packages that nothing here needs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__all__ = [
    "GenerateParams",
    "InputError",
    "Inversion",
    "InvertParams",
    "Lora",
    "Person",
    "PhotoOptions",
    "blend",
    "decode",
    "edit",
    "encode",
    "invert",
    "learn_directions",
    "load_base",
    "load_lora",
    "load_space",
    "sample",
]


_ELSEWHERE = {
    "InputError": "w2wpp.files.errors",
    **dict.fromkeys(("Inversion", "InvertParams", "PhotoOptions", "invert"), "w2wpp.api.from_photo"),
    **dict.fromkeys(("edit", "learn_directions"), "w2wpp.api.editing"),
}


def __getattr__(name: str) -> object:
    """Load what is asked for when it is: torch and diffusers take seconds (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "w2wpp.api.person")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
