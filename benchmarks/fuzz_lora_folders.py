"""Scan random folders of LoRAs as people keep them, and measure what refusals at the limits take.

Each folder has some people's trainings, named as one of the trainers names them, with checkpoints, trainer's state,
previews, captions, hidden files and what archives leave, text-encoder adapters and damaged files beside. What is in it
is known, so that for every folder these are checked: each person is read once, by the last sound checkpoint, and every
LoRA of theirs under one name; damaged LoRAs and nothing else are rejected; and the same files written in another order
give the same result. The exit status is 1 if a folder crashed, took longer than the time limit or failed a check.
"""

import argparse
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from fuzz_loras import LAYOUT, NAMINGS, join_header, sound_lora
from safetensors.torch import save
from tqdm import tqdm

from w2wpp.files.errors import InputError
from w2wpp.files.folders import MAX_NAMES
from w2wpp.files.tensor_files import MAX_HEADER_BYTES, MAX_JSON_VALUES, MAX_TENSORS
from w2wpp.ingest.folder import scan_folder
from w2wpp.ingest.foreign import read_lora

# trainer: (the file of a person's checkpoint after some steps, that of the last)
TRAINERS: dict[str, tuple[Callable[[str, int], str], Callable[[str], str]]] = {
    "diffusers": (
        lambda person, step: f"{person}/checkpoint-{step}/pytorch_lora_weights.safetensors",
        lambda person: f"{person}/pytorch_lora_weights.safetensors",
    ),
    "peft": (
        lambda person, step: f"{person}/checkpoint-{step}/unet/adapter_model.safetensors",
        lambda person: f"{person}/unet/adapter_model.safetensors",
    ),
    "kohya, epochs": (
        lambda person, step: f"{person}-{step // 100:06d}.safetensors",
        lambda person: f"{person}.safetensors",
    ),
    "kohya, steps": (
        lambda person, step: f"kohya/{person}-step{step:08d}.safetensors",
        lambda person: f"kohya/{person}.safetensors",
    ),
    "ai-toolkit": (
        lambda person, step: f"{person}/{person}_{step:09d}.safetensors",
        lambda person: f"{person}/{person}.safetensors",
    ),
    "OneTrainer": (
        lambda person, step: f"{person}/save/2026-01-{step // 100:02d}_10-00-00-save-{step}-1-0.safetensors",
        lambda person: f"{person}/{person}.safetensors",
    ),
    "by hand": (
        lambda person, step: f"{person} epoch {step // 100}.safetensors",
        lambda person: f"{person}.safetensors",
    ),
}
BESIDE = (
    "optimizer.bin",
    "scheduler.bin",
    "random_states_0.pkl",
    "sample.png",
    "caption.txt",
    "training_args.bin",
    ".DS_Store",
    "._x.safetensors",
    "notes.md",
    "model.zip",
    "x.safetensors.part",
    "learned_embeds.bin",
)
PEOPLE = ("anna", "José", "山田　太郎", "می‌خواهم", "Zoë-Ann", "o'neill", "mr. smith", "person 7", "k2", "Ольга")


def text_encoder_adapter() -> bytes:
    """An adapter of a text encoder alone."""
    return save({"base_model.model.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight": torch.ones(1, 2)})


def draw_folder(rng: random.Random) -> tuple[dict[str, bytes], dict[str, set[str]], set[str]]:
    """A random folder: its files; of each person the files of which one or more are to be read; and what is damaged."""
    files, wanted, damaged = {}, {}, set()
    for number, person in enumerate(rng.sample(PEOPLE, rng.randrange(1, 5))):
        trainer = rng.choice(list(TRAINERS))
        checkpoint, last = TRAINERS[trainer]
        names = [checkpoint(person, 100 * step) for step in sorted(rng.sample(range(1, 30), rng.randrange(0, 4)))]
        if not names or rng.random() < 0.7:
            names.append(last(person))
        sound = []
        for name in names:
            tensors, metadata = sound_lora(
                rng.choice(list(NAMINGS)), LAYOUT, rng.randrange(1, 4), 2.0, 1000 * number + len(files)
            )
            files[name] = save(tensors, metadata or None)
            if rng.random() < 0.15:
                files[name] = files[name][: rng.randrange(1, len(files[name]))]
                damaged.add(name)
            else:
                sound.append(name)
        if sound:
            wanted[person] = {sound[-1]}
        folder = Path(names[0]).parent
        for each in rng.sample(BESIDE, rng.randrange(4)):
            files[str(folder / each)] = b"x"
        if rng.random() < 0.3:
            files[str(folder / "text_encoder" / "adapter_model.safetensors")] = text_encoder_adapter()
    if rng.random() < 0.3:
        files["__MACOSX/._anna.safetensors"] = b"\x00\x05\x16\x07"
    return files, wanted, damaged


def write_files(folder: Path, files: dict[str, bytes], order: list[str]) -> None:
    """Write files in an order, on which that of a directory may depend."""
    for name in order:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(files[name])


def faults(
    folder: Path, files: dict[str, bytes], wanted: dict[str, set[str]], damaged: set[str], rng: random.Random
) -> Iterator[str]:
    """What is wrong with the scan of a folder."""
    results = []
    for order in (sorted(files), rng.sample(sorted(files), len(files))):
        shutil.rmtree(folder, ignore_errors=True)
        write_files(folder, files, order)
        scan = scan_folder(folder, LAYOUT)
        results.append((list(scan.accepted), scan.trainings, scan.rejected, scan.others))
    if results[0] != results[1]:
        yield "depends on the order of writing"
    if set().union(*wanted.values()) != scan.accepted.keys():
        yield f"read {sorted(scan.accepted)}, expected {sorted(set().union(*wanted.values()))}"
    if not {each.name for each in scan.rejected} <= damaged:
        yield f"rejected {sorted({each.name for each in scan.rejected} - damaged)}"
    every = scan_folder(folder, LAYOUT, "all")
    people = {person: {every.trainings[name].person for name in every.accepted if person in name} for person in wanted}
    if any(len(names) > 1 for names in people.values()):
        yield f"one person under two names: {people}"
    if {each.name for each in every.rejected} != damaged:
        yield f"of {sorted(damaged)} rejected {sorted(each.name for each in every.rejected)}"


def _alarm(*_) -> None:
    raise TimeoutError


def fuzz_folders(folders: int, seed: int, limit: float = 20.0) -> tuple[Counter, list[str], float]:
    """Scan `folders` random folders, each within `limit` seconds.

    Returns:
        How many files and folders there were; a line for every failure; the longest time, in seconds.
    """
    rng, counts, failures, longest = random.Random(seed), Counter(), [], 0.0
    previous = signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as root:
        for number in tqdm(range(folders), "folders", mininterval=1.0, dynamic_ncols=True):
            files, wanted, damaged = draw_folder(rng)
            counts += Counter({"folders": 1, "files": len(files), "damaged": len(damaged), "people": len(wanted)})
            start = time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, limit)
            try:
                found = faults(Path(root) / "x", files, wanted, damaged, rng)
                failures += [f"folder {number}: {each}" for each in found]
            except TimeoutError:
                failures.append(f"folder {number}: hung")
            except Exception as error:
                failures.append(f"folder {number}: crashed: {error!r}")
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            longest = max(longest, time.perf_counter() - start)
    signal.signal(signal.SIGALRM, previous)
    return counts, failures, longest


def limits(root: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Inputs at the limits and beyond them, and what reads them."""

    def file(name: str, content: bytes) -> Callable[[], object]:
        path = root / f"{name}.safetensors"
        path.write_bytes(content)
        return lambda: read_lora(path, LAYOUT)

    tensors, _ = sound_lora("diffusers", LAYOUT, 2, None, 0)
    sound = save(tensors)
    size = int.from_bytes(sound[:8], "little")
    header, data = json.loads(sound[8 : 8 + size]), sound[8 + size :]
    room = MAX_HEADER_BYTES - 2 * size
    yield "tags in a header of 32 MiB", file("tags", join_header(header | {"__metadata__": {"a": "x" * room}}, data))
    yield (
        "tags of other scripts",
        file(
            "emoji",
            join_header(
                json.dumps(header | {"__metadata__": {"a": "😀" * (room // 4)}}, ensure_ascii=False).encode(), data
            ),
        ),
    )
    yield "a header beyond 32 MiB", file("large", join_header(b"{" + b" " * MAX_HEADER_BYTES, b""))
    yield "32 MiB of lists", file("lists", join_header(b'{"a":[' + b"[]," * (room // 3), b""))
    yield "32 MiB of nested lists", file("nested", join_header(b'{"a":' + b"[" * room, b""))
    yield "as many values as are read", file("values", join_header(b'{"a":[' + b"0," * (MAX_JSON_VALUES - 9), b""))
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [len(data)] * 2}
    yield (
        "as many tensors as are read",
        file(
            "tensors",
            join_header(
                header | {f"lora_te_{number}.lora_up.weight": entry for number in range(MAX_TENSORS - len(header))},
                data,
            ),
        ),
    )
    yield "numbers of 100,000 digits", file("digits", join_header(b'{"a":' + b"9" * 10**5, b""))
    with (root / "sparse.safetensors").open("wb") as sparse:
        sparse.write(sound)
        sparse.truncate(2**40)
    yield "a file of 1 TiB", lambda: read_lora(root / "sparse.safetensors", LAYOUT)
    (root / "names").mkdir()
    for number in range(MAX_NAMES):
        os.mknod(root / "names" / f"{number}.txt")
    yield f"a folder of {MAX_NAMES} names", lambda: scan_folder(root / "names", LAYOUT)
    (root / "names" / "more").mkdir()
    yield "a folder of more", lambda: scan_folder(root / "names", LAYOUT)
    deep = root / "deep"
    deep.mkdir()
    folder = os.open(deep, os.O_RDONLY)
    for _ in range(400):
        os.mkdir("d", dir_fd=folder)
        folder, parent = os.open("d", os.O_RDONLY, dir_fd=folder), folder
        os.close(parent)
    os.close(folder)
    yield "folders 400 deep", lambda: scan_folder(deep, LAYOUT)
    (root / "loop").mkdir()
    for number in range(1000):
        (root / "loop" / f"{number}").symlink_to(root / "loop")
        (root / "loop" / f"{number}.safetensors").symlink_to(f"{(number + 1) % 1000}.safetensors")
    yield "1,000 links in a loop, and to the folder", lambda: scan_folder(root / "loop", LAYOUT)


def measure_limits() -> None:
    """Print time and memory of each of `limits`, and what came of it."""
    with tempfile.TemporaryDirectory() as root:
        for name, read in limits(Path(root)):
            tracemalloc.start()
            start, outcome = time.perf_counter(), "read"
            try:
                read()
            except InputError as error:
                outcome = error.reason
            seconds, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            print(f"{name:42} {seconds:8.2f} s {memory:8.0f} MiB  {outcome[:90]}")
        print(f"largest of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limits", action="store_true", help="measure refusals at the limits instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.limits:
        return measure_limits()
    counts, failures, longest = fuzz_folders(args.folders, args.seed)
    print(", ".join(f"{count} {what}" for what, count in counts.items()), f"; longest folder: {longest:.2f} s")
    if failures:
        sys.exit("\n".join(failures[:20]))


if __name__ == "__main__":
    main()
