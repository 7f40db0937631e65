"""params.yaml as typed, range-checked settings; an unknown key is an error, so that no misspelling is ignored."""

import difflib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from w2wpp.compute.engine import EngineParams
from w2wpp.diffusion.denoising import GenerateParams
from w2wpp.evaluation.gallery import EvaluateParams
from w2wpp.evaluation.outside import OutsideParams
from w2wpp.evaluation.sweep_rows import SweepParams
from w2wpp.faces.portraits import PortraitsParams, Split
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.settings import Count, Prompt, Rate, Section, Share, Whole
from w2wpp.ingest.sources import SourceParams
from w2wpp.inversion.editing import EditParams
from w2wpp.inversion.photo_encoder import PhotoEncoderParams
from w2wpp.inversion.restoration import RestorerParams
from w2wpp.inversion.search import InvertParams
from w2wpp.lora.layout import LoraParams
from w2wpp.run.yaml_files import parse_mapping, read_text
from w2wpp.spaces.base import SMOOTHING
from w2wpp.spaces.linear import LinearParams
from w2wpp.spaces.pca import PCAParams
from w2wpp.spaces.registry import METHODS
from w2wpp.spaces.vae_training import VAEParams
from w2wpp.world.arcface import ArcFaceParams
from w2wpp.world.base_model import BaseParams
from w2wpp.world.probes import ProbeParams
from w2wpp.world.zoo import ZooParams

RESTORE = "Restore it from the committed params.yaml"
CHANGE = "Change it in params.yaml or with `dvc exp run -S`"


def _recognizer(spec: str) -> str:
    if spec != "dlib" and not re.fullmatch(r"insightface:([^/\\]+|.+\.onnx)", spec):
        raise ValueError(
            f"unknown recogniser {spec!r}: it may be dlib, insightface:<pack name> or insightface:<path.onnx>"
        )
    kind, _, target = spec.partition(":")
    return f"{kind}:{os.path.expanduser(target)}" if spec.endswith(".onnx") else spec


def _face_finder(spec: str) -> str:
    if spec.endswith(".onnx") or not re.fullmatch(r"dlib|insightface:[^/\\]+", spec):
        raise ValueError(f"unknown face finder {spec!r}: it may be dlib or insightface:<pack name>")
    return spec


def _space(name: str) -> str:
    if name not in METHODS:
        raise ValueError(f"unknown space {name!r}: it may be {', '.join(METHODS)}")
    return name


Recognizer = Annotated[str, AfterValidator(_recognizer)]


class CollectParams(SourceParams, ZooParams):
    """The zoo: one LoRA per person, from elsewhere or trained here."""


class FlattenParams(Section):
    """LoRAs as weight vectors."""

    people: Annotated[int, Field(ge=4)] | None = None
    """Number of zoo people whose LoRAs spaces learn from, counted from the first; null: all."""
    max_quarantined: Share = 0.01
    """Share of LoRAs that may be refused before the stage fails."""


class SampleParams(Section):
    """New people sampled from each space."""

    people: Annotated[int, Field(ge=2)] = 24
    """People sampled."""
    seeds: Count = 2
    """Pictures per prompt."""
    prompts: Annotated[list[Prompt], Field(min_length=1)] = Field(
        ["a photo of sks person", "a photo of sks person, smiling", "a photo of sks person, on a blue background"]
    )
    """Prompts; the first asks for a person alone."""
    scored: Annotated[int, Field(ge=4)] = 192
    """People who are compared with as many real people, by one picture of the first prompt each."""
    donors: Whole = 512
    """Zoo people around whom samples are drawn, and who give them what the space leaves out of a LoRA; 0: N(0, I)."""
    smoothing: Rate = SMOOTHING
    """Share of the variance of samples that is not the donors'."""


class InterpolateParams(Section):
    """Blends of two zoo people in each space."""

    pairs: Count = 8
    """Pairs of people."""
    steps: Annotated[int, Field(ge=3)] = 7
    """Pictures per strip, ends included."""
    prompt: Prompt = "a photo of sks person"
    """Prompt of the pictures."""


class Params(Section):
    """All settings of the pipeline; params.yaml overrides the defaults."""

    seed: Whole = 0
    """Seed of everything that is drawn."""
    split: Split = "validation"
    """Held-out people who are inverted and scored: validation people to choose settings, test people to report."""
    space: Annotated[str, AfterValidator(_space)] = "vae"
    """Space whose inversion metrics/inversion.json shows."""
    recognizer: Recognizer = "dlib"
    """Recogniser that chooses settings: dlib, insightface:<pack name> or insightface:<path of an ONNX file>."""
    second_recognizer: Literal["arcface"] | Recognizer = "arcface"
    """Recogniser that chooses no setting; `arcface` is the one trained here."""
    faces: Annotated[str, AfterValidator(_face_finder)] = "dlib"
    """Detector of the faces that align and mask photos: dlib or insightface:<pack name>."""
    engine: EngineParams = EngineParams()
    portraits: PortraitsParams = PortraitsParams()
    base: BaseParams = BaseParams()
    lora: LoraParams = LoraParams()
    collect: CollectParams = CollectParams()
    probe: ProbeParams = ProbeParams()
    restorer: RestorerParams = RestorerParams()
    arcface: ArcFaceParams = ArcFaceParams()
    flatten: FlattenParams = FlattenParams()
    pca: PCAParams = PCAParams()
    linear: LinearParams = LinearParams()
    vae: VAEParams = VAEParams()
    sample: SampleParams = SampleParams()
    interpolate: InterpolateParams = InterpolateParams()
    photo_encoder: PhotoEncoderParams = PhotoEncoderParams()
    invert: InvertParams = InvertParams()
    edit: EditParams = EditParams()
    outside: OutsideParams = OutsideParams()
    generate: GenerateParams = GenerateParams()
    evaluate: EvaluateParams = EvaluateParams()
    sweep: SweepParams = SweepParams()

    @model_validator(mode="after")
    def _photos_suffice(self) -> "Params":
        rendered = self.portraits.source == "rendered"
        if rendered and self.collect.photos + self.portraits.score_photos > self.portraits.photos:
            raise ValueError(
                "portraits.photos must be at least collect.photos + portraits.score_photos, as no photo "
                "that a LoRA was trained on may be scored against"
            )
        if self.invert.photos + self.portraits.score_photos > self.portraits.photos:
            raise ValueError(
                "invert.photos must be at most portraits.photos - portraits.score_photos, as no photo that a person "
                "is found by may be scored against"
            )
        return self

    @model_validator(mode="after")
    def _people_are_repeated(self) -> "Params":
        for space in METHODS:
            if getattr(self, space).within_person_ridge and (self.collect.source != "zoo" or self.collect.repeated < 2):
                raise ValueError(
                    f"{space}.within_person_ridge must be null where fewer than two zoo people have two "
                    "LoRAs, as those of collect.repeated have in a zoo that is trained here"
                )
        return self

    @model_validator(mode="after")
    def _sources_agree(self) -> "Params":
        foreign = [
            key
            for key, value in (
                ("portraits.source", self.portraits.source == "folder"),
                ("base.source", self.base.source == "pretrained"),
            )
            if value
        ]
        if foreign and self.collect.source == "zoo":
            raise ValueError(
                f"collect.source must be w2w or folder where {foreign[0]} is not of this world, as the "
                "zoo that is trained here is one of rendered people"
            )
        return self

    def latent_dim(self, space: str) -> int:
        """Dimensions of a space: its own setting, or that of the VAE."""
        return getattr(self, space).latent_dim or self.vae.latent_dim


def sections(model: type[Section] = Params, key: str = "") -> Iterator[tuple[str, type[Section]]]:
    """Every section below a settings class, with its key such as "vae.kl"."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield f"{key}{name}", field.annotation
            yield from sections(field.annotation, f"{key}{name}.")


def in_params(error: ArgumentError, where: str = "params.yaml") -> InputError:
    """The same error with the key of the settings file, if the argument has one."""
    found = [key for key, section in sections() if error.owner and issubclass(section, error.owner)]
    key = f"{found[0]}.{error.key}" if found else error.key
    return InputError(where, key, error.reason, error.remedy)


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range.
            The message names the first such key, the fault and the valid values.
    """
    text = read_text(path, "Run from the repository's root")
    return check_params(parse_mapping(text, str(path), RESTORE), str(path))


def check_params(content: dict, where: str, remedy: str = CHANGE) -> Params:
    """Settings from the content of params.yaml; errors as of `load_params`, with `where` as the file."""
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        # A misspelt key also counts as missing; the misspelling is what the user can see.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        # A fault of several sections has no location; its message begins with the key to change.
        key = ".".join(str(part) for part in first["loc"]) or str(first["ctx"]["error"]).split()[0]
        raise InputError(where, key, *_explain(first, remedy)) from error


def require_photos(params: Params) -> None:
    """Refuse a stage that needs photos of held-out people if there are none for the zoo's base model.

    Raises:
        InputError: the zoo is from elsewhere and the photos are rendered.
    """
    if params.collect.source != "zoo" and params.portraits.source == "rendered":
        raise InputError(
            "params.yaml",
            "collect.source",
            f"{params.collect.source!r} brings no photos of held-out "
            "people, which this stage inverts or scores against",
            "`dvc repro sample interpolate` needs none; for the rest give photos with portraits.source: "
            "folder (docs/how-to/sd15.md), or set it to zoo",
        )


def _explain(error: ErrorDetails, remedy: str) -> tuple[str, str]:
    if error["type"] == "extra_forbidden":
        known = _siblings(error["loc"])
        meant = [f"Did you mean {each}? " for each in difflib.get_close_matches(str(error["loc"][-1]), known, 1)]
        return "unknown key", f"{''.join(meant)}Known keys here: {', '.join(known)}"
    if error["type"] == "missing":
        return "key missing", RESTORE
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]), remedy
    return f"{error['msg']}, got {error['input']!r}", remedy


def _siblings(location: tuple) -> list[str]:
    known: dict[str, type[Section]] = {"": Params, **dict(sections())}
    return list(known[".".join(str(part) for part in location[:-1])].model_fields)
