"""Settings of search and drawing for people outside the pipeline, from params.yaml or a profile."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from w2wpp.diffusion.denoising import GenerateParams
from w2wpp.files.errors import InputError
from w2wpp.files.folders import expanded
from w2wpp.files.settings import Section
from w2wpp.inversion.search import InvertParams
from w2wpp.run.yaml_files import parse_mapping, read_text

PARAMS = Path("params.yaml")
T = TypeVar("T", bound=Section)


@dataclass(frozen=True)
class Settings:
    """What of the pipeline's settings a single person needs.

    Attributes:
        search: how a photo is inverted.
        drawing: how pictures are drawn.
        faces: who finds faces.
    """

    search: InvertParams = field(default_factory=InvertParams)
    drawing: GenerateParams = field(default_factory=GenerateParams)
    faces: str = "dlib"


def read_settings(path: Path | None = None) -> Settings:
    """The sections `invert` and `generate`, and `faces`, of a file such as params.yaml or profiles/sd15.yaml.

    What the file leaves out has its default; other sections are not looked at.

    Args:
        path: None reads params.yaml of the current directory, where there is one.

    Raises:
        InputError: the file cannot be read, or a setting is unknown, of the wrong type or out of range.
    """
    if path is None:
        if not PARAMS.is_file():
            return Settings()
        path = PARAMS
    path = expanded(path)
    where, remedy = str(path), "Give a file such as params.yaml or profiles/sd15.yaml"
    content = parse_mapping(read_text(path, remedy), where, remedy)
    faces = content.get("faces", Settings.faces)
    if not isinstance(faces, str):
        raise InputError(where, "faces", f"{faces!r}, expected text", "Use dlib or insightface:<pack name>")
    return Settings(
        _section(InvertParams, content, "invert", where), _section(GenerateParams, content, "generate", where), faces
    )


def _section(kind: type[T], content: dict, key: str, where: str) -> T:
    try:
        return kind.model_validate(content.get(key, {}))
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(
            where,
            ".".join(map(str, (key, *first["loc"]))),
            f"{first['msg']}, got {first['input']!r}",
            "Change it in this file",
        ) from error
