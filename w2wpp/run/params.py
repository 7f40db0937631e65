"""params.yaml as typed, range-checked settings; an unknown key is an error, as a mistyped one must not pass unseen."""

import difflib
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from w2wpp.files.errors import InputError

_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LORA_TARGETS = (*_ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2",
                *(f"{attention}.{target}" for attention in ("attn1", "attn2") for target in _ATTENTION))

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=8, multiple_of=8)]
Rate = Annotated[float, Field(gt=0, le=1)]
Shift = Annotated[float, Field(ge=0.1, le=100)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Ridge = Annotated[float, Field(gt=0)] | None
Prompt = Annotated[str, Field(min_length=1)]


def _not_empty(region: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    left, top, right, bottom = region
    if left >= right or top >= bottom:
        raise ValueError("a region is left, top, right, bottom, and must not be empty")
    return region


Region = Annotated[tuple[Share, Share, Share, Share], Field(strict=False), AfterValidator(_not_empty)]


class Section(BaseModel):
    # Strict, or the string "1" and the 1 that `true` is would pass as numbers.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _recognizer(spec: str) -> str:
    if spec != "dlib" and not re.fullmatch(r"insightface:([^/\\]+|.+\.onnx)", spec):
        raise ValueError(f"unknown recogniser {spec!r}: it may be dlib, insightface:<pack name> or "
                         "insightface:<path.onnx>")
    return spec


def _face_finder(spec: str) -> str:
    if spec.endswith(".onnx") or not re.fullmatch(r"dlib|insightface:[^/\\]+", spec):
        raise ValueError(f"unknown face finder {spec!r}: it may be dlib or insightface:<pack name>")
    return spec


Recognizer = Annotated[str, AfterValidator(_recognizer)]


class EngineParams(Section):
    kind: Literal["local", "ray"]
    address: Prompt | None
    gpus_per_task: Rate
    retries: Annotated[int, Field(ge=0)]


class PortraitsParams(Section):
    size: Annotated[int, Field(ge=32, le=512, multiple_of=8)]
    photos: Annotated[int, Field(ge=2)]
    score_photos: Annotated[int, Field(ge=2)]
    validation: Annotated[int, Field(ge=2)]
    test: Annotated[int, Field(ge=2)]
    source: Literal["rendered", "folder"]
    path: Annotated[str, Field(min_length=1)] | None
    photo_size: Annotated[int, Field(ge=32, le=1024, multiple_of=8)]

    @model_validator(mode="after")
    def _folder_is_named(self) -> "PortraitsParams":
        if self.source == "folder" and self.path is None:
            raise ValueError("portraits.source folder needs portraits.path, the folder of the photos")
        return self


class CodecParams(Section):
    channels: Annotated[int, Field(ge=1, le=192)]
    widths: Annotated[tuple[Width, Width], Field(strict=False)]   # YAML has lists, no tuples
    steps: Count
    decoder_steps: Count
    batch: Count
    lr: Rate
    latent_noise: Weight


class TextParams(Section):
    hidden: Annotated[int, Field(ge=8)]
    layers: Count
    heads: Count
    max_tokens: Annotated[int, Field(ge=8, le=77)]

    @model_validator(mode="after")
    def _heads_share(self) -> "TextParams":
        if self.hidden % self.heads:
            raise ValueError("base.text.hidden must be a multiple of base.text.heads")
        return self


class UNetParams(Section):
    channels: Annotated[list[Annotated[int, Field(ge=16, multiple_of=16)]], Field(min_length=1, max_length=4)]
    heads: Count


class DenoiserParams(Section):
    prediction: Literal["v_prediction", "epsilon"]
    noise_schedule: Literal["squaredcos_cap_v2", "scaled_linear"]
    timestep_shift: Shift
    steps: Count
    batch: Count
    lr: Rate
    ema: Share
    caption_dropout: Share
    class_prompt: Share
    name_prompt: Share
    name_dropout: Share

    @model_validator(mode="after")
    def _captions_remain(self) -> "DenoiserParams":
        if self.caption_dropout + self.class_prompt + self.name_prompt > 1:
            raise ValueError("caption_dropout, class_prompt and name_prompt are shares of the captions and must not "
                             "add up to more than 1")
        return self


class BaseParams(Section):
    source: Literal["trained", "pretrained"]
    model: Annotated[str, Field(min_length=1)] | None
    revision: Annotated[str, Field(min_length=1)] | None
    people: Annotated[int, Field(ge=2)]
    photos: Count
    codec: CodecParams
    text: TextParams
    unet: UNetParams
    denoiser: DenoiserParams

    @model_validator(mode="after")
    def _model_is_named(self) -> "BaseParams":
        if self.source == "pretrained" and self.model is None:
            raise ValueError("base.source pretrained needs base.model, a folder or a name on the Hugging Face Hub")
        return self


class LoraParams(Section):
    rank: Annotated[int, Field(ge=1, le=64)]
    alpha: Annotated[float, Field(gt=0)]
    targets: Annotated[list[Literal[LORA_TARGETS]], Field(min_length=1)]
    blocks: list[Prompt]


class CollectParams(Section):
    source: Literal["zoo", "w2w", "folder"]
    path: Annotated[str, Field(min_length=1)] | None
    held_out: Annotated[float, Field(gt=0, lt=0.5)]
    people: Annotated[int, Field(ge=4)]
    repeated: Annotated[int, Field(ge=0)]
    photos: Count
    start: Literal["kaiming", "gradients"]
    start_people: Annotated[int, Field(ge=2)]
    start_photos: Annotated[int, Field(ge=2, multiple_of=2)]
    trained: Literal["both", "B"]
    steps: Count
    lr: Rate
    adam_epsilon: Annotated[float, Field(gt=0)]
    timestep_shift: Shift
    photos_per_step: Count
    mirrored: bool
    captions: bool
    class_images: Count
    class_images_per_step: Annotated[int, Field(ge=0)]
    prior_weight: Weight
    people_at_once: Count

    @model_validator(mode="after")
    def _folder_is_named(self) -> "CollectParams":
        if self.source == "folder" and self.path is None:
            raise ValueError("collect.source folder needs collect.path, the folder of the LoRAs")
        return self

    @model_validator(mode="after")
    def _repeated_are_people(self) -> "CollectParams":
        if self.repeated > self.people:
            raise ValueError(f"collect.repeated must be at most collect.people ({self.people}), got {self.repeated}")
        return self


class ProbeParams(Section):
    people: Annotated[int, Field(ge=2)]
    photos: Count
    steps: Count


class ArcFaceParams(Section):
    dim: Count
    width: Count
    steps: Count
    batch: Annotated[int, Field(ge=2)]
    lr: Rate
    margin: Annotated[float, Field(ge=0, le=1)]
    scale: Annotated[float, Field(gt=0)]


class FlattenParams(Section):
    people: Annotated[int, Field(ge=4)] | None
    max_quarantined: Share


class PCAParams(Section):
    latent_dim: Count
    within_person_ridge: Ridge


class KLParams(Section):
    schedule: Literal["monotonic", "cyclical", "none"]
    weight: Weight
    warmup: Rate
    cycles: Count


class VAEParams(Section):
    seed: Annotated[int, Field(ge=0)]
    latent_dim: Count
    metric: Literal["weights", "predictions"]
    metric_inputs: Count
    metric_shift: Shift
    metric_region: Region
    metric_people: Annotated[int, Field(ge=2)]
    metric_components: Count
    within_person_ridge: Ridge
    width: Count
    layers: Annotated[int, Field(ge=0)]
    epochs: Count
    batch: Count
    lr: Rate
    weight_decay: Weight
    patience: Count
    kl: KLParams


class SampleParams(Section):
    people: Annotated[int, Field(ge=2)]
    seeds: Count
    prompts: Annotated[list[Prompt], Field(min_length=1)]


class InterpolateParams(Section):
    pairs: Count
    steps: Annotated[int, Field(ge=3)]
    prompt: Prompt


class PhotoEncoderParams(Section):
    photos: Annotated[int, Field(ge=0)]
    ridge: Annotated[float, Field(gt=0)]


class InvertParams(Section):
    steps: Count
    lr: Annotated[float, Field(gt=0)]
    adam_epsilon: Annotated[float, Field(gt=0)]
    whitened: bool
    timestep_shift: Shift
    timesteps_per_step: Count
    region: Region
    mask: Literal["none", "face"]
    prompt: Prompt
    captions: bool
    prior_weight: Weight
    people_at_once: Count


class GenerateParams(Section):
    inference_steps: Count
    guidance: Annotated[float, Field(ge=1)]
    prompted_guidance: Annotated[float, Field(ge=1)]
    negative_prompt: str
    batch: Count
    dtype: Literal["float32", "bfloat16"]

    @property
    def prompted(self) -> "GenerateParams":
        """The same for prompts that ask for more than a person."""
        return self.model_copy(update={"guidance": self.prompted_guidance})


class EvaluateParams(Section):
    prompt: Prompt
    seeds: Count
    class_samples: Annotated[int, Field(ge=2)]
    prompted_people: Count
    prompted_samples: Count
    bootstrap: Annotated[int, Field(ge=100)]
    prompt_alignment: Literal["none", "clip"]
    clip: Prompt
    clip_revision: Prompt


class Params(Section):
    """All of params.yaml, whose comments say what each key does."""

    seed: Annotated[int, Field(ge=0)]
    space: Literal["pca", "vae"]
    recognizer: Recognizer
    second_recognizer: Literal["arcface"] | Recognizer
    faces: Annotated[str, AfterValidator(_face_finder)]
    engine: EngineParams
    portraits: PortraitsParams
    base: BaseParams
    lora: LoraParams
    collect: CollectParams
    probe: ProbeParams
    arcface: ArcFaceParams
    flatten: FlattenParams
    pca: PCAParams
    vae: VAEParams
    sample: SampleParams
    interpolate: InterpolateParams
    photo_encoder: PhotoEncoderParams
    invert: InvertParams
    generate: GenerateParams
    evaluate: EvaluateParams

    @model_validator(mode="after")
    def _photos_suffice(self) -> "Params":
        rendered = self.portraits.source == "rendered"
        if rendered and self.collect.photos + self.portraits.score_photos > self.portraits.photos:
            raise ValueError("portraits.photos must be at least collect.photos + portraits.score_photos, as no photo "
                             "that a LoRA was trained on may be scored against")
        return self

    @model_validator(mode="after")
    def _people_are_repeated(self) -> "Params":
        for space in ("pca", "vae"):
            if getattr(self, space).within_person_ridge and (self.collect.source != "zoo" or self.collect.repeated < 2):
                raise ValueError(f"{space}.within_person_ridge must be null where fewer than two zoo people have two "
                                 "LoRAs, as those of collect.repeated have in a zoo that is trained here")
        return self

    @model_validator(mode="after")
    def _sources_agree(self) -> "Params":
        foreign = [key for key, value in (("portraits.source", self.portraits.source == "folder"),
                                          ("base.source", self.base.source == "pretrained")) if value]
        if foreign and self.collect.source == "zoo":
            raise ValueError(f"collect.source must be w2w or folder where {foreign[0]} is not of this world, as the "
                             "zoo that is trained here is one of rendered people")
        return self


def load_params(path: str | Path = "params.yaml") -> Params:
    """Read and check params.yaml.

    Raises:
        InputError: the file is missing or not YAML, or a key is unknown, missing, of the wrong type or out of range;
            the message names the first such key, what is wrong with it and what it may be.
    """
    try:
        return check_params(Path(path).read_text(), str(path))
    except FileNotFoundError as error:
        raise InputError(str(path), None, "no such file", "Run from the repository's root") from error
    except UnicodeDecodeError as error:
        raise InputError(str(path), None, f"not valid YAML ({' '.join(str(error).split())})") from error


def check_params(text: str, where: str) -> Params:
    """Settings from the text of params.yaml; an InputError, as of `load_params`, names `where` as its file."""
    try:
        # YAML 1.2, as DVC reads it: in 1.1, 1e-3 is text. A key that is there twice is an error.
        content = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise InputError(where, None, f"not valid YAML ({' '.join(str(error).split())})") from error
    if not isinstance(content, dict):
        raise InputError(where, None, "not a mapping of sections", "Restore it from the committed params.yaml")
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        # A misspelt key is a missing one, too, and it is the misspelling that the user can see.
        first = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
        # What concerns several sections has no place of its own; its message begins with the key to change.
        key = ".".join(str(part) for part in first["loc"]) or str(first["ctx"]["error"]).split()[0]
        raise InputError(where, key, *_explain(first)) from error


def require_photos(params: Params) -> None:
    """Refuse to run a stage that needs photos of held-out people where there are none for the zoo's base model.

    Raises:
        InputError: the zoo is from elsewhere and the photos are not.
    """
    if params.collect.source != "zoo" and params.portraits.source == "rendered":
        raise InputError("params.yaml", "collect.source", f"{params.collect.source!r} brings no photos of held-out "
                         "people, which this stage inverts or scores against",
                         "`dvc repro sample interpolate` needs none; for the rest give photos with portraits.source: "
                         "folder (docs/sd15.md), or set it to zoo")


def _explain(error: dict) -> tuple[str, str]:
    if error["type"] == "extra_forbidden":
        known = _siblings(error["loc"])
        meant = [f"Did you mean {each}? " for each in difflib.get_close_matches(str(error["loc"][-1]), known, 1)]
        return "unknown key", f"{''.join(meant)}Known keys here: {', '.join(known)}"
    if error["type"] == "missing":
        return "key missing", "Restore it from the committed params.yaml"
    remedy = "Change it in params.yaml or with `dvc exp run -S`"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"]), remedy
    return f"{error['msg']}, got {error['input']!r}", remedy


def _siblings(location: tuple) -> list[str]:
    model = Params
    for part in location[:-1]:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
