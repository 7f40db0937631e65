"""Collect the zoo: one DreamBooth LoRA per zoo person, and the held-out people's own LoRAs as references.

Of every held-out person there are two references, neither of which a space may learn from: the LoRA of several photos
(the true LoRA) and the LoRA of the one photo that inversion sees. Resumes at the last finished batch after a kill.
"""

from pathlib import Path

import pandas as pd
import torch

from w2wpp.denoising import generate
from w2wpp.dreambooth import train_loras
from w2wpp.layout import WeightLayout
from w2wpp.params import CollectParams, GenerateParams
from w2wpp.people import CLASS_PROMPT
from w2wpp.pipeline import encode_images, load_pipeline
from w2wpp.populations import draw, manifest_rows, person_names, read_portraits, sample_people, write_portraits
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.storage import file_hash, read_pack, scratch_folder, write_csv, write_pack
from w2wpp.training import chunks


def class_images(pipe, layout: WeightLayout, params: CollectParams, how: GenerateParams) -> torch.Tensor:
    """Latents [class_images, c, h, w] of the base model's own pictures of the class prompt."""
    unadapted = torch.zeros(1, layout.dimension)
    pictures = generate(pipe, layout, unadapted, [CLASS_PROMPT], params.class_images, how, "class images")
    return encode_images(pipe, pictures[0, 0])


def train_resumably(pipe, layout, latents, class_latents, params: CollectParams, seed: int, scratch: Path, what: str):
    """Weights [n, d] and losses [n] as `train_loras` gives them; finished batches are read back from `scratch`."""
    done = []
    for first, count in chunks(len(latents), params.people_at_once):
        path = scratch / f"{first:06d}-{count}.safetensors"
        if not path.exists():
            weights, losses = train_loras(pipe, layout, latents[first:first + count], class_latents, params, seed,
                                          f"{what} {first + count}/{len(latents)}")
            write_pack(path, {"weights": weights.cpu(), "losses": losses.cpu()})
        done.append(read_pack(path)[0])
    return torch.cat([each["weights"] for each in done]), torch.cat([each["losses"] for each in done])


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", portraits="data/portraits", out="data/zoo",
                           scratch=".scratch/collect")
    params, lora, seed = args.params.collect, args.params.lora, args.params.seed
    pipe = load_pipeline(args.base, device())
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets)

    people = sample_people(seed, "zoo", params.people, params.photos)
    names = person_names("zoo", params.people)
    recipe = {"seed": seed, "size": args.params.portraits.size, "collect": params.model_dump(),
              "lora": lora.model_dump(), "generate": args.params.generate.model_dump(),
              "inputs": [file_hash(args.base / "unet/diffusion_pytorch_model.safetensors"),
                         file_hash(args.portraits / "photos.safetensors")]}
    scratch = scratch_folder(args.scratch, **recipe)
    if not (scratch / "photos.safetensors").exists():
        write_pack(scratch / "photos.safetensors",
                   {"photos": draw(people, args.params.portraits.size, "zoo people")})
    zoo_photos = read_pack(scratch / "photos.safetensors")[0]["photos"]
    held_out = read_portraits(args.portraits)

    class_latents = class_images(pipe, layout, params, args.params.generate)
    tensors, manifest = [], []
    for role, photos, who, splits in (
            ("zoo", zoo_photos, names, ["zoo"] * len(names)),
            ("true", held_out.images[:, :params.photos], held_out.names, held_out.splits),
            ("one-photo", held_out.images[:, :1], held_out.names, held_out.splits)):
        latents = encode_images(pipe, photos.flatten(0, 1)).unflatten(0, photos.shape[:2])
        weights, losses = train_resumably(pipe, layout, latents, class_latents, params, seed, scratch / role,
                                          f"{role} LoRAs")
        manifest.append(pd.DataFrame({"person": who, "split": splits, "role": role, "photos": photos.shape[1],
                                      "seed": seed, "loss": losses}))
        tensors.append(weights)

    write_csv(args.out / "manifest.csv", pd.concat(manifest))
    rows = manifest_rows(names, "zoo", [(identity, nuisances[:1]) for identity, nuisances in people])
    write_portraits(args.out / "people", zoo_photos[:, :1], rows)
    stacked = {key: part.to(torch.float16).contiguous() for key, part in layout.stack(torch.cat(tensors)).items()}
    write_pack(args.out / "loras.safetensors", stacked, {"layout": layout.to_meta()})


if __name__ == "__main__":
    run_stage(main)
