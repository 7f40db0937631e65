"""The record of a sweep's settings and inputs, and whether its gains are valid for the present settings.

The sweep takes hours, so that its stage is frozen: no change runs it again. Where what is there now differs from the
record, in base model, zoo, people or settings, the sweep is left out, and the reason is given.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from w2wpp.compute.resume import versions_of
from w2wpp.evaluation.sweep_rows import VAE
from w2wpp.files.errors import InputError
from w2wpp.files.folders import expanded
from w2wpp.files.settings import Section
from w2wpp.files.storage import file_hash, folder_hash, read_csv, read_json

RECORD = "settings.json"
SETTINGS: dict[str, Any] = {
    "seed": True,
    "split": True,
    "faces": True,
    "portraits": True,
    "pca": True,
    "linear": True,
    "vae": True,
    "photo_encoder": True,
    "invert": True,
    "generate": True,
    "evaluate": {"prompt", "seeds"},
}
# Results depend on these only by rounding.
SPEED: dict[str, Any] = {"linear": {"people_at_once"}, "invert": {"people_at_once"}, "generate": {"batch"}}
# Settings that differ between rows.
VARIED: dict[str, Any] = {"pca": {"latent_dim"}, "linear": {"latent_dim"}, "vae": {"latent_dim", "seed"}}
AGAIN = "`dvc unfreeze sweep`, then `dvc repro -sf sweep` measure it anew, which takes hours"
RESTORE = f"`git checkout data/sweep`, or {AGAIN}"


def row_settings(settings: Section) -> dict:
    """The settings of a row that its pictures depend on, JSON-able."""
    return settings.model_dump(mode="json", include=SETTINGS | {"flatten": {"people"}}, exclude=SPEED)


def identity(spec: str, arcface: Path) -> dict[str, str]:
    """A recogniser's spec as "name", and "sha256" of its network if that is a file.

    Args:
        spec: as of `load_recognizer`, or "arcface" for the network `arcface`.
    """
    file = arcface if spec == "arcface" else expanded(spec.removeprefix("insightface:"))
    return {"name": spec} | ({"sha256": file_hash(file)} if file.suffix == ".onnx" and file.is_file() else {})


def zoo_people(zoo: Path) -> int:
    """The number of people in a zoo, by its manifest."""
    manifest = read_csv(zoo / "manifest.csv", ["person", "role"])
    return manifest["person"][manifest["role"] == "zoo"].nunique()


def record(params: Section, base: Path, zoo: Path, arcface: Path, tables: list[str]) -> dict:
    """Settings and inputs of a sweep, JSON-able.

    Args:
        params: all settings of the pipeline.
        base, zoo: folders of base model and zoo. arcface: the network of the second recogniser that is trained here.
        tables: names of the tables that the sweep has.
    """
    everything = params.model_dump(mode="json")
    settings = params.model_dump(
        mode="json",
        include=SETTINGS | {"evaluate": {"prompt", "seeds", "bootstrap"}},
        exclude={name: SPEED.get(name, set()) | VARIED.get(name, set()) for name in SPEED | VARIED},
    )
    return {
        "tables": sorted(tables),
        "sweep": everything["sweep"],
        "versions": versions_of("sweep"),  # base model and zoo are known by their hashes
        "base": {"sha256": folder_hash(base)},
        "zoo": {"people": zoo_people(zoo), "sha256": folder_hash(zoo)},
        **{key: identity(everything[key], arcface) for key in ("recognizer", "second_recognizer")},
        **settings,
    }


def differences(recorded: Mapping, present: Mapping, key: str = "") -> dict[str, str]:
    """Differences of two records by dotted key, such as "50 there, 100 here"."""
    found: dict[str, str] = {}
    for name in sorted(recorded.keys() | present.keys()):
        there, here = recorded.get(name), present.get(name)
        if isinstance(there, dict) and isinstance(here, dict):
            found |= differences(there, here, f"{key}{name}.")
        elif there != here:
            found[f"{key}{name}"] = f"{there!r} there, {here!r} here"
    return found


def _with_defaults(recorded: Mapping, present: Mapping, params: Section) -> dict:
    """A record whose settings have today's defaults where they lack a key, as those of params.yaml do."""
    fields = type(params).model_fields
    known = {name: fields[name].default for name in present.keys() & fields.keys()}
    known["split"] = "test"  # of sweeps that are older than the setting
    filled = {name: value for name, value in known.items() if not isinstance(value, Section)} | dict(recorded)
    for name, content in recorded.items():
        if isinstance(getattr(params, name, None), Section):
            with suppress(ValidationError):
                section = type(getattr(params, name)).model_validate(content).model_dump(mode="json")
                filled[name] = {key: section[key] for key in present[name]}
    return filled


@dataclass(frozen=True)
class SweepTables:
    """Tables of a sweep that are valid beside the present results.

    Attributes:
        folder: of the sweep.
        names: of the valid tables; none if the sweep has none, or has other settings.
        left_out: the reason why none is valid, or an empty string.
        seed: of the VAE's training in all rows except those of further seeds.
    """

    folder: Path
    names: tuple[str, ...]
    left_out: str
    seed: int

    def gain_at(self, recognizer: str) -> dict[str, dict[str, dict[str, float]]]:
        """As "gain_at", the gain of the VAE over PCA by latent dimension, such as "k64": mean, low and high.

        Returns:
            Empty if the table "dimensions" is not valid.

        Raises:
            InputError: the table is damaged, or has no rows of a recogniser.
        """
        if "dimensions" not in self.names:
            return {}
        path = self.folder / "dimensions.csv"
        lines = read_csv(path, ["recognizer", "variant", "latent_dim", "seed", "gain", "gain_low", "gain_high"])
        rows = lines[(lines["recognizer"] == recognizer) & (lines["variant"] == VAE) & (lines["seed"] == self.seed)]
        if rows.empty:
            raise InputError(str(path), "recognizer", f"no rows of {recognizer!r}, which {RECORD} names", RESTORE)
        return {
            "gain_at": {
                f"k{row.latent_dim}": {"mean": row.gain, "low": row.gain_low, "high": row.gain_high}
                for row in rows.sort_values("latent_dim").itertuples()
            }
        }


def read_sweep(folder: Path, params: Section, base: Path, zoo: Path, arcface: Path) -> SweepTables:
    """The tables of a sweep, if it has the present settings apart from those that it varies.

    Args:
        folder: of the sweep; the others as of `record`.

    Raises:
        InputError: the record is missing or damaged.
    """
    path = folder / RECORD
    recorded = read_json(path)
    if not isinstance(recorded, dict) or not isinstance(recorded.get("tables"), list):
        raise InputError(str(path), "tables", "no list of tables, so this is no sweep's record", RESTORE)
    present = record(params, base, zoo, arcface, recorded["tables"])
    found = differences(_with_defaults(recorded, present, params), present)
    seed = present["sweep"]["seeds"][0]
    if not found:
        return SweepTables(folder, tuple(recorded["tables"]), "", seed)
    reason = "the sweep was made with another " + ", ".join(f"{key} ({each})" for key, each in found.items())
    return SweepTables(folder, (), reason, seed)
