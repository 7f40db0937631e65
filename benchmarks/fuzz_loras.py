"""Read thousands of damaged LoRA files of all namings; every one must give the LoRA that it holds, or an InputError.

Each file starts as a sound LoRA in one of the namings and is then damaged in one of the ways of `DAMAGES`. Printed are,
per damage, the files accepted, rejected (InputError), crashed (anything else was raised), hung (longer than the time
limit) and silently accepted: accepted although the safetensors library refuses the file, or with another product B A
than a plain reading of the file by that library gives, or as a vector that is not finite, canonical and of length d.
Damage to the numbers themselves may change the LoRA; then the changed one must be what comes out. Printed, too, are the
longest time and the largest memory, as Python counts it, of a file. The exit status is 1 if any file crashed, hung or
was silently accepted, or an undamaged one was rejected.
"""

import argparse
import json
import pickle
import random
import re
import signal
import sys
import tempfile
import time
import tracemalloc
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from w2wpp.files.errors import InputError
from w2wpp.ingest.foreign import ForeignLora, read_lora
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.rank_reduction import canonicalise

LAYOUT = WeightLayout(
    (
        Adapted("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", 4, 6),
        Adapted("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", 3, 2),
    ),
    2,
    3.0,
)
# The names that Stable Diffusion's own code has for these modules.
ORIGINAL = {"down_blocks_0_attentions_0": "input_blocks_1_1", "mid_block_attentions_0": "middle_block_1"}


def _processor(module: str, part: str) -> str:
    parent, _, projection = module.removesuffix(".0").rpartition(".")
    return f"unet.{parent}.processor.{projection}_lora.{'down' if part == 'A' else 'up'}.weight"


def _original(module: str) -> str:
    at = module.index(".transformer_blocks")
    return ORIGINAL[module[:at].replace(".", "_")].replace("_1", ".1") + module[at:]


# naming: (key of a module's A or B, key of its alpha, a key of the text encoder)
NAMINGS: dict[str, tuple[Callable[[str, str], str], Callable[[str], str] | None, str]] = {
    "peft": (
        lambda m, p: f"base_model.model.unet.{m}.lora_{p}.weight",
        None,
        "base_model.model.text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ),
    "peft bare": (lambda m, p: f"base_model.model.{m}.lora_{p}.weight", None, "base_model.model.conv_in.lora_A.weight"),
    "diffusers": (
        lambda m, p: f"unet.{m}.lora_{p}.weight",
        None,
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight",
    ),
    "diffusers down up": (
        lambda m, p: f"unet.{m}.lora.{'down' if p == 'A' else 'up'}.weight",
        lambda m: f"unet.{m}.alpha",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.down.weight",
    ),
    "diffusers processor": (_processor, None, "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight"),
    "kohya": (
        lambda m, p: f"lora_unet_{m.replace('.', '_')}.lora_{'down' if p == 'A' else 'up'}.weight",
        lambda m: f"lora_unet_{m.replace('.', '_')}.alpha",
        "lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight",
    ),
    "adapter": (
        lambda m, p: f"base_model.model.{m}.lora_{p}.identity1.weight",
        None,
        "base_model.model.text_model.encoder.layers.0.mlp.fc1.lora_A.identity1.weight",
    ),
    "compiled": (
        lambda m, p: f"unet._orig_mod.{m}.lora_{p}.weight",
        None,
        "text_encoder._orig_mod.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ),
    "onetrainer": (
        lambda m, p: f"unet.{m}.lora_{'down' if p == 'A' else 'up'}.weight",
        lambda m: f"unet.{m}.alpha",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_down.weight",
    ),
    "comfyui": (
        lambda m, p: f"diffusion_model.{_original(m)}.lora_{p}.weight",
        lambda m: f"diffusion_model.{_original(m)}.alpha",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ),
    "lycoris": (
        lambda m, p: f"lycoris_{m.replace('.', '_')}.lora_{'down' if p == 'A' else 'up'}.weight",
        lambda m: f"lycoris_{m.replace('.', '_')}.alpha",
        "lycoris_text_model_encoder_layers_0.lora_up.weight",
    ),
}


def sound_lora(
    naming: str,
    layout: WeightLayout,
    rank: int,
    alpha: float | None,
    seed: int,
    dtype: torch.dtype = torch.float32,
    text: bool = False,
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA with normal numbers; alpha goes where the naming has it, None leaves it out."""
    weight_key, alpha_key, text_key = NAMINGS[naming]
    generator = torch.Generator().manual_seed(seed)
    tensors, metadata = {}, {}
    for layer in layout.layers:
        for part, shape in (("A", (rank, layer.fan_in)), ("B", (layer.fan_out, rank))):
            tensors[weight_key(layer.module, part)] = torch.randn(shape, generator=generator).to(dtype)
        if alpha is not None and alpha_key:
            tensors[alpha_key(layer.module)] = torch.tensor(alpha, dtype=dtype)
    if text:
        tensors[text_key] = torch.randn(2, 5, generator=generator).to(dtype)
    if alpha is not None and not alpha_key:
        metadata["lora_adapter_metadata"] = json.dumps({"unet.r": rank, "unet.lora_alpha": alpha})
    return tensors, metadata


class Bomb:
    """An object whose pickle creates the file `path` when loaded."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def split_header(content: bytes) -> tuple[dict, bytes]:
    """The header and the tensors' bytes of a sound safetensors file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_header(header: dict | bytes, data: bytes) -> bytes:
    """Undo `split_header`; the header need not be sound."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _flip(content: bytes, rng: random.Random, low: int, high: int) -> bytes:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8))):
        damaged[rng.randrange(low, high)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def flip_header(content: bytes, rng: random.Random) -> bytes:
    return _flip(content, rng, 0, 8 + int.from_bytes(content[:8], "little"))


def flip_weights(content: bytes, rng: random.Random) -> bytes:
    return _flip(content, rng, 8 + int.from_bytes(content[:8], "little"), len(content))


def truncate(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def extend(content: bytes, rng: random.Random) -> bytes:
    return content + rng.randbytes(rng.choice((1, 4, 1000)))


def splice(content: bytes, rng: random.Random) -> bytes:
    start, length = rng.randrange(len(content)), rng.randrange(1, 40)
    return content[:start] + rng.randbytes(rng.choice((0, length, 3))) + content[start + length :]


def other_length(content: bytes, rng: random.Random) -> bytes:
    length = rng.choice((0, 1, rng.randrange(2**12), 2**24, 2**31, 2**63, 2**64 - 1))
    return length.to_bytes(8, "little") + content[8:]


def other_header(content: bytes, rng: random.Random) -> bytes:
    """Change what the header says of one tensor, with the length made right again."""
    header, data = split_header(content)
    keys = [key for key in header if key != "__metadata__"]
    key = rng.choice(keys)
    entry = header[key]
    number = rng.choice((-1, 0, 1, 2, 7, 2**31, 2**63, 10**300, 1.5, None, True, "2", [], {}))
    choice = rng.randrange(12)
    if choice == 0:
        entry["dtype"] = rng.choice(
            (
                "F64",
                "I32",
                "I8",
                "BOOL",
                "F16",
                "BF16",
                "F32",
                "f32",
                "F8_E4M3",
                "F8_E8M0",
                "F4",
                "F6_E2M3",
                "C64",
                "X",
                3,
                [],
            )
        )
    elif choice == 1:
        entry["shape"] = rng.choice(
            (entry["shape"][::-1], [], [*entry["shape"], 1], [number] * 2, number, [0, 4], [1] * 1000, [2**32, 2**32])
        )
    elif choice == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [number, 4], [4, number], entry["data_offsets"][::-1], [0], number))
    elif choice == 3:
        del header[key]
    elif choice == 4:
        names = (key + "x", "../../" + key, key.replace("lora", "hada"), "\x1b[2J" + key, "", "y" * 10**5)
        header[rng.choice(names)] = header.pop(key)
    elif choice == 5:
        other = rng.choice(keys)
        header[key], header[other] = header[other], header[key]
    elif choice == 6:
        header[key.rsplit(".", 1)[0] + rng.choice((".dora_scale", ".bias", ".extra"))] = entry
    elif choice == 7:
        header["__metadata__"] = rng.choice(
            (
                number,
                {"a": number},
                {"lora_adapter_metadata": "{"},
                {"lora_adapter_metadata": json.dumps({"unet.r": number, "unet.lora_alpha": number})},
            )
        )
    elif choice == 8:
        header[key] = number
    elif choice == 9:
        del entry[rng.choice(list(entry))]
    elif choice == 10:
        again = f", {json.dumps(key)}: {json.dumps(header[rng.choice(keys)])}}}"
        return join_header((json.dumps(header)[:-1] + again).encode(), data)
    else:
        texts = (b'"a":' + b"[" * 10**5, b'"a":' + b"9" * 10**5, b"\xff", b"}" * 9, b'"\\ud800":1}')
        return join_header(b"{" + rng.choice(texts), data)
    return join_header(header, data)


def other_numbers(content: bytes, rng: random.Random) -> bytes:
    """Overwrite some numbers with special ones: not finite, huge, tiny, zero."""
    header, data = split_header(content)
    damaged = bytearray(data)
    special = rng.choice(
        (
            b"\x00\x00\x80\x7f",
            b"\x00\x00\xc0\x7f",
            b"\xff\xff\x7f\x7f",
            b"\x01\x00\x00\x00",
            b"\x00\x00\x00\x00",
            b"\x00\x7c\x00\x7c",
            b"\xff\x7b\xff\x7b",
        )
    )
    start = 4 * rng.randrange(len(damaged) // 4)
    count = rng.choice((1, 2, len(damaged) // 4))
    damaged[start : start + 4 * count] = (special * count)[: len(damaged) - start]
    return join_header(header, bytes(damaged))


def other_names(content: bytes, rng: random.Random) -> bytes:
    """What wrappers, other trainers and other models would have called the tensors, all of them or some."""
    header, data = split_header(content)
    old, new = rng.choice(
        (
            ("", "module."),
            ("", "unet."),
            ("unet.", ""),
            (".lora_", "._orig_mod.lora_"),
            ("lora_B", "lora_B.default"),
            ("lora_A.weight", "lora_A.other.weight"),
            (".lora_", ".hada_"),
            ("lora_down", "lora_A"),
            ("weight", "bias"),
            ("down_blocks.0", "down_blocks.1"),
            ("transformer_blocks.0", "transformer_blocks.7"),
            ("attn1", "attn"),
            ("down_blocks", "single_transformer_blocks"),
            ("unet", "transformer"),
            (".alpha", ".lora_alpha"),
            ("lora_", "lora_te_"),
        )
    )
    some = rng.random() < 0.5
    header = {
        key if key == "__metadata__" or (some and rng.random() < 0.5) else key.replace(old, new, 1): entry
        for key, entry in header.items()
    }
    return join_header(header, data)


def bystander(content: bytes, rng: random.Random) -> bytes:
    """Files that are something else, under the name of a LoRA."""
    starts = (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        b"<!DOCTYPE html><html>Sign in",
        b'{"error": "gated"}',
        b"Entry not found",
        b"\x89PNG\r\n\x1a\n",
        b"\x1f\x8b\x08",
        b"GGUF\x03",
        bytes(4000),
        b"\x00\x05\x16\x07\x00\x02\x00\x00",
        b"<?xml version='1.0'?><Error>",
        b"PK\x03\x04",
        b"",
    )
    return rng.choice(starts) + rng.choice((b"", b"{", rng.randbytes(30), content))


def other_metadata(content: bytes, rng: random.Random) -> bytes:
    """Metadata that trainers, and strangers, write: none, null, of any script, many, large, nested."""
    header, data = split_header(content)
    value = rng.choice(
        (
            None,
            {},
            {"ss_tag_frequency": "x" * 10**5},
            {"ss_session_id": "1", "ss_output_name": "\u200d"},
            {str(number): "" for number in range(1000)},
            {"a": None},
            [],
            {"a": {"b": "c"}},
        )
    )
    return join_header({"__metadata__": value} | {key: header[key] for key in header if key != "__metadata__"}, data)


def noise(content: bytes, rng: random.Random) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 8, 9, 100, len(content))))


def undamaged(content: bytes, _: random.Random) -> bytes:
    return content


DAMAGES = (
    undamaged,
    flip_header,
    flip_weights,
    truncate,
    extend,
    splice,
    other_length,
    other_header,
    other_numbers,
    other_names,
    other_metadata,
    bystander,
    noise,
)


def plain_products(path: Path, layout: WeightLayout) -> list[Tensor]:
    """scale * B A [fan_out, fan_in], float64, of each module of a LoRA file, read without any checks."""
    modules = [layer.module.replace(".", "_") for layer in layout.layers]
    parts = {}
    with safe_open(path, framework="pt") as file:
        metadata = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        for key in file.keys():  # noqa: SIM118
            # Dots and underscores are made one, whatever the naming, so that modules compare as strings.
            plain = re.sub(r"(?<=_)(_orig_mod_|module_)|^(_orig_mod_|module_)", "", key.replace(".", "_"))
            plain = re.sub(r"^(base_model_model_|lora_unet_|lycoris_|diffusion_model_|unet_)+", "", plain)
            plain = re.sub(r"(lora_(A|B|down|up))_(identity1|default|other)_", r"\1_", plain.replace("processor_", ""))
            for new, old in ORIGINAL.items():
                plain = re.sub(f"^{old}_", f"{new}_", plain)
            plain = re.sub(r"to_out_(?!0_)", "to_out_0_", plain)
            if plain.startswith(tuple(modules)):
                parts[plain] = file.get_tensor(key).double()
    metadata = {key.removeprefix("unet."): value for key, value in metadata.items()}

    def part(module: str, *names: str) -> Tensor | None:
        return next((parts[f"{module}_{name}"] for name in names if f"{module}_{name}" in parts), None)

    products = []
    for layer in layout.layers:
        module = layer.module.replace(".", "_")
        down, up = part(module, "lora_A_weight", "lora_down_weight"), part(module, "lora_B_weight", "lora_up_weight")
        alpha = part(module, "alpha", "lora_alpha")
        alpha = (metadata or {}).get("lora_alpha", len(down)) if alpha is None else alpha.item()
        products.append(alpha / len(down) * up @ down)
    return products


def fault(lora: ForeignLora, path: Path, layout: WeightLayout) -> str | None:
    """What is wrong with a LoRA that was read from `path`; None when it is what the file holds."""
    if lora.vector.shape != (layout.dimension,) or not torch.isfinite(lora.vector).all():
        return "not a finite vector of the layout"
    if not torch.equal(canonicalise(lora.vector[None], layout)[0], lora.vector):
        return "not canonical"
    try:
        products = plain_products(path, layout)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        return f"no LoRA to the safetensors library ({error})"
    for product, (down, up) in zip(products, layout.split(lora.vector[None].double()).values(), strict=True):
        u, s, vh = torch.linalg.svd(product, full_matrices=False)
        best = u[:, : layout.rank] * s[: layout.rank] @ vh[: layout.rank]
        # With a tie at the cut there are several best approximations, so what counts is how well they fit.
        misfit = (product - layout.scale * up[0] @ down[0]).norm() - (product - best).norm()
        if misfit > 1e-5 * product.norm() + 1e-30:
            return "another product than the file's"
    return None


def _alarm(*_) -> None:
    raise TimeoutError


def fuzz(files: int, seed: int, limit: float = 5.0) -> tuple[dict[str, Counter], list[str], dict[str, list[float]]]:
    """Read `files` damaged files, each within `limit` seconds.

    Returns:
        Per damage, how many files had which outcome; a line for every failure; and per damage the longest time, in
        seconds, and the largest memory, in MiB, of a file.
    """
    rng = random.Random(seed)
    counts, failures, most = {}, [], defaultdict(lambda: [0.0, 0.0])
    previous = signal.signal(signal.SIGALRM, _alarm)
    with tempfile.TemporaryDirectory() as folder:
        path, trap = Path(folder) / "lora.safetensors", Path(folder) / "trap"
        for number in tqdm(range(files), "files", mininterval=1.0, dynamic_ncols=True):
            damage, naming = rng.choice((*DAMAGES, None)), rng.choice(list(NAMINGS))
            if damage is None:
                content = pickle.dumps(Bomb(trap), protocol=rng.randrange(6))
            else:
                dtype = rng.choice((torch.float32, torch.float16, torch.bfloat16))
                tensors, metadata = sound_lora(
                    naming,
                    LAYOUT,
                    rng.randrange(1, 5),
                    rng.choice((None, 1.0, 2.0, 8.0)),
                    number,
                    dtype,
                    text=rng.random() < 0.5,
                )
                content = damage(save(tensors, metadata or None), rng)
            path.write_bytes(content)
            tracemalloc.start()
            outcome, start = "rejected", time.perf_counter()
            signal.setitimer(signal.ITIMER_REAL, limit)
            try:
                lora = read_lora(path, LAYOUT)
                signal.setitimer(signal.ITIMER_REAL, 0)
                wrong = fault(lora, path, LAYOUT)
                outcome = f"silent: {wrong}" if wrong else "accepted"
            except InputError:
                pass
            except TimeoutError:
                outcome = "hung"
            except Exception as error:
                outcome = f"crashed: {error!r}"
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            seconds, memory = time.perf_counter() - start, tracemalloc.get_traced_memory()[1] / 2**20
            tracemalloc.stop()
            if trap.exists():
                outcome = "crashed: a pickle ran"
            name = damage.__name__ if damage else "pickle"
            most[name] = [*map(max, most[name], (seconds, memory))]
            counts.setdefault(name, Counter())[outcome.split(":")[0]] += 1
            if outcome not in ("accepted", "rejected") or (damage is undamaged and outcome != "accepted"):
                failures.append(f"file {number} ({name}, {naming}): {outcome}")
    signal.signal(signal.SIGALRM, previous)
    return counts, failures, most


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    counts, failures, most = fuzz(args.files, args.seed)
    outcomes = ("accepted", "rejected", "crashed", "hung", "silent")
    print(f"{'damage':16}", *(f"{column:>9}" for column in (*outcomes, "seconds", "MiB")))
    for name in sorted(counts):
        print(
            f"{name:16}",
            *(f"{counts[name][outcome]:9d}" for outcome in outcomes),
            *(f"{each:9.3f}" for each in most[name]),
        )
    print(
        f"{'all':16}",
        *(f"{sum(each[outcome] for each in counts.values()):9d}" for outcome in outcomes),
        *(f"{max(column):9.3f}" for column in zip(*most.values(), strict=True)),
    )
    if failures:
        sys.exit("\n".join(failures[:20]))


if __name__ == "__main__":
    main()
