"""Compare ways beyond the space: where the search starts, how it moves, how far, and what its prior and photos are.

Each of `TRIALS` finds the validation people from one photo each. Two kinds of figures tell what that is worth:

- pictures, by the measures of the protocol: `id_obeyed` and `copying`, by both recognisers (`--no-pictures` leaves them
  out; they are most of the time);
- denoising loss of four *other* photos of the person, and of the input photo, on timesteps and noise that no search
  sees, both as what they are below the mean LoRA's: a search that learns the person lowers both, one that remembers the
  photo lowers the latter and raises the former. It takes seconds and has hardly any noise.

Writes refinement_trials.md and refinement_trials.json, which also keeps finished trials from being run again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from trials import ROOT, run_trials, trials_parser

from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import step_generator
from w2wpp.diffusion.dreambooth import photo_prompts, train_loras
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.evaluation.gallery import Gallery, build_gallery
from w2wpp.evaluation.protocol import Judge, draw_models, score_rung
from w2wpp.faces.portraits import Portraits, read_portraits
from w2wpp.faces.recognizers import Recognizer, load_recognizer
from w2wpp.files.storage import folder_hash
from w2wpp.inversion.photo_encoder import PhotoEncoder
from w2wpp.inversion.refinement import refine
from w2wpp.inversion.search import EncodedPhotos, InvertParams, RefineParams, SearchOptions, invert, photo_loss
from w2wpp.lora.adapters import initial_weights
from w2wpp.lora.weights import read_weights
from w2wpp.report.tables import markdown_table
from w2wpp.run.params import load_params
from w2wpp.run.stage import run_stage
from w2wpp.spaces.registry import load_space
from w2wpp.world.judge import load_judge

Start = Literal["mean", "guess", "inverted", "peft", "shared", "true", "one-photo"]
OTHERS = (1, 3, 5, 7)  # photos whose loss is looked at; inversion sees 0, the last four score pictures
TIMESTEPS = 8  # of each of them
AT = 4  # degrees of copying at which curves are compared
CURVES = {  # trials that differ in steps alone
    "VAE": ["VAE, guess", "VAE, guess + 10", "VAE, guess + 20", "VAE, guess + 40"],
    "PCA": ["PCA, guess", "PCA, guess + 20", "PCA, guess + 40"],
    "mean": ["mean", "mean + 10", "mean + 20", "mean + 40"],
}


@dataclass(frozen=True)
class Trial:
    """How people are found.

    Attributes:
        hypothesis: what the trial is to show.
        start: of the search in all weights. "mean": LoRA of the zoo; "guess": the photo encoder's; "inverted": the end
            of the search in the space; "peft", "shared": of DreamBooth, with A as in peft or as in the zoo; "true",
            "one-photo": what the zoo's recipe makes of eight photos, and of one.
        space: of start and units.
        invert: changes to the settings of the search in the space, and of the photos' prompts.
        refine: changes to `RefineParams`.
        dreambooth: changes to `collect`, of the starts "peft" and "shared".
        mirrored: the mirror image of the photo is another photo.
        photos: that the search sees.
    """

    hypothesis: str
    start: Start = "guess"
    space: str = "vae"
    invert: dict = field(default_factory=dict)
    refine: dict = field(default_factory=dict)
    dreambooth: dict = field(default_factory=dict)
    mirrored: bool = False
    photos: int = 1


def _refined(steps: int, **changes) -> dict:
    return {"steps": steps} | changes


ADAM = {"lr": 0.8, "adam_epsilon": 1e-8}  # in the space's units as far as 0.3 in those of the zoo
TRIALS = {
    "true LoRA, 8 photos": Trial("the ceiling", "true"),
    "one-photo DreamBooth, as shipped": Trial("600 steps print the photo", "one-photo"),
    "mean": Trial("the floor", "mean"),
    **{
        f"{title}, guess": Trial("the photo encoder alone knows the person and copies nothing", "guess", space)
        for space, title in (("vae", "VAE"), ("pca", "PCA"), ("linear", "linear"))
    },
    **{
        f"{title}, inverted": Trial("the search in the space adds identity", "inverted", space)
        for space, title in (("vae", "VAE"), ("pca", "PCA"), ("linear", "linear"))
    },
    "VAE, inverted, no captions": Trial("captions keep the background out", invert={"captions": False}),
    **{
        f"VAE, inverted, prior {weight:g}": Trial(
            "the prior of z is too weak: z ends twice as far as people lie", "inverted", invert={"prior_weight": weight}
        )
        for weight in (1e-3, 3e-3, 1e-2)
    },
    **{
        f"{title} + {steps}": Trial(
            "refined by gradient descent, from a start that copies nothing", start, space, refine=_refined(steps)
        )
        for title, start, space in (
            ("VAE, guess", "guess", "vae"),
            ("PCA, guess", "guess", "pca"),
            ("linear, guess", "guess", "linear"),
            ("mean", "mean", "vae"),
        )
        for steps in (10, 20, 40)
    },
    **{
        f"{title} + 40, Adam": Trial(
            "Adam moves every weight, also those of which the photo says nothing", start, refine=_refined(40, **ADAM)
        )
        for title, start in (("VAE, guess", "guess"), ("VAE, inverted", "inverted"), ("mean", "mean"))
    },
    "VAE, inverted, prior 0.003, + 20": Trial(
        "first the space, then beyond", "inverted", invert={"prior_weight": 3e-3}, refine=_refined(20)
    ),
    "VAE, guess + 40, mirrored": Trial("a mirrored photo unlocks the pose", refine=_refined(40), mirrored=True),
    "mean + 40, mirrored": Trial("the same for DreamBooth", "mean", refine=_refined(40), mirrored=True),
    "VAE, guess + 20, 4 timesteps": Trial("less noise", refine=_refined(20, timesteps_per_step=4)),
    "VAE, guess + 40, prior": Trial("a pull towards the space", refine=_refined(40, prior_weight=1e-2)),
    **{
        f"VAE, guess + 20, {photos} photos": Trial("several photos", refine=_refined(20), photos=photos)
        for photos in (2, 4, 8)
    },
    **{
        f"DreamBooth, {start}, {steps} steps": Trial("tuned DreamBooth", start, dreambooth={"steps": steps})
        for start in ("shared", "peft")
        for steps in (25, 50, 100, 200)
    },
}


class Bench:
    """Base model, spaces, validation people and what they are judged by."""

    def __init__(self, people: int):
        self.params = load_params(ROOT / "params.yaml")
        self.pipe = load_pipeline(ROOT / "data/base", device())
        self.data = read_weights(ROOT / "data/weights")
        held_out = read_portraits(ROOT / "data/portraits").of_split("validation")
        names = held_out.names[:people]
        manifest = held_out.manifest[held_out.manifest["person"].isin(names)]
        self.people = Portraits(held_out.images[:people], names, held_out.splits[:people], manifest)

    def encoded(self, photos: Sequence[int], captions: bool, mirrored: bool = False) -> EncodedPhotos:
        """Some photos of everybody."""
        images = self.people.images[:, list(photos)]
        rows = self.people.manifest[self.people.manifest["photo"].isin(photos)]
        text = photo_prompts(self.pipe, rows, captions).unflatten(0, images.shape[:2])
        if mirrored:
            images, text = torch.cat([images, images.flip(3)], 1), torch.cat([text, text], 1)
        return EncodedPhotos(encode_images(self.pipe, images.flatten(0, 1)).unflatten(0, images.shape[:2]), text)

    def find(self, trial: Trial) -> Tensor:
        """Weights [n, d] of everybody."""
        count = len(self.people.names)
        if trial.start in ("true", "one-photo"):
            return self.data.of(trial.start, "validation")[:count]
        if trial.start in ("peft", "shared"):
            return self._dreambooth(trial)
        how = RefineParams(**trial.refine)
        changes = {"captions": True, "refine": how} | trial.invert
        options = SearchOptions(self.params.invert.model_copy(update=changes), self.params.seed)
        photos = self.encoded(range(trial.photos), options.params.captions, trial.mirrored)
        space = load_space(ROOT / f"data/spaces/{trial.space}/space.safetensors")
        encoder = PhotoEncoder.load(ROOT / f"data/photo_encoders/{trial.space}.safetensors")
        prior = encoder.of_photos(photos.latents[:, : trial.photos])
        if trial.start == "mean":
            weights = self.data.mean.repeat(count, 1)
        else:
            z = prior.mean
            if trial.start == "inverted":
                z, _ = invert(self.pipe, space, prior, photos, options)
            weights = space.decode(z)
        return refine(self.pipe, space, weights, photos, options)[0] if how.steps else weights

    def _dreambooth(self, trial: Trial) -> Tensor:
        layout, collect = self.data.layout, self.params.collect
        start = initial_weights(layout, self.params.seed)
        if trial.start == "shared":
            start = torch.where(layout.in_B, 0.0, self.data.mean)
        how = collect.model_copy(update={"trained": "B" if trial.start == "shared" else "both"} | trial.dreambooth)
        photos = self.encoded(range(trial.photos), how.captions, how.mirrored)
        some = photos.latents[:1, 0]
        return train_loras(
            self.pipe, layout, start, photos.latents, photos.text, some, how, self.params.seed, trial.start
        )[0]

    @torch.no_grad()
    def losses(self, weights: Tensor) -> dict[str, list[float]]:
        """Denoising loss of each person's other photos, and of the input photo."""
        found = {}
        for name, photos in (("others", OTHERS), ("input", (0,))):
            encoded = self.encoded(photos, captions=True)
            loss = photo_loss(self.pipe, self.data.layout, encoded, InvertParams(timestep_shift=3.0), TIMESTEPS)
            found[name] = loss(weights, step_generator(1, len(photos)))
        return {name: losses.tolist() for name, losses in found.items()}

    @cached_property
    def judge(self) -> Judge:
        """What reads requested factors off pictures."""
        return load_judge(ROOT / "data/probe", self.people, self.params.portraits.size)

    @cached_property
    def galleries(self) -> dict[str, tuple[Recognizer, Gallery]]:
        """Both recognisers, and real photos as they see them."""
        zoo, keep = read_portraits(ROOT / "data/zoo/people"), self.params.portraits.score_photos
        found = {}
        for name, spec in (("dlib", "dlib"), ("arcface", f"insightface:{ROOT}/data/arcface/arcface.onnx")):
            recognizer = load_recognizer(spec)
            found[name] = recognizer, build_gallery(self.people, keep, zoo, recognizer)
        return found

    def measures(self, weights: Tensor, seeds: int) -> dict[str, dict[str, list[float]]]:
        """The protocol's measures of each person, by recogniser; `seeds` pictures per prompt."""
        how = self.params.evaluate.model_copy(update={"seeds": seeds})
        people, layout, drawing = self.people, self.data.layout, self.params.generate
        pictures = draw_models(self.pipe, layout, weights, len(people.names), self.judge, how, drawing, "trial")
        return {
            name: score_rung(self.pipe, pictures, gallery, people.images, self.judge, recognizer, how.bootstrap)[1]
            .drop(columns="person")
            .round(4)
            .to_dict("list")
            for name, (recognizer, gallery) in self.galleries.items()
        }

    def run(self, trial: Trial, seeds: int) -> dict:
        """JSON-able figures of a trial, by person."""
        weights = self.find(trial)
        return {"losses": self.losses(weights)} | (self.measures(weights, seeds) if seeds else {})


def gain_at_equal_copying(
    ours: np.ndarray, theirs: np.ndarray, copying: float, resamples: int = 2000
) -> tuple[float, float, float]:
    """How much higher one curve of `id_obeyed` over `copying` lies than another, with its 95 % interval over people.

    Both measures are averaged over people; between the points of a curve, and nowhere beyond, it is a straight line.
    Resamples of people whose curves do not reach there are left out.

    Args:
        ours, theirs: `copying` and `id_obeyed` of the same people at the points of each curve, [2, points, people].
        copying: where the curves are compared.

    Raises:
        ValueError: a curve does not reach there.
    """

    def height(curve: np.ndarray, people: np.ndarray) -> float:
        across, up = curve[:, :, people].mean(2)
        order = across.argsort()
        return np.interp(copying, across[order], up[order], left=np.nan, right=np.nan)

    count = ours.shape[2]
    drawn = np.random.default_rng(0).integers(count, size=(resamples, count))
    gains = np.array([height(ours, people) - height(theirs, people) for people in (np.arange(count), *drawn)])
    if np.isnan(gains[0]):
        raise ValueError(f"a curve does not reach copying {copying}")
    low, high = np.nanquantile(gains[1:], [0.025, 0.975])
    return float(gains[0]), float(low), float(high)


def curve(results: dict, names: Sequence[str], recognizer: str) -> np.ndarray:
    """`copying` and `id_obeyed` along the trials of a curve, [2, points, people]."""
    return np.array([[results[name][recognizer][key] for name in names] for key in ("copying", "id_obeyed")])


def table(results: dict, people: int) -> str:
    """The results as the Markdown page docs/refinement_trials.md."""
    mean = {kind: np.array(losses) for kind, losses in results["mean"]["losses"].items()}
    lines = [
        "# Beyond the space: everything tried",
        "",
        f"{people} validation people, one photo each where nothing else is said. Losses are those of other photos and "
        "of the input photo, in per cent below the mean LoRA's, with standard errors over people. "
        "[Refinement](explanation/refinement.md) says what follows. `python benchmarks/refinement_trials.py` repeats "
        "it.",
        "",
    ]
    rows = []
    for name, result in results.items():
        cells = [name, TRIALS[name].hypothesis]
        for kind, reference in mean.items():
            lower = 100 * (1 - np.array(result["losses"][kind]) / reference)
            cells.append(f"{lower.mean():.1f} ± {lower.std(ddof=1) / len(lower) ** 0.5:.1f}")
        if "dlib" in result:
            average = {key: np.mean(values) for key, values in result["dlib"].items()}
            other = np.mean(result["arcface"]["id_obeyed"])
            cells += [f"{average['id_obeyed']:.3f} / {other:.3f}"]
            cells += [f"{average[key]:.2f}" for key in ("copying", "variety", "prompt_accuracy")]
        else:
            cells += [""] * 4
        rows.append(cells)
    measures = ["loss, other photos", "loss, input photo", "`id_obeyed`, dlib / ArcFace", "`copying`", "`variety`"]
    lines += markdown_table(["trial", "hypothesis", *measures, "prompts obeyed"], rows, texts=2)
    if all("dlib" in result for result in results.values()):
        lines += ["", "## At equal copying", "", "Gain in `id_obeyed` along the steps, with its 95 % interval.", ""]
        rows = [row for other in ("mean", "PCA") for row in gains(results, "VAE", other)]
        lines += markdown_table(["curves", "`copying`", "dlib", "ArcFace"], rows)
    return "\n".join(lines) + "\n"


def gains(results: dict, ours: str, theirs: str) -> list[list[str]]:
    """Rows of two of `CURVES` where both reach."""
    seen = {name: [curve(results, CURVES[each], name) for each in (ours, theirs)] for name in ("dlib", "arcface")}
    across = [each[0].mean(1) for each in seen["dlib"]]
    low, high = max(each.min() for each in across), min(each.max() for each in across)
    rows = []
    for copying in np.linspace(low, high, AT + 2)[1:-1] if low < high else ():
        cells = [f"{ours} over {theirs}", f"{copying:.2f}"]
        for pair in seen.values():
            gain, least, most = gain_at_equal_copying(*pair, copying)
            cells.append(f"{gain:+.3f} ({least:+.3f} to {most:+.3f})")
        rows.append(cells)
    return rows


def main() -> None:
    parser = trials_parser(__doc__, "refinement_trials")
    parser.add_argument("--people", type=int, default=32, help="how many validation people")
    parser.add_argument("--seeds", type=int, default=4, help="pictures per prompt, at least 2")
    parser.add_argument("--no-pictures", action="store_true", help="losses alone")
    args = parser.parse_args()
    if args.seeds < 2:
        parser.error("--seeds: variety takes two pictures at least")
    bench = Bench(args.people)
    seeds = 0 if args.no_pictures else args.seeds
    setting = {
        "people": len(bench.people.names),
        "seeds": seeds,
        **{name: folder_hash(ROOT / "data" / name) for name in ("base", "weights", "spaces", "photo_encoders")},
        **bench.params.model_dump(include={"seed", "collect", "generate", "invert"}),
    }
    trials = {name: (asdict(trial), partial(bench.run, trial, seeds)) for name, trial in TRIALS.items()}
    results = run_trials(args.out / "refinement_trials.json", setting, trials)
    (args.out / "refinement_trials.md").write_text(table(results, len(bench.people.names)))


if __name__ == "__main__":
    run_stage(main)
