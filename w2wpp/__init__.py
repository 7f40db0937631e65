"""w2w++: a latent space over the weights of identity LoRAs.

Each point of a space decodes to a LoRA, and so to a person that a diffusion model draws.

    import w2wpp

    space = w2wpp.load_space("vae")  # data/spaces/vae, or the file of any space
    person = w2wpp.sample(space, seed=7)  # a person who never existed, as a LoRA
    person.save("person.safetensors")  # diffusers (pipe.load_lora_weights), peft and kohya's tools load it
    person.draw("a photo of sks person, smiling", seeds=4)[0].save("person.png")

Two people of one space blend, and a person can be saved in the format of another tool:

    blend = w2wpp.blend(person, w2wpp.sample(space, seed=8), 0.3)
    blend.save("blend.safetensors", format="kohya", dtype="fp16")

Inversion finds the point that explains one photo best, or several photos of one person. Photos may have any size:

    me = w2wpp.invert("photo.jpg", space="vae")
    me.save("me.safetensors")

Attributes change along directions that labels of zoo people gave:

    older = me.edit({"age": 3.0})  # w2wpp.edit(space, me, {"age": 3.0})

All functions except `invert`, which finds faces, run without the rendered world. Names refer to data/ of the current
directory, where `make repro` writes its outputs. Other base models and spaces are given by their paths. A bad input
raises an `InputError` of one line.
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
    from w2wpp.inversion.search import RefineParams

# transformers reads this when first imported; otherwise it reports absent optional packages that nothing here needs.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__all__ = [
    "GenerateParams",
    "InputError",
    "Inversion",
    "InvertParams",
    "Lora",
    "Person",
    "PhotoOptions",
    "RefineParams",
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
    "RefineParams": "w2wpp.inversion.search",
    **dict.fromkeys(("Inversion", "InvertParams", "PhotoOptions", "invert"), "w2wpp.api.from_photo"),
    **dict.fromkeys(("edit", "learn_directions"), "w2wpp.api.editing"),
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562), because torch and diffusers take seconds to load."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_ELSEWHERE.get(name, "w2wpp.api.person")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
