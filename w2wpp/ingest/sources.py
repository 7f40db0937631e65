"""Zoos that were trained elsewhere, in the format of the collect stage: the weights2weights data, a folder of LoRAs."""

import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import torch
from pydantic import Field, model_validator

from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.pretrained import empty_unet
from w2wpp.files.errors import InputError
from w2wpp.files.folders import normal_form
from w2wpp.files.quarantine import FILES, LORAS, first_refused, write_quarantine
from w2wpp.files.settings import Path as PathText
from w2wpp.files.settings import Section
from w2wpp.files.storage import write_csv
from w2wpp.files.tensor_files import printable
from w2wpp.ingest.checkpoints import own_name
from w2wpp.ingest.folder import FolderScan, scan_folder
from w2wpp.ingest.people import read_listed
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_people import SPLITS, assign_splits
from w2wpp.ingest.w2w_source import find_files
from w2wpp.lora.layout import LoraParams, WeightLayout
from w2wpp.lora.packs import LORAS_PER_FILE
from w2wpp.lora.shards import Shards, write_shards

PEOPLE = "people.csv"


class SourceParams(Section):
    """The source of the zoo's LoRAs."""

    source: Literal["zoo", "w2w", "folder"] = "zoo"
    """`zoo`: LoRAs trained here; `w2w`: the weights2weights data; `folder`: anyone's LoRAs."""
    path: PathText | None = None
    """The folder of LoRAs, or of a local copy of the weights2weights data."""
    checkpoints: Literal["last", "all"] = "last"
    """Which LoRAs of one training are taken from a folder: the last, or all as LoRAs of one person."""
    held_out: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Share of the people of w2w and folder for validation, and as many for test."""

    @model_validator(mode="after")
    def _folder_is_named(self) -> "SourceParams":
        if self.source == "folder" and self.path is None:
            raise ValueError("collect.source folder needs collect.path, the folder of the LoRAs")
        return self


def read_layout(base: str | Path, lora: LoraParams) -> WeightLayout:
    """The layout of LoRAs of a base model in the format of diffusers; only unet/config.json is read.

    Raises:
        InputError: the file is missing or describes no UNet, or the UNet lacks a target or a block.
    """
    unet = empty_unet(base)
    return WeightLayout.of_unet(unet, lora.rank, lora.alpha, lora.targets, lora.blocks)


def collect_w2w(params: SourceParams, seed: int, layout: WeightLayout, out: Path, scratch: Path) -> None:
    """The published weights2weights vectors, split by person (see `pack_w2w`); resumes after a kill.

    Args:
        params: `path` is a folder with the data set's files, or None for the Hub and its cache.
        seed: of the splits.
        layout: of the vectors.
        out: of the stage: manifest.csv, loras/<split>/, an empty people/, and quarantine.csv of rows that were left
            out.
        scratch: for resuming.

    Raises:
        InputError: see `find_files` and `pack_w2w`.
    """
    share = params.held_out
    files = find_files(params.path)
    data = pack_w2w(files, layout, out / "loras", scratch, seed=seed, validation=share, test=share)
    people = data.people.rename(columns={"file": "photo"})
    _write_zoo(out, [people[people["split"] == split] for split in data.shards], data.shards)
    refused = data.quarantine.assign(lora=[f"{files.weights.name}[{row}]" for row in data.quarantine["row"]])
    listed = write_quarantine(out, refused.to_dict("records"), LORAS)
    _say(f"{len(people)} vectors of {people['person'].nunique()} people read, {len(refused)} rejected; see {listed}")


def collect_folder(params: SourceParams, seed: int, layout: WeightLayout, out: Path, scratch: Path) -> None:
    """Anyone's LoRAs, in the namings of all common trainers (see `scan_folder`), split by person.

    Each training is a person of its name, unless a people.csv in the folder (columns file, person) assigns the file to
    a person. All vectors are in memory at once: about 6 n d bytes.

    Args:
        params: `path` is the folder, `checkpoints` selects the LoRAs of a training.
        seed: of the splits.
        layout: that the LoRAs are converted to.
        out: of the stage: manifest.csv with facts of each LoRA, loras/<split>/ and an empty people/. quarantine.csv
            lists rejected LoRAs, duplicates.csv copies, others.csv earlier checkpoints and files that are no LoRAs.
            ignored_keys.csv counts the LoRAs that have a key.
        scratch: unused; there is nothing to resume.

    Raises:
        InputError: the folder or its people.csv cannot be read, or fewer than two of its LoRAs would be in the zoo.
    """
    folder = Path(params.path or "")
    listed = read_listed(folder / PEOPLE) if (folder / PEOPLE).is_file() else {}
    scan = scan_folder(folder, layout, params.checkpoints, listed)
    _check_listed(listed, scan, str(folder / PEOPLE))
    people = [listed.get(normal_form(name), training.person) for name, training in scan.trainings.items()]
    splits = assign_splits(people, seed, params.held_out, params.held_out)
    table = pd.DataFrame(
        [
            {
                "person": person,
                "split": split,
                "lora": name,
                "checkpoints": len(scan.trainings[name].names),
                "naming": lora.naming,
                "rank": lora.rank,
                "alpha_from": lora.alpha_from,
                "energy": lora.energy,
                "worst_module": lora.worst_module,
                "worst_energy": lora.worst_energy,
                "ignored_keys": len(lora.ignored),
                "text_encoder_keys": len(lora.of_text_encoder),
                "beyond": _first(lora.beyond),
            }
            for person, split, (name, lora) in zip(people, splits, scan.accepted.items(), strict=True)
        ]
    )
    if splits.count("zoo") < 2:
        raise _too_few(folder, scan, people)
    ignored = Counter(key for lora in scan.accepted.values() for key in lora.ignored)
    vectors, parts, shards = torch.stack([lora.vector.half() for lora in scan.accepted.values()]), [], {}
    for split in SPLITS:
        rows = [row for row, each in enumerate(splits) if each == split]
        if rows:
            blocks = (vectors[rows[first : first + count]] for first, count in chunks(len(rows), LORAS_PER_FILE))
            shards[split] = write_shards(out / "loras" / split, blocks, layout, LORAS_PER_FILE)
            parts.append(table.iloc[rows])
    _write_zoo(out, parts, shards)
    write_quarantine(out, _refused(scan), FILES)
    write_csv(
        out / "duplicates.csv",
        pd.DataFrame([vars(each) for each in scan.duplicates], columns=["name", "original", "match", "distance"]),
    )
    write_csv(out / "others.csv", pd.DataFrame([vars(each) for each in scan.others], columns=["name", "reason"]))
    write_csv(
        out / "ignored_keys.csv",
        pd.DataFrame(
            [{"key": printable(key), "loras": count} for key, count in sorted(ignored.items())],
            columns=["key", "loras"],
        ),
    )
    beyond = [name for name, lora in scan.accepted.items() if lora.beyond]
    _say(
        f"{len(table)} LoRAs read, of {len(set(people))} people, {len(scan.rejected)} rejected, "
        f"{len(scan.duplicates)} duplicates, {len(scan.others)} other files; rank {layout.rank} keeps "
        f"{table['energy'].min():.1%} to {table['energy'].max():.1%} of a LoRA; {len(ignored)} keys belong to no "
        f"target; see the tables in {out}"
    )
    if beyond:
        _say(
            f"warning: {len(beyond)} of the files hold more than a LoRA, which is left out, such as {beyond[0]}: "
            f"{_first(scan.accepted[beyond[0]].beyond)}; see the column beyond in {out / 'manifest.csv'}"
        )


SOURCES = {"w2w": collect_w2w, "folder": collect_folder}


def _write_zoo(out: Path, parts: list[pd.DataFrame], shards: dict[str, Shards]) -> None:
    """manifest.csv, from one table of people for each split's shards, and an empty manifest of portraits."""
    files = [
        f"{split}/{path.name}"
        for split, each in shards.items()
        for path, first, end in zip(each.paths, each.bounds[:-1], each.bounds[1:], strict=True)
        for _ in range(first, end)
    ]
    people = pd.concat(parts, ignore_index=True)
    # A held-out person's LoRA is the rung that inversions try to reach, as in a zoo that is trained here.
    people.insert(2, "role", people["split"].where(people["split"] == "zoo", "true"))
    write_csv(out / "people" / "manifest.csv", pd.DataFrame(columns=["person", "split", "photo"]))
    write_csv(out / "manifest.csv", people.assign(file=files))


def _refused(scan: FolderScan) -> list[dict]:
    """What the flatten stage counts as unusable beside what it refuses itself."""
    return [
        {
            "person": own_name(each.name),
            "lora": each.name,
            "key": each.key,
            "reason": each.reason,
            "remedy": each.remedy,
        }
        for each in scan.rejected
    ]


def _check_listed(listed: dict[str, str], scan: FolderScan, where: str) -> None:
    """Refuse a table of people that lists a file that is no LoRA of the folder."""
    others = {normal_form(each.name): f" ({each.reason})" for each in scan.others}
    loras = {normal_form(name) for name in (*scan.accepted, *_left_out(scan))}
    for name in listed:
        if name not in loras:
            raise InputError(
                where,
                "file",
                f"{name!r}{others.get(name, '')}, expected a LoRA of the folder",
                "Write files as they are below the folder, such as anna/lora.safetensors",
            )


def _left_out(scan: FolderScan) -> set[str]:
    """The LoRAs of a folder that were not taken: rejected ones and copies."""
    return {each.name for each in scan.rejected} | {each.name for each in scan.duplicates}


def _too_few(folder: Path, scan: FolderScan, people: list[str]) -> InputError:
    """The error that LoRAs of these people are too few for a zoo, with the fate of the other files."""
    of = f", of {len(set(people))} people" if len(set(people)) < len(people) else ""
    notes = [f"{len(people)} {'LoRA' if len(people) == 1 else 'LoRAs'} can be read{of}, too few for a zoo"]
    key: str | None = None
    remedy: str | None = None
    if scan.rejected:
        notes.append(first_refused(_refused(scan), "lora"))
        key, remedy = scan.rejected[0].key, scan.rejected[0].remedy
    if scan.duplicates:
        original = scan.duplicates[0].original
        copies = sum(each.original == original for each in scan.duplicates)
        notes.append(f"{copies} {'is a copy' if copies == 1 else 'are copies'} of {original}")
    names = {name for training in scan.trainings.values() for name in training.names}
    earlier = names - scan.accepted.keys() - _left_out(scan)
    if earlier:
        notes.append(f"further checkpoints of these trainings: {len(earlier)}")
    if scan.others and not people and not scan.rejected:
        notes.append(f"the first of {len(scan.others)} other files, {scan.others[0].name}: {scan.others[0].reason}")
    return InputError(
        printable(folder), key, "; ".join(notes), remedy or "Give a folder of more LoRAs of the base model"
    )


def _first(keys: tuple[str, ...]) -> str:
    """Keys as text; only the first ones if there are many."""
    return "; ".join(keys[:3]) + (f" and {len(keys) - 3} more" if len(keys) > 3 else "")


def _say(text: str) -> None:
    print(text, file=sys.stderr)
