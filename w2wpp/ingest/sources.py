"""Zoos that were trained elsewhere, as the collect stage leaves them: the weights2weights data, a folder of LoRAs."""

import sys
from collections import Counter
from pathlib import Path, PurePosixPath

import pandas as pd
import torch
from diffusers import UNet2DConditionModel

from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.pretrained import model_folder
from w2wpp.files.errors import InputError
from w2wpp.files.storage import read_csv, read_json, write_csv
from w2wpp.files.tensor_files import printable
from w2wpp.ingest.folder import FolderScan, scan_folder
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_people import SPLITS, assign_splits
from w2wpp.ingest.w2w_source import find_files
from w2wpp.lora.layout import LoraParams, WeightLayout
from w2wpp.lora.packs import LORAS_PER_FILE
from w2wpp.lora.shards import Shards, write_shards
from w2wpp.run.params import Params

PEOPLE = "people.csv"
# What peft and diffusers call every LoRA that they save, so that its folder is what tells it from others.
_SAVED_AS = {"adapter_model", "pytorch_lora_weights"}


def read_layout(base: str | Path, lora: LoraParams) -> WeightLayout:
    """The layout of LoRAs of a base model in the format of diffusers; of its files, unet/config.json alone is read.

    Raises:
        InputError: the file is missing or describes no UNet, or the UNet lacks a target or a block.
    """
    path = model_folder(base) / "unet" / "config.json"
    config = read_json(path)
    try:
        with torch.device("meta"):
            unet = UNet2DConditionModel.from_config(config)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise InputError(str(path), None, f"not the configuration of a UNet ({' '.join(str(error).split())[:200]})",
                         "Put the base model of the LoRAs there, in the format of diffusers") from error
    return WeightLayout.of_unet(unet, lora.rank, lora.alpha, lora.targets, lora.blocks)


def collect_w2w(params: Params, layout: WeightLayout, out: Path, scratch: Path) -> None:
    """The published weights2weights vectors, split by person (see `pack_w2w`); resumes after a kill.

    Args:
        params: collect.path is a folder with the data set's files, or None for the Hub and its cache.
        layout: of the vectors.
        out: of the stage: manifest.csv, loras/<split>/ and an empty people/.
        scratch: for resuming.

    Raises:
        InputError: see `find_files` and `pack_w2w`.
    """
    share = params.collect.held_out
    data = pack_w2w(find_files(params.collect.path), layout, out / "loras", scratch, seed=params.seed,
                    validation=share, test=share)
    people = data.people.rename(columns={"file": "photo"})
    _write_zoo(out, [people[people["split"] == split] for split in data.shards], data.shards)
    _say(f"{len(people)} vectors of {people['person'].nunique()} people; left out are those in "
         f"{out / 'loras' / 'quarantine.csv'}")


def collect_folder(params: Params, layout: WeightLayout, out: Path, scratch: Path) -> None:
    """Anyone's LoRAs, in the namings of peft, diffusers and kohya's trainer (see `scan_folder`), split by person.

    A file is a person of that name, unless a people.csv in the folder (columns file, person) says whose it is. All
    vectors are in memory at once: about 6 n d bytes.

    Args:
        params: collect.path is the folder.
        layout: that the LoRAs are brought to.
        out: of the stage: manifest.csv with what was read of each LoRA, loras/<split>/, an empty people/, and what was
            not read: quarantine.csv, duplicates.csv, and ignored_keys.csv, which counts the LoRAs that have a key.
        scratch: unused; nothing is left to resume.

    Raises:
        InputError: the folder or its people.csv cannot be read, or fewer than two of its LoRAs would be in the zoo.
    """
    folder = Path(params.collect.path)
    scan = scan_folder(folder, layout)
    people = _people_of(folder, scan)
    splits = assign_splits(people, params.seed, params.collect.held_out, params.collect.held_out)
    table = pd.DataFrame([
        {"person": person, "split": split, "lora": name, "naming": lora.naming, "rank": lora.rank,
         "alpha_from": lora.alpha_from, "energy": lora.energy, "worst_module": lora.worst_module,
         "worst_energy": lora.worst_energy, "ignored_keys": len(lora.ignored),
         "text_encoder_keys": len(lora.of_text_encoder)}
        for person, split, (name, lora) in zip(people, splits, scan.accepted.items(), strict=True)])
    if splits.count("zoo") < 2:
        first = scan.rejected[0] if scan.rejected else None
        why = f"; the first of {len(scan.rejected)} rejected, {first.name}: {first.reason}" if first else ""
        raise InputError(printable(folder), first and first.key, f"{len(splits)} LoRAs can be read, too few for a "
                         f"zoo{why}", (first and first.remedy) or "Give a folder of more LoRAs of the base model")
    ignored = Counter(key for lora in scan.accepted.values() for key in lora.ignored)
    vectors, parts, shards = torch.stack([lora.vector.half() for lora in scan.accepted.values()]), [], {}
    for split in SPLITS:
        rows = [row for row, each in enumerate(splits) if each == split]
        if rows:
            blocks = (vectors[rows[first:first + count]] for first, count in chunks(len(rows), LORAS_PER_FILE))
            shards[split] = write_shards(out / "loras" / split, blocks, layout, LORAS_PER_FILE)
            parts.append(table.iloc[rows])
    _write_zoo(out, parts, shards)
    write_csv(out / "quarantine.csv", pd.DataFrame(
        [{"person": _person(each.name), "lora": each.name, "key": each.key, "reason": each.reason}
         for each in scan.rejected], columns=["person", "lora", "key", "reason"]))
    write_csv(out / "duplicates.csv", pd.DataFrame(
        [vars(each) for each in scan.duplicates], columns=["name", "original", "how", "distance"]))
    write_csv(out / "ignored_keys.csv", pd.DataFrame(
        [{"key": printable(key), "loras": count} for key, count in sorted(ignored.items())], columns=["key", "loras"]))
    _say(f"{len(table)} LoRAs read, {len(scan.rejected)} rejected, {len(scan.duplicates)} duplicates, "
         f"{len(scan.others)} other files; rank {layout.rank} keeps {table['energy'].min():.1%} to "
         f"{table['energy'].max():.1%} of a LoRA; {len(ignored)} keys belong to no target; see the tables in {out}")


SOURCES = {"w2w": collect_w2w, "folder": collect_folder}


def _write_zoo(out: Path, parts: list[pd.DataFrame], shards: dict[str, Shards]) -> None:
    """manifest.csv, from one table of people for each split's shards, and portraits of nobody."""
    files = [f"{split}/{path.name}" for split, each in shards.items() for path, first, end in
             zip(each.paths, each.bounds[:-1], each.bounds[1:], strict=True) for _ in range(first, end)]
    people = pd.concat(parts, ignore_index=True)
    # A held-out person's LoRA is the rung that an inversion is to reach, as in a zoo that is trained here.
    people.insert(2, "role", people["split"].where(people["split"] == "zoo", "true"))
    write_csv(out / "people" / "manifest.csv", pd.DataFrame(columns=["person", "split", "photo"]))
    write_csv(out / "manifest.csv", people.assign(file=files))


def _people_of(folder: Path, scan: FolderScan) -> list[str]:
    """The person of each accepted LoRA."""
    path, known = folder / PEOPLE, {}
    if path.is_file():
        try:
            table = read_csv(path, ["file", "person"])
        except InputError as error:
            raise InputError(error.where, error.key, error.reason, "Give it the columns file and person") from error
        known = dict(zip(table["file"].astype(str), table["person"].str.strip(), strict=True))
    listed = scan.accepted.keys() | {each.name for each in (*scan.rejected, *scan.duplicates)}
    for name, person in known.items():
        if name not in listed or not person or printable(person) != person:
            raise InputError(str(path), "person" if name in listed else "file",
                             f"{printable(person)!r} for {printable(name)!r}, expected a name for a LoRA of the folder",
                             "Write files as they are below the folder, such as anna/lora.safetensors")
    return [known.get(name, _person(name)) for name in scan.accepted]


def _person(name: str) -> str:
    path = PurePosixPath(name).with_suffix("")
    return str(path.parent if path.name in _SAVED_AS and len(path.parts) > 1 else path)


def _say(text: str) -> None:
    print(text, file=sys.stderr)
