"""Compare ways to train the base model, each given the same wall-clock time on the same renders.

The number of steps that fit into the time is measured first, so nothing else may run meanwhile. The results are
base_trials.md and base_trials.json; trials in the latter are not run again.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from trials import ROOT, run_trials, trials_parser

from w2wpp.codec import PatchCodec, psnr_db
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import encode_images, load_pipeline, to_pixels
from w2wpp.diffusion.prompts import CLASS_PROMPT, IDENTITY_TOKEN
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import embed_all
from w2wpp.faces.recognizers import load_recognizer
from w2wpp.files.storage import file_hash
from w2wpp.lora.layout import WeightLayout
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.world.base_model import BaseParams, build_pipeline
from w2wpp.world.base_training import caption_tokens, people_factors, train_codec, train_denoiser, train_modules
from w2wpp.world.captions import CAPTION_WORDS
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import sample_people

PEOPLE, HELD_OUT, PROBED_STEPS, SAMPLES = 1000, 60, 12, 128
# What each trial changes of params.yaml's `base`.
DENOISERS = {
    "as shipped": {},
    "narrower UNet": {"unet": {"channels": [48, 96]}},
    "wider UNet": {"unet": {"channels": [96, 192]}},
    "wide UNet, one width": {"unet": {"channels": [128, 128]}},
    "noise prediction": {"denoiser": {"prediction": "epsilon"}},
    "Stable Diffusion's noise schedule": {"denoiser": {"noise_schedule": "scaled_linear"}},
    "no averaging of weights": {"denoiser": {"ema": 0.0}},
    "twice the batch": {"denoiser": {"batch": 64}},
    "half the learning rate": {"denoiser": {"lr": 7.5e-4}},
    "no names": {"denoiser": {"name_dropout": 1.0}},
    "Adam without weight decay": {},
    "SGD with momentum": {"denoiser": {"lr": 0.05}},
}
# Classes of torch.optim and their arguments, where it is not base_training's AdamW.
OPTIMIZERS = {
    "Adam without weight decay": ("Adam", {"betas": (0.9, 0.99)}),
    "SGD with momentum": ("SGD", {"momentum": 0.9}),
}


def changed(base: BaseParams, changes: dict) -> BaseParams:
    """`base` with some settings of its sections replaced."""
    return base.model_copy(
        update={section: getattr(base, section).model_copy(update=values) for section, values in changes.items()}
    )


def steps_in(seconds: float, run) -> int:
    """The number of steps that fit into a time, from the times of run(steps), without its fixed costs."""

    def timed(steps: int) -> float:
        started = time.perf_counter()
        run(steps)
        return time.perf_counter() - started

    timed(2)
    few, many = timed(2), timed(2 + PROBED_STEPS)
    return max(10, int(seconds / max(many - few, 1e-3) * PROBED_STEPS))


def try_codec(kind: str, base: BaseParams, images, held_out, seconds: float, seed: int) -> dict:
    """PSNR in dB on held-out people of a codec trained for some seconds; the linear patch codec needs no training."""

    def build():
        torch.manual_seed(seed)
        if kind != "AutoencoderKL":
            return PatchCodec(base.codec.channels, tuple(base.codec.widths))
        return AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(32, 64, 96, 128),
            latent_channels=base.codec.channels,
            norm_num_groups=16,
        )

    def run(codec, steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            if kind != "AutoencoderKL":
                return train_codec(
                    codec, images, base.codec.model_copy(update={"steps": steps}), seed, Path(folder) / "codec.pt"
                )

            def loss_of(generator):
                pixels = to_pixels(images[torch.randint(len(images), (base.codec.batch,), generator=generator)])
                posterior = codec.encode(pixels).latent_dist
                output = codec.decode(posterior.sample(generator)).sample
                return F.l1_loss(output, pixels) + 2 * F.mse_loss(output, pixels) + 1e-6 * posterior.kl().mean()

            train_modules(
                "AutoencoderKL", {"codec": codec}, loss_of, steps, base.codec.lr, seed, Path(folder) / "codec.pt"
            )

    codec, steps = build(), 0
    if kind == "linear patch codec":
        codec.fit_linear(to_pixels(images[:4000]))
    else:
        steps = steps_in(seconds, lambda n: run(build(), n))
        run(codec, steps)
    codec.eval()
    with torch.no_grad():
        pixels = to_pixels(held_out)
        latents = codec.encode(pixels)
        latents = latents.latent_dist.mode() if kind == "AutoencoderKL" else latents.latents
        return {"steps": steps, "psnr_db": psnr_db(codec.decode(latents).sample, pixels)}


def try_denoiser(
    name: str, settings, base: BaseParams, codec, people, images, real, recognizer, seconds: float
) -> dict:
    """Faces and Fréchet distance of class-prompt samples of a denoiser trained for some seconds."""
    size, seed = settings.portraits.size, settings.seed

    def build():
        torch.manual_seed(seed)
        pipe = build_pipeline(base, size, [*CAPTION_WORDS, IDENTITY_TOKEN])
        pipe.register_modules(vae=codec)
        pipe.set_progress_bar_config(disable=True)
        return pipe

    pipe = build()
    latents = encode_images(pipe, images)[:, None]
    tokens = caption_tokens(pipe, people, base.denoiser, seed)
    factors = people_factors(people).repeat_interleave(base.photos, 0)
    optimizer = {}
    if name in OPTIMIZERS:
        kind, arguments = OPTIMIZERS[name]
        optimizer["make_optimizer"] = partial(getattr(torch.optim, kind), **arguments)

    def run(pipe, steps: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            train_denoiser(
                pipe,
                latents,
                tokens,
                factors,
                base.denoiser.model_copy(update={"steps": steps}),
                seed,
                Path(folder) / "denoiser.pt",
                **optimizer,
            )

    steps = steps_in(seconds, lambda n: run(build(), n))
    run(pipe, steps)
    for module in (pipe.unet, pipe.text_encoder):
        module.requires_grad_(False).eval()
    layout = WeightLayout.of_unet(pipe.unet, 1, 1, ["to_q", "to_v"])
    drawn = generate(pipe, layout, torch.zeros(1, layout.dimension), [CLASS_PROMPT], SAMPLES, settings.generate, name)
    seen = embed_all(recognizer, drawn[0, 0])
    faces, others = seen.vectors[seen.found], real.vectors[real.found]
    equal = min(len(faces), len(others))
    distance = scoring.frechet_distance(faces[:equal], others[:equal]) if equal >= 2 else None
    return {
        "steps": steps,
        "pictures": steps * base.denoiser.batch,
        "face_found": float(seen.found.mean()),
        "frechet": distance,
        "parameters": sum(p.numel() for p in pipe.unet.parameters()),
    }


def table(results: dict, seconds: float) -> str:
    """The results as the Markdown page docs/base_trials.md."""
    lines = [
        "# Trials of the base model",
        "",
        "[Choices of this world](explanation/choices.md) draws the conclusions. Every trial trained for "
        f"{seconds:.0f} s with {torch.get_num_threads()} threads on the same renders of {PEOPLE} people. The number of "
        "steps that fit was measured just before each trial. If two trials have the same cost per step, a difference "
        "in steps is noise of the machine. `python benchmarks/base_trials.py` repeats the trials.",
        "",
        *markdown_table(
            ["codec", "steps", "held-out people (dB)"],
            [(name, r["steps"], f"{r['psnr_db']:.1f}") for name, r in results.items() if "psnr_db" in r],
        ),
        "",
        f"Fréchet distances are between the embeddings of {SAMPLES} class-prompt samples and real photos.",
        "",
        *markdown_table(
            ["denoiser", "parameters (M)", "steps", "pictures seen", "faces found", "Fréchet"],
            [
                (
                    name,
                    f"{r['parameters'] / 1e6:.1f}",
                    r["steps"],
                    r["pictures"],
                    f"{r['face_found']:.2f}",
                    "-" if r["frechet"] is None else f"{r['frechet']:.3f}",
                )
                for name, r in results.items()
                if "pictures" in r
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = trials_parser(__doc__, "base_trials")
    parser.add_argument("--seconds", type=float, default=120, help="training time of each trial")
    args = parser.parse_args()
    settings = load_params(ROOT / "params.yaml")
    base, seed, size = settings.base, settings.seed, settings.portraits.size
    setting = {
        "seconds": args.seconds,
        "size": size,
        "people": PEOPLE,
        "held_out": HELD_OUT,
        "samples": SAMPLES,
        "threads": torch.get_num_threads(),
        "codec": file_hash(ROOT / "data/base/vae/diffusion_pytorch_model.safetensors"),
        **settings.model_dump(include={"seed", "recognizer", "base", "generate"}),
    }

    people = sample_people(seed, "base", PEOPLE, base.photos)
    images = draw_resumably(people, size, photo_folder(args.scratch, seed, "base", base.photos, size)).flatten(0, 1)
    held_out = draw_resumably(
        sample_people(seed, "validation", HELD_OUT, 3), size, photo_folder(args.scratch, seed, "validation", 3, size)
    )
    recognizer = load_recognizer(settings.recognizer)
    real = embed_all(recognizer, held_out.flatten(0, 1))
    codec = load_pipeline(ROOT / "data/base").vae

    trials = {
        kind: (None, partial(try_codec, kind, base, images, held_out.flatten(0, 1), args.seconds, seed))
        for kind in ("linear patch codec", "patch codec, refined", "AutoencoderKL")
    }
    trials |= {
        name: (
            (changes, OPTIMIZERS.get(name)),
            partial(
                try_denoiser,
                name,
                settings,
                changed(base, changes),
                codec,
                people,
                images,
                real,
                recognizer,
                args.seconds,
            ),
        )
        for name, changes in DENOISERS.items()
    }
    results = run_trials(args.out / "base_trials.json", setting, trials)
    (args.out / "base_trials.md").write_text(table(results, args.seconds))


if __name__ == "__main__":
    run_stage(main)
