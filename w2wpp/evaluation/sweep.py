"""The sweep: every row fits a space, inverts one photo of each held-out person into it, draws and scores the people.

The steps are those of the stages flatten, fit, photo_encoder, invert and evaluate, with the row's settings.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import batches_of, finish, in_resumable_batches, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.dreambooth import photo_prompts
from w2wpp.diffusion.pipeline import encode_images, load_pipeline
from w2wpp.evaluation import scoring
from w2wpp.evaluation.gallery import Gallery, build_gallery, embed_all
from w2wpp.evaluation.sweep_record import row_settings, versions
from w2wpp.evaluation.sweep_rows import LINEAR, PCA, Row
from w2wpp.faces.frames import face_masks, load_face_finder
from w2wpp.faces.portraits import Portraits
from w2wpp.faces.recognizers import Recognizer
from w2wpp.files.settings import Section
from w2wpp.files.storage import folder_hash, read_csv, read_pack, write_csv, write_pack
from w2wpp.inversion.photo_encoder import PhotoEncoder, fit_photo_encoder, uninformed
from w2wpp.inversion.search import invert_batch
from w2wpp.lora.flattening import flatten_zoo
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.spaces.base import BASIS, FitContext, WeightSpace, check_latent_dim
from w2wpp.spaces.registry import METHODS

KEYS = ["variant", "latent_dim", "seed", "people"]
OVER = {"gain": PCA, "nonlinear": LINEAR}    # gains, and the variant that each is over
PEOPLE_AT_ONCE = 32


@dataclass(frozen=True)
class Scorer:
    """A recogniser and the held-out people's photos as it sees them; `identity` is as of `sweep_record.identity`."""

    identity: Mapping[str, str]
    recognizer: Recognizer
    gallery: Gallery


def make_scorer(identity: Mapping[str, str], recognizer: Recognizer, held_out: Portraits, score_photos: int,
                zoo: Portraits) -> Scorer:
    """A scorer by the last `score_photos` photos of the held-out people; errors as of `build_gallery`."""
    real = embed_all(recognizer, held_out.images[:, -score_photos:])
    zoo_faces = embed_all(recognizer, zoo.images[:, 0])
    return Scorer(identity, recognizer, build_gallery(held_out, real, zoo_faces, recognizer.name))


class Sweep:
    """What rows are measured with; work that several of them share is done once.

    Args:
        params: all settings of the pipeline; rows change some of them.
        base: folder of the base model. zoo: folder of the zoo.
        held_out: photos of the held-out people, of which inversion sees the first.
        zoo_photos: (people, photos) -> uint8 [people, photos, h, w, 3] of the first zoo people, and their names.
        scorers: by the name that tables have for them.
        scratch: folder for resuming.
    """

    def __init__(self, params: Section, base: Path, zoo: Path, held_out: Portraits,
                 zoo_photos: Callable[[int, int], tuple[Tensor, list[str]]], scorers: Mapping[str, Scorer],
                 scratch: Path) -> None:
        self.params, self.base, self.zoo, self.held_out = params, base, zoo, held_out
        self.zoo_photos, self.scorers, self.scratch = zoo_photos, scorers, scratch
        self.inputs = {"base": folder_hash(base), "zoo": folder_hash(zoo)}
        scratch.mkdir(parents=True, exist_ok=True)

    @cached_property
    def pipe(self) -> StableDiffusionPipeline:
        """The base model."""
        return load_pipeline(self.base, device(), self.params.generate.dtype)

    def id_scores(self, row: Row) -> dict[str, pd.Series]:
        """ID score of each test person, by scorer; read from `scratch` where they are there already."""
        settings = row.settings(self.params)
        folder = scratch_folder(self.scratch, "sweep", space=row.space, versions=versions(), **self.inputs,
                                **row_settings(settings))
        pictures, scores = folder / "pictures.safetensors", {}
        for name, scorer in self.scorers.items():
            kept = scratch_folder(folder, "sweep", **scorer.identity) / "scores.csv"
            if not kept.exists():
                if not pictures.exists():
                    write_pack(pictures, {"inversion": self._pictures(row, settings, folder)})
                found = scorer.gallery.id_scores(embed_all(scorer.recognizer, read_pack(pictures)[0]["inversion"]))
                everyone = pd.DataFrame({"person": scorer.gallery.people, "id_score": found})
                write_csv(kept, everyone[scorer.gallery.rows("test")])
            scores[name] = read_csv(kept, ["person", "id_score"]).set_index("person")["id_score"]
        return scores

    def _pictures(self, row: Row, settings: Section, folder: Path) -> Tensor:
        """Pictures uint8 [n, seeds, h, w, 3] of the held-out people, as found in the row's space."""
        data = self._weights(row.people, settings)
        space = self._fit(row, settings, data)
        z = self._invert(space, self._photo_encoder(space, data, settings), settings, folder, row.name)
        return generate(self.pipe, space.layout, space.cpu().decode(z), [settings.evaluate.prompt],
                        settings.evaluate.seeds, settings.generate, row.name)[:, 0]

    def _weights(self, people: int, settings: Section) -> Weights:
        folder = self._weights_folder(people, settings)
        if not (folder / "statistics.safetensors").exists():
            flatten_zoo(self.zoo, folder, people, settings.flatten.max_quarantined)
        return read_weights(folder)

    def _weights_folder(self, people: int, settings: Section) -> Path:
        return scratch_folder(self.scratch, "sweep", weights=self.inputs["zoo"], people=people,
                              max_quarantined=settings.flatten.max_quarantined)

    def _fit(self, row: Row, settings: Section, data: Weights) -> WeightSpace:
        builds_on_linear = row.space == "vae" and settings.vae.metric == "predictions"
        with TemporaryDirectory(dir=self.scratch) as spaces:
            context = FitContext(settings.seed, self.base, self._weights_folder(row.people, settings), Path(spaces),
                                 self.scratch, settings.generate)
            for name in ("linear", row.space) if builds_on_linear else (row.space,):
                check_latent_dim(METHODS[name].settings, row.latent_dim, len(data.zoo), data.layout.dimension)
                fitted = METHODS[name].fit(data, getattr(settings, name), row.latent_dim, context)
                if fitted.basis and builds_on_linear:
                    fitted.basis.save(Path(spaces) / name / BASIS)
        return fitted.space.requires_grad_(False).eval()

    def _photo_encoder(self, space: WeightSpace, data: Weights, settings: Section) -> PhotoEncoder:
        photos, numbers = settings.photo_encoder.photos, self._observed[0][0].numel()
        if not photos:
            return uninformed(numbers, space.latent_dim)
        people = data.names("zoo")
        latents = self._zoo_latents(settings.flatten.people, photos, people)
        z = torch.cat([space.encode(data.zoo.rows(list(range(first, first + count))).float())
                       for first, count in chunks(len(people), PEOPLE_AT_ONCE)])
        return fit_photo_encoder(latents, z, settings.photo_encoder.ridge)

    def _zoo_latents(self, count: int, photos: int, people: list[str]) -> Tensor:
        """Scaled latents [n, 2 photos, c, h, w] of photos of zoo people, and of their mirror images."""
        images, names = self.zoo_photos(count, photos)

        def encode(first: int, length: int) -> dict[str, Tensor]:
            both = torch.cat([images[first:first + length], images[first:first + length].flip(3)], 1)
            return {"latents": encode_images(self.pipe, both.flatten(0, 1)).float().unflatten(0, both.shape[:2])}

        scratch = scratch_folder(self.scratch, "latents", base=self.inputs["base"], photos=photos,
                                 seed=self.params.seed, size=self.params.portraits.size)
        latents = in_resumable_batches(len(images), PEOPLE_AT_ONCE, scratch, encode)["latents"]
        return latents[[names.index(person) for person in people]]

    @cached_property
    def _observed(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Scaled latents [n, c, h, w] of the held-out people's first photos, text embeddings, and masks if any.

        Rows change none of the settings that these depend on.
        """
        invert, photos = self.params.invert, self.held_out.images[:, 0]
        rows = self.held_out.manifest[self.held_out.manifest["photo"] == 0]
        latents = torch.cat([encode_images(self.pipe, some) for some in photos.split(invert.people_at_once)])
        text = photo_prompts(self.pipe, rows, prompt=invert.prompt, captions=invert.captions)
        mask = None
        if invert.mask == "face":
            mask = face_masks(photos, load_face_finder(self.params.faces), latents.shape[-1])
        return latents, text, mask

    def _invert(self, space: WeightSpace, encoder: PhotoEncoder, settings: Section, scratch: Path, what: str) -> Tensor:
        """z [n, k] of the held-out people, from one photo each."""
        latents, text, mask = self._observed

        def inputs(first: int, count: int) -> tuple:
            some = slice(first, first + count)
            return (encoder(latents[some]), latents[some], text[some], None if mask is None else mask[some],
                    f"{what} {some.stop}/{len(latents)}")

        batches = batches_of(len(latents), settings.invert.people_at_once, scratch, inputs)
        finish(batches, partial(invert_batch, self.pipe, space.to(device()), settings.invert, settings.seed), what,
               settings.engine)
        return joined(batches)["z"]


def compared(scores: Mapping[Row, Mapping[str, pd.Series]], bootstrap: int) -> pd.DataFrame:
    """One line per row and scorer: ID score on the test people, and paired gains, each with its 95 % interval.

    Args:
        scores: by row and scorer, the ID scores by person. Gains are over the rows that `OVER` names, of the same
            latent dimension and number of people, and empty where these are not among the rows.
        bootstrap: resamples of the people.
    """
    lines = []
    for row, by_scorer in scores.items():
        for recognizer, score in by_scorer.items():
            line = {"recognizer": recognizer, **{key: getattr(row, key) for key in KEYS}}
            line |= _columns("id_score", scoring.bootstrap_mean(score.to_numpy(), n=bootstrap))
            for gain, variant in OVER.items():
                for other in scores:
                    if (other.variant, other.latent_dim, other.people) == (variant, row.latent_dim, row.people):
                        over = scores[other][recognizer][score.index].to_numpy()
                        line |= _columns(gain, scoring.paired_gain(score.to_numpy(), over, n=bootstrap))
            lines.append(line)
    return pd.DataFrame(lines).round(4).sort_values(["recognizer", *KEYS])


def _columns(name: str, estimate: tuple[float, float, float]) -> dict[str, float]:
    return dict(zip((name, f"{name}_low", f"{name}_high"), estimate, strict=True))
