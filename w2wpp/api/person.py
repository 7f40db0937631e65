"""People as points of a space and as LoRAs of a base model: what `import w2wpp` offers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, overload

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image
from torch import Tensor, nn

from w2wpp.api import artifacts
from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.denoising import GenerateParams, generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.diffusion.prompts import IDENTITY_PROMPT, asks_for_more
from w2wpp.files.errors import ArgumentError
from w2wpp.files.folders import expanded
from w2wpp.files.tensor_files import printable
from w2wpp.ingest.exported import read_exported
from w2wpp.ingest.foreign import read_lora
from w2wpp.lora.adapters import Early
from w2wpp.lora.export import LoraDtype, LoraFormat, export_lora
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.products import on_rows
from w2wpp.spaces import registry
from w2wpp.spaces.base import WeightSpace

if TYPE_CHECKING:
    from w2wpp.inversion.editing import Directions

Base: TypeAlias = StableDiffusionPipeline | str | Path
Space: TypeAlias = WeightSpace | str | Path
_SAME_A = 1e-4  # of the largest number of A


@dataclass(frozen=True, eq=False)
class Lora:
    """A LoRA of a base model.

    Attributes:
        weights: float32 [d], as a weight vector.
        layout: the order of the d numbers, with rank and alpha.
    """

    weights: Tensor = field(repr=False)
    layout: WeightLayout = field(repr=False)

    def save(self, path: str | Path, format: LoraFormat = "diffusers", dtype: LoraDtype = "fp32") -> None:
        """Write the LoRA as a file of diffusers (for `pipe.load_lora_weights(path)`) or kohya, or a folder of peft.

        Args:
            path: where to; folders on the way are made.
            format: "diffusers", "peft" or "kohya".
            dtype: "fp32" or "fp16".

        Raises:
            ArgumentError: naming `format` or `dtype` (see `w2wpp.lora.export.export_lora`).
        """
        export_lora(expanded(path), self.weights, self.layout, format, dtype)

    def draw(
        self,
        prompt: str = IDENTITY_PROMPT,
        seeds: int | Sequence[int] = 1,
        base: Base = artifacts.BASE,
        settings: GenerateParams | None = None,
    ) -> list[Image.Image]:
        """Pictures of the person, one per seed, as large as the base model draws.

        Args:
            prompt: `sks person` in it stands for the person. A prompt that asks for more than a person is drawn with
                guidance (`GenerateParams.prompted_guidance`).
            seeds: which, or how many: 4 is [0, 1, 2, 3]. A seed draws the same picture for the same person, and the
                same background for all.
            base: a pipeline, or see `load_base`.
            settings: steps, guidance and so on; by default those of the shipped world.

        Raises:
            ArgumentError: naming `seeds`, or `base`: there is no such model, or the LoRA is of another one.
        """
        return [Image.fromarray(picture) for picture in draw([self], prompt, seeds, base, settings)[0].numpy()]


@dataclass(frozen=True, eq=False)
class Person(Lora):
    """A person: a point of a space, and a LoRA there.

    Attributes:
        weights: what the space decodes z to; of a sampled person, and of one from a file, with what that leaves out.
        z: float32 [k], the latent.
        space: whose latent it is.
    """

    z: Tensor
    space: WeightSpace = field(repr=False)

    @classmethod
    def at(cls, z: Tensor, space: Space = "vae") -> "Person":
        """The person at a point of a space.

        Args:
            z: float [k].

        Raises:
            ArgumentError: naming `z`: it is no point of the space; or see `load_space`.
        """
        space = the_space(space)
        z = _checked(z, space.latent_dim, "z")
        if z.ndim > 1:
            raise ArgumentError(None, "z", f"{len(z)} points", "Make a person of each")
        return Person(decode(z, space), space.layout, z, space)

    def edit(
        self,
        changes: Mapping[str, float],
        hold_others: bool | Sequence[str] = True,
        directions: "Directions | str | Path" = "auto",
    ) -> "Person":
        """The person with attributes changed: see `w2wpp.edit`."""
        from w2wpp.api.editing import edit  # which makes people, too

        return edit(self.space, self, changes, hold_others, directions)


def load_base(where: str | Path = artifacts.BASE, dtype: str = "float32") -> StableDiffusionPipeline:
    """A base model, frozen, on the GPU where there is one.

    Args:
        where: a folder with a StableDiffusionPipeline, by default the one shipped, or a name on the Hugging Face Hub.
        dtype: "float32", or "bfloat16" for GPUs.

    Raises:
        InputError: there is no such model, or diffusers cannot load it.
    """
    return load_pipeline(artifacts.base_folder(where), device(), dtype)


def load_space(where: str | Path = "vae") -> WeightSpace:
    """A space, frozen, on the CPU.

    It has `encode`, weights float32 [n, d] to z [n, k]; `decode`, the reverse; `prior`, `layout` and `latent_dim`.

    Args:
        where: the name of one of the pipeline's in the current directory, "pca", "linear" or "vae", or a file.

    Raises:
        InputError: there is no such space, or the file is none.
    """
    return registry.load_space(artifacts.space_file(where))


@overload
def load_lora(path: str | Path, space: None = None) -> Lora: ...


@overload
def load_lora(path: str | Path, space: Space) -> Person: ...


def load_lora(path: str | Path, space: Space | None = None) -> Lora:
    """A LoRA file; as a person of a space if one is given.

    What `Person.save` wrote for diffusers comes back to the bit. Any other LoRA with the keys of peft, diffusers or
    kohya's trainer is brought to the layout of the space; where all LoRAs of the space share one A, as those of the
    shipped zoo do, it keeps of its effect what that A can express.

    Args:
        path: a safetensors file.
        space: a space, or see `load_space`. None reads what `Person.save` wrote for diffusers, as a `Lora`.

    Raises:
        InputError: the file cannot be read (see `w2wpp.ingest.foreign.read_lora`), or does not fit the space.
        ArgumentError: naming `space`: one is needed to read this file.
    """
    path = expanded(path)
    exported = read_exported(path)
    if space is None:
        if exported is None:
            raise ArgumentError(
                None,
                "space",
                f"needed to read {printable(path)}, which w2w++ did not write for diffusers",
                "Give the space whose layers it adapts",
            )
        return Lora(*exported)
    space = the_space(space)
    if exported and exported[1].hash == space.layout.hash:
        weights = exported[0]
    else:
        weights = read_lora(path, space.layout).vector
    rows = shared_rows(space)
    if rows is not None and not _same_A(weights, rows, space.layout):
        weights = on_rows(weights[None], space.layout, rows)[0]
    return Person(weights, space.layout, encode(weights, space), space)


def sample(space: Space = "vae", seed: int = 0) -> Person:
    """A person who never existed, drawn from a space around its donors (see `WeightSpace.sample`), or from its prior.

    Args:
        space: a space, or see `load_space`.
        seed: 0 or more; the same seed gives the same person.

    Raises:
        ArgumentError: naming `seed`; or see `load_space`.
    """
    space = the_space(space)
    check_seed(seed)
    with torch.no_grad():
        z, weights = space.sample(1, step_generator(seed, 0))
    return Person(weights[0], space.layout, z[0], space)


def blend(first: Person, second: Person, share: float = 0.5) -> Person:
    """The person on the straight line between two people of one space.

    Both the latents and what the space leaves out of the LoRAs are blended: at 0 and 1 it is the people themselves.

    Args:
        share: of the second, 0 to 1; beyond, the line goes on.

    Raises:
        ArgumentError: naming `first` or `second`: it is in no space, or not in the same as the other.
    """
    for name, person in (("first", first), ("second", second)):
        if not isinstance(person, Person):
            raise ArgumentError(None, name, "a LoRA of no space", "Read it with a space")
    if not _same(first.space, second.space):
        raise ArgumentError(None, "second", "of another space than the first", "Read both LoRAs with one space")
    z = torch.lerp(first.z, second.z, float(share))
    one, other = (person.weights - decode(person.z, person.space) for person in (first, second))
    weights = decode(z, first.space) + torch.lerp(one, other, float(share))
    return Person(weights, first.space.layout, z, first.space)


def encode(weights: Tensor, space: Space = "vae") -> Tensor:
    """Weight vectors to latents.

    Args:
        weights: float [d] or [n, d], in the layout of the space.
        space: a space, or see `load_space`.

    Returns:
        float32 [k] or [n, k]; of a VAE, means of q(z | w).

    Raises:
        ArgumentError: naming `weights`: not of the space's dimension, or not finite; or see `load_space`.
    """
    space = the_space(space)
    weights = _checked(weights, space.layout.dimension, "weights")
    with torch.no_grad():
        z = space.encode(weights.reshape(-1, space.layout.dimension).to(space.scales.device))
    return z.cpu().reshape(*weights.shape[:-1], -1)


def decode(z: Tensor, space: Space = "vae") -> Tensor:
    """Latents to weight vectors; of one latent, `Person.at` makes a person.

    Args:
        z: float [k] or [n, k]; people lie where N(0, I) does.
        space: a space, or see `load_space`.

    Returns:
        float32 [d] or [n, d].

    Raises:
        ArgumentError: naming `z`: not of the space's latent dimension, or not finite; or see `load_space`.
    """
    space = the_space(space)
    z = _checked(z, space.latent_dim, "z")
    with torch.no_grad():
        weights = space.decode(z.reshape(-1, space.latent_dim).to(space.scales.device))
    return weights.cpu().reshape(*z.shape[:-1], -1)


def draw(
    people: Sequence[Lora],
    prompt: str = IDENTITY_PROMPT,
    seeds: int | Sequence[int] = 1,
    base: Base = artifacts.BASE,
    settings: GenerateParams | None = None,
    label: str | None = None,
    before: tuple[Lora, int] | None = None,
) -> Tensor:
    """Pictures of several people, as `Person.draw`, drawn together: uint8 [n, seeds, h, w, 3].

    Args:
        before: somebody who is drawn in their place at timesteps from a number on, such as 700: an unedited person,
            so that edits change details alone.

    Raises:
        ArgumentError: see `Person.draw`; or people whose LoRAs adapt different layers.
    """
    pipe, settings = the_base(base), settings or GenerateParams()
    numbers = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not numbers:
        raise ArgumentError(None, "seeds", "none", "Ask for 1 picture at least")
    for number in numbers:
        check_seed(number, "seeds")
    layout = people[0].layout
    if any(person.layout.hash != layout.hash for person in [*people, *([before[0]] if before else [])]):
        raise ArgumentError(None, "people", "LoRAs of several layouts", "Draw those of each apart")
    check_fit(layout, pipe.unet)
    if asks_for_more(prompt):
        settings = settings.prompted
    weights = torch.stack([person.weights for person in people])
    early = None if before is None else Early(before[0].weights.expand_as(weights), before[1])
    return generate(pipe, layout, weights, [prompt], numbers, settings, label, early)[:, 0]


def check_fit(layout: WeightLayout, unet: nn.Module) -> None:
    """Refuse LoRAs of another base model.

    Raises:
        ArgumentError: naming `base` and the first layer that it lacks, or has in another size.
    """
    modules = dict(unet.named_modules())
    for layer in layout.layers:
        module = modules.get(layer.module)
        size = (getattr(module, "in_features", None), getattr(module, "out_features", None))
        if size != (layer.fan_in, layer.fan_out):
            has = "no such layer" if module is None else f"{size[0]} x {size[1]} there"
            raise ArgumentError(
                None,
                "base",
                f"{layer.module} is adapted as {layer.fan_in} x {layer.fan_out}, but the UNet has {has}",
                "Give the base model that the LoRAs were trained on",
            )


def shared_rows(space: WeightSpace) -> Tensor | None:
    """A weight vector [d] whose A all LoRAs of a space share; None where A differs from person to person."""
    ends = decode(torch.stack([torch.zeros(space.latent_dim), torch.ones(space.latent_dim)]), space)
    return ends[0] if _same_A(ends[1], ends[0], space.layout) else None


def _same_A(weights: Tensor, rows: Tensor, layout: WeightLayout) -> bool:
    in_A = ~layout.in_B
    return bool((weights - rows)[in_A].abs().max() <= _SAME_A * rows[in_A].abs().max())


def the_space(space: Space) -> WeightSpace:
    """A space, read if it is not yet (see `load_space`)."""
    return space if isinstance(space, WeightSpace) else load_space(space)


def the_base(base: Base) -> StableDiffusionPipeline:
    """A base model, read if it is not yet (see `load_base`); the last one that was read is kept."""
    # The folder as a whole path: the cache must not outlive a change of the current directory.
    return _loaded(artifacts.base_folder(base).absolute()) if isinstance(base, (str, Path)) else base


@lru_cache(maxsize=1)
def _loaded(folder: Path) -> StableDiffusionPipeline:
    return load_base(folder)


def _same(one: WeightSpace, other: WeightSpace) -> bool:
    if one is other:
        return True
    if (one.kind, one.config(), one.layout.hash) != (other.kind, other.config(), other.layout.hash):
        return False
    own, others = one.state_dict(), other.state_dict()
    return own.keys() == others.keys() and all(torch.equal(tensor, others[key]) for key, tensor in own.items())


def _checked(numbers: Tensor, length: int, key: str) -> Tensor:
    numbers = torch.as_tensor(numbers)
    if numbers.ndim not in (1, 2) or numbers.shape[-1] != length:
        raise ArgumentError(None, key, f"shape {list(numbers.shape)}, expected [{length}] or [n, {length}]")
    if not torch.isfinite(numbers).all():
        raise ArgumentError(None, key, "not finite")
    return numbers.detach().float().cpu()


def check_seed(seed: int, key: str = "seed") -> None:
    """Refuse what is no whole number from 0 on, by an ArgumentError that names `key`."""
    if not isinstance(seed, int) or seed < 0:
        raise ArgumentError(None, key, f"{seed!r}, expected whole numbers from 0 on")
