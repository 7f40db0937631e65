"""Groups of LoRAs that are checkpoints of one training, recognised by trainers' file names and metadata."""

import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import PurePosixPath

from w2wpp.files.folders import normal_form

# peft, diffusers and OneTrainer give every LoRA one of these names, so its folder distinguishes it.
_SAVED_AS = {"adapter_model", "pytorch_lora_weights"}
_COMPONENTS = {"unet", "lora", "transformer"}

_WORDS = r"(?:steps?|epochs?|ep|iter(?:ation)?s?|ckpt|checkpoint)"
# diffusers and SimpleTuner: checkpoint-500; diffusion-pipe: epoch10; OneTrainer: backup/<time>-backup-<step>-<epoch>-0.
_FOLDER = re.compile(
    rf"{_WORDS}[-_ ]?(\d+)(?:-rolling)?|.*-backup-(\d+)-(\d+)-(\d+)|(?:checkpoint|ckpt|save|backup)s?", re.IGNORECASE
)
# kohya: name-step00000500; cloneofsimo: name_e3_s500; OneTrainer: name<time>-save-<step>-<epoch>-0; and names by hand,
# such as name epoch 10.
_SPELT = re.compile(
    rf"(.*?)(?:^|[-_. ])(?:{_WORDS}[-_ =]?(\d+)|e(\d+)_s(\d+))|"
    r"(.*?)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d-save-(\d+)-(\d+)-(\d+)",
    re.IGNORECASE,
)
# kohya: name-000010; ai-toolkit: name_000000500. Numbers of people can look the same.
_NUMBERED = re.compile(r"(.+)(?:-(\d{6})|_(\d{9}))")
_LOOSE = re.compile(r"(.+)[-_ ](\d{3,})")
_FINAL = re.compile(r"(.+)[-_ ](?:final|last|latest|best)|last|final|latest", re.IGNORECASE)
# kohya's default names of checkpoints.
_UNNAMED = {"at", "epoch", "last"}


@dataclass(frozen=True)
class Training:
    """The LoRAs of one training, or one LoRA that stands alone.

    Attributes:
        person: the name of the training, in Unicode's normal form C.
        last: the LoRAs without a number; there may be copies under several names.
        numbered: the other LoRAs, the earliest first.
        unsure: whether a number at the end of their names is the only sign that they are of one training.
    """

    person: str
    last: tuple[str, ...]
    numbered: tuple[str, ...]
    unsure: bool

    @property
    def names(self) -> tuple[str, ...]:
        return self.numbered + self.last

    @property
    def from_the_end(self) -> list[tuple[str, ...]]:
        """The LoRAs that represent the training, then their substitutes in case they cannot be read."""
        return [*([self.last] if self.last else []), *((name,) for name in reversed(self.numbered))]


@dataclass(frozen=True)
class _Part:
    """A parsed file name: the name of its training, a number, and the kind of evidence: "spelt", "numbered", "loose",
    "final", or "" for none.
    """

    name: str
    training: str
    number: tuple[int, ...] = ()
    sign: str = ""


def find_trainings(metadata: dict[str, dict[str, str]]) -> list[Training]:
    """Group LoRAs by training.

    Files belong to one training if their names differ by the number of a step or an epoch, or by a word for the last
    one, as diffusers, SimpleTuner, kohya's trainer, ai-toolkit and OneTrainer name them. Files also belong to one
    training if kohya's metadata name the same session. A bare number counts only in three cases: it has six digits
    after a hyphen or nine after an underscore; there is a file of the same name without it; or all numbers are
    multiples of 50.

    Args:
        metadata: of each LoRA by its name, a path relative to a folder; empty if it has none.

    Returns:
        Trainings sorted by their first file; every name is in one of them.
    """
    parts = [_corrected(_taken_apart(name), metadata[name]) for name in sorted(metadata)]
    plain, loose = {part.training for part in parts if not part.sign}, defaultdict(list)
    for part in parts:
        if part.sign == "loose":
            loose[part.training].append(part.number[0])
    named = plain | {
        training
        for training, numbers in loose.items()
        if len(numbers) > 1 and not any(number % 50 for number in numbers)
    }
    parts = [
        _Part(part.name, own_name(part.name)) if part.sign == "loose" and part.training not in named else part
        for part in parts
    ]
    groups = _joined(parts, metadata)
    return sorted((_training(members) for members in groups), key=lambda training: min(training.names))


def _training(members: list[_Part]) -> Training:
    numbered = [part.name for part in sorted(members, key=lambda part: (part.number, part.name)) if part.number]
    last = [part.name for part in members if not part.number]
    named = len(members) > 1 or members[0].sign in ("", "spelt")
    person = min(part.training for part in members) if named else ""
    return Training(
        normal_form(person or own_name(members[0].name)),
        tuple(sorted(last)),
        tuple(numbered),
        all(part.sign == "numbered" for part in members),
    )


def _joined(parts: list[_Part], metadata: dict[str, dict[str, str]]) -> list[list[_Part]]:
    """Parts by training, after merging those of one session or in one folder of checkpoints."""
    sessions, below, beside = defaultdict(set), defaultdict(set), defaultdict(set)
    for part in parts:
        session = tuple(metadata[part.name].get(f"ss_{key}") for key in ("session_id", "training_started_at"))
        if all(session):
            sessions[session].add(part.training)
        parents = PurePosixPath(part.name).parts[:-1]
        checkpoint = next((at for at, parent in enumerate(parents) if _FOLDER.fullmatch(parent)), None)
        if checkpoint is None:
            beside["/".join(parents)].add(part.training)
        elif checkpoint:
            below["/".join(parents[:checkpoint])].add(part.training)
    # A folder with the checkpoints of one training, and one LoRA of any name beside them.
    folders = [below[folder] | beside[folder] for folder in below if len(below[folder]) == len(beside[folder]) == 1]
    same: dict[str, str] = {}

    def first(training: str) -> str:
        while training in same:
            training = same[training]
        return training

    for alike in (*sessions.values(), *folders):
        chosen, *others = sorted({first(training) for training in alike})
        same |= dict.fromkeys(others, chosen)
    groups = defaultdict(list)
    for part in parts:
        groups[first(part.training)].append(part)
    return list(groups.values())


def own_name(name: str) -> str:
    """The distinguishing name of a file: its path without suffix, or its folder's path if the file name is generic."""
    path = PurePosixPath(name).with_suffix("")
    parents = [part for part in path.parts[:-1] if not _FOLDER.fullmatch(part)]
    if path.name not in _SAVED_AS | _COMPONENTS:
        return "/".join([*parents, path.name])
    while len(parents) > 1 and parents[-1] in _COMPONENTS:
        parents.pop()
    return "/".join(parents) or path.name


def _taken_apart(name: str) -> _Part:
    path = PurePosixPath(name).with_suffix("")
    folders = [match for match in map(_FOLDER.fullmatch, path.parts[:-1]) if match]
    number = tuple(int(group) for match in folders for group in match.groups() if group)
    sign, stem = "spelt" if number else "", path.name
    if stem in _SAVED_AS | _COMPONENTS:
        return _Part(name, own_name(name), number, sign)
    while match := _SPELT.fullmatch(stem):
        stem, *numbers = (group for group in match.groups() if group is not None)
        number, sign = number + tuple(map(int, numbers)), "spelt"
    for other, pattern in (("numbered", _NUMBERED), ("final", _FINAL), ("loose", _LOOSE)):
        match = pattern.fullmatch(stem)
        if match and not sign:
            stem, *numbers = (group or "" for group in match.groups())
            number, sign = tuple(int(group) for group in numbers if group), other
    if sign and stem.lower() in _UNNAMED:
        stem = ""
    parents = [part for part in path.parts[:-1] if not _FOLDER.fullmatch(part)]
    return _Part(name, "/".join([*parents, *([stem] if stem else [])]), number, sign)


def _corrected(part: _Part, metadata: dict[str, str]) -> _Part:
    """The part, corrected by the name in the metadata of kohya's trainer and ai-toolkit if it is ambiguous."""
    given = metadata.get("ss_output_name")
    if given and part.sign in ("numbered", "loose"):
        if given == PurePosixPath(part.name).stem:
            return _Part(part.name, own_name(part.name))
        if given == PurePosixPath(part.training).name:
            return _Part(part.name, part.training, part.number, "spelt")
    return part
