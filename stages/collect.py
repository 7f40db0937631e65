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
from w2wpp.populations import draw, held_out_people, manifest_rows, person_names, sample_people, write_portraits
from w2wpp.runtime import device, run_stage, stage_arguments
from w2wpp.storage import file_hash, read_pack, scratch_folder, write_csv, write_pack
from w2wpp.training import in_resumable_batches


def class_images(pipe, layout: WeightLayout, params: CollectParams, how: GenerateParams) -> torch.Tensor:
    """Latents [class_images, c, h, w] of the base model's own pictures of the class prompt."""
    unadapted = torch.zeros(1, layout.dimension)
    pictures = generate(pipe, layout, unadapted, [CLASS_PROMPT], params.class_images, how, "class images")
    return encode_images(pipe, pictures[0, 0])


def train_resumably(pipe, layout, latents, class_latents, params: CollectParams, seed: int, scratch: Path,
                    what: str) -> dict[str, torch.Tensor]:
    """The "weights" [n, d] and "losses" [n] of `train_loras`; finished batches are read back from `scratch`."""
    def train(first: int, count: int) -> dict[str, torch.Tensor]:
        weights, losses = train_loras(pipe, layout, latents[first:first + count], class_latents, params, seed,
                                      f"{what} {first + count}/{len(latents)}")
        return {"weights": weights, "losses": losses}

    return in_resumable_batches(len(latents), params.people_at_once, scratch, train)


def main() -> None:
    args = stage_arguments(__doc__, base="data/base", out="data/zoo", scratch=".scratch/collect")
    params, portraits = args.params.collect, args.params.portraits
    lora, seed = args.params.lora, args.params.seed
    pipe = load_pipeline(args.base, device())
    layout = WeightLayout.of_unet(pipe.unet, lora.rank, lora.alpha, lora.targets)

    zoo, zoo_names = sample_people(seed, "zoo", params.people, params.photos), person_names("zoo", params.people)
    zoo_splits = ["zoo"] * len(zoo)
    held_out_names, held_out_splits, held_out = held_out_people(seed, portraits)
    # Drawn here and not read from data/portraits, so that a picture that another processor rounds differently does not
    # make hours of shipped training stale.
    trained_on = [(identity, nuisances[:params.photos]) for identity, nuisances in zoo + held_out]

    scratch = scratch_folder(
        args.scratch, seed=seed, portraits=portraits.model_dump(), collect=params.model_dump(), lora=lora.model_dump(),
        generate=args.params.generate.model_dump(),
        base=file_hash(args.base / "unet/diffusion_pytorch_model.safetensors"))
    if not (scratch / "photos.safetensors").exists():
        write_pack(scratch / "photos.safetensors", {"photos": draw(trained_on, portraits.size, "people")})
    photos = read_pack(scratch / "photos.safetensors")[0]["photos"]

    class_latents = class_images(pipe, layout, params, args.params.generate)
    tensors, manifest = [], []
    for role, seen, who, splits in (
            ("zoo", photos[:len(zoo)], zoo_names, zoo_splits),
            ("true", photos[len(zoo):], held_out_names, held_out_splits),
            ("one-photo", photos[len(zoo):, :1], held_out_names, held_out_splits)):
        latents = encode_images(pipe, seen.flatten(0, 1)).unflatten(0, seen.shape[:2])
        loras = train_resumably(pipe, layout, latents, class_latents, params, seed, scratch / role,
                                f"{role} LoRAs")
        manifest.append(pd.DataFrame({"person": who, "split": splits, "role": role, "photos": seen.shape[1],
                                      "seed": seed, "loss": loras["losses"]}))
        tensors.append(loras["weights"])

    write_csv(args.out / "manifest.csv", pd.concat(manifest))
    shown = [(identity, nuisances[:1]) for identity, nuisances in zoo]
    write_portraits(args.out / "people", photos[:len(zoo), :1], manifest_rows(zoo_names, zoo_splits, shown))
    stacked = {key: part.to(torch.float16).contiguous() for key, part in layout.stack(torch.cat(tensors)).items()}
    write_pack(args.out / "loras.safetensors", stacked, {"layout": layout.to_meta()})


if __name__ == "__main__":
    run_stage(main)
