"""The sweep: every row fits a space, inverts one photo of each held-out person into it, draws and scores the people.

The steps are those of the stages portraits, flatten, fit, photo_encoder, invert and evaluate, with the row's settings.
"""

from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import pandas as pd
import torch
from diffusers import StableDiffusionPipeline
from torch import Tensor

from w2wpp.compute.batches import finish, in_resumable_batches, joined
from w2wpp.compute.resume import scratch_folder
from w2wpp.compute.runtime import device
from w2wpp.compute.schedules import chunks
from w2wpp.diffusion.denoising import generate
from w2wpp.diffusion.pipeline import load_pipeline
from w2wpp.evaluation.gallery import Gallery, build_gallery, embed_all
from w2wpp.evaluation.sweep_record import identity, row_settings
from w2wpp.evaluation.sweep_rows import Row
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.portraits import Portraits, read_portraits
from w2wpp.faces.recognizers import Recognizer, load_recognizer
from w2wpp.files.storage import folder_hash, read_csv, read_pack, write_csv, write_pack
from w2wpp.inversion.held_out import encode_held_out, mask_held_out, search_batches
from w2wpp.inversion.photo_encoder import PhotoEncoder, fit_photo_encoder, mirrored_latents, uninformed
from w2wpp.inversion.refinement import found_weights, invert_batch
from w2wpp.inversion.search import EncodedPhotos, SearchOptions
from w2wpp.lora.flattening import flatten_zoo
from w2wpp.lora.weights import Weights, read_weights
from w2wpp.run.params import Params
from w2wpp.spaces.base import BASIS, FitContext, Fitted, WeightSpace, check_latent_dim
from w2wpp.spaces.registry import METHODS
from w2wpp.world.drawing import draw_resumably, photo_folder
from w2wpp.world.populations import Person, held_out_people, manifest_rows, person_names, sample_people

PEOPLE_AT_ONCE = 32


class Scorer(NamedTuple):
    """A recogniser, its identity (see `identity`), and its gallery of the held-out people's photos."""

    recognizer: Recognizer
    known_by: dict[str, str]
    gallery: Gallery


class Sweep:
    """Inputs of the rows' measurements; work that several rows share is done once.

    Args:
        params: all settings; rows change some of them.
        base: folder of the base model. zoo: folder of the zoo, of people of this world.
        arcface: the network of the second recogniser that is trained here.
        scratch: folder for resuming.
    """

    def __init__(self, params: Params, base: Path, zoo: Path, arcface: Path, scratch: Path) -> None:
        self.params, self.base, self.zoo, self.arcface, self.scratch = params, base, zoo, arcface, scratch
        self.inputs = {"base": folder_hash(base), "zoo": folder_hash(zoo)}
        scratch.mkdir(parents=True, exist_ok=True)

    def id_scores(self, row: Row) -> dict[str, pd.Series]:
        """ID score of each held-out person, by recogniser; read from `scratch` where they are there already."""
        settings = row.settings(self.params)
        folder = scratch_folder(self.scratch, "sweep", space=row.space, **self.inputs, **row_settings(settings))
        pictures, scores = folder / "pictures.safetensors", {}
        for name, scorer in self.scorers.items():
            kept = scratch_folder(folder, "sweep", **scorer.known_by) / "scores.csv"
            if not kept.exists():
                if not pictures.exists():
                    write_pack(pictures, {"inversion": self._pictures(row, settings, folder)})
                found = scorer.gallery.id_scores(embed_all(scorer.recognizer, read_pack(pictures)[0]["inversion"]))
                everyone = pd.DataFrame({"person": scorer.gallery.people, "id_score": found})
                write_csv(kept, everyone[scorer.gallery.scored])
            scores[name] = read_csv(kept, ["person", "id_score"]).set_index("person")["id_score"]
        return scores

    @cached_property
    def pipe(self) -> StableDiffusionPipeline:
        """The base model."""
        return load_pipeline(self.base, device(), self.params.generate.dtype)

    @cached_property
    def held_out(self) -> Portraits:
        """Photos of the held-out people of `split`, of which inversion sees the first, and the last score."""
        names, splits, everybody = held_out_people(self.params.seed, self.params.portraits)
        split = self.params.split
        people = [person for person, each in zip(everybody, splits, strict=True) if each == split]
        names = [name for name, each in zip(names, splits, strict=True) if each == split]
        rows = pd.DataFrame(manifest_rows(names, [split] * len(names), people))
        return Portraits(self._draw(people, split), names, [split] * len(names), rows)

    @cached_property
    def scorers(self) -> dict[str, Scorer]:
        """Both recognisers, by their specs."""
        zoo, score_photos = read_portraits(self.zoo / "people"), self.params.portraits.score_photos
        scorers = {}
        for spec in (self.params.recognizer, self.params.second_recognizer):
            recognizer = load_recognizer(f"insightface:{self.arcface}" if spec == "arcface" else spec, progress="faces")
            gallery = build_gallery(self.held_out, score_photos, zoo, recognizer)
            scorers[spec] = Scorer(recognizer, identity(spec, self.arcface), gallery)
        return scorers

    def _draw(self, people: list[Person], group: str) -> Tensor:
        """Photos uint8 [people, photos, h, w, 3] of the first people of a group (see `sample_people`)."""
        size = self.params.portraits.size
        scratch = photo_folder(self.scratch, self.params.seed, group, len(people[0][1]), size)
        return draw_resumably(people, size, scratch, self.params.engine)

    def _pictures(self, row: Row, settings: Params, folder: Path) -> Tensor:
        """Pictures uint8 [n, seeds, h, w, 3] of the held-out people, inverted into the row's space."""
        data = self._weights(row.people, settings)
        space = self._fit(row, settings, data)
        weights = self._invert(space, self._photo_encoder(row, settings, space, data), settings, folder, row.name)
        return generate(
            self.pipe,
            space.layout,
            weights,
            [settings.evaluate.prompt],
            settings.evaluate.seeds,
            settings.generate,
            row.name,
        )[:, 0]

    def _weights(self, people: int, settings: Params) -> Weights:
        folder = self._weights_folder(people, settings)
        if not (folder / "statistics.safetensors").exists():
            flatten_zoo(self.zoo, folder, people, settings.flatten.max_quarantined)
        return read_weights(folder)

    def _weights_folder(self, people: int, settings: Params) -> Path:
        return scratch_folder(
            self.scratch,
            "sweep",
            weights=self.inputs["zoo"],
            people=people,
            max_quarantined=settings.flatten.max_quarantined,
        )

    def _fit(self, row: Row, settings: Params, data: Weights) -> WeightSpace:
        builds_on = ["linear"] if row.space == "vae" and settings.vae.metric == "predictions" else []
        with TemporaryDirectory(dir=self.scratch) as folder:
            context = FitContext(
                settings.seed,
                self.base,
                self._weights_folder(row.people, settings),
                Path(folder),
                self.scratch,
                settings.generate,
            )
            for name in builds_on:
                basis = self._fitted(name, row, settings, data, context).basis
                assert basis is not None
                basis.save(context.spaces / name / BASIS)
            space = self._fitted(row.space, row, settings, data, context).space
        return space.requires_grad_(False).eval()

    def _fitted(self, name: str, row: Row, settings: Params, data: Weights, context: FitContext) -> Fitted:
        method = METHODS[name]
        check_latent_dim(method.settings, row.latent_dim, len(data.zoo), data.layout.dimension)
        fitted = method.fit(data, getattr(settings, name), row.latent_dim, context)
        assert fitted is not None  # as on the main process of a training
        return fitted

    def _photo_encoder(self, row: Row, settings: Params, space: WeightSpace, data: Weights) -> PhotoEncoder:
        photos, numbers = settings.photo_encoder.photos, self._observed[0][0, 0].numel()
        if not photos:
            return uninformed(numbers, space.latent_dim)
        people = data.names("zoo")
        latents = self._zoo_latents(row.people, photos, people)
        z = torch.cat(
            [
                space.encode(data.zoo.rows(list(range(first, first + count))).float())
                for first, count in chunks(len(people), PEOPLE_AT_ONCE)
            ]
        )
        return fit_photo_encoder(latents, z, settings.photo_encoder.ridge)

    def _zoo_latents(self, count: int, photos: int, people: list[str]) -> Tensor:
        """Scaled latents [n, 2 photos, c, h, w] of the first `count` photos of zoo people and their mirror images."""
        images = self._draw(sample_people(self.params.seed, "zoo", count, photos), "zoo")
        names = person_names("zoo", count)
        scratch = scratch_folder(
            self.scratch,
            "latents",
            base=self.inputs["base"],
            dtype=self.params.generate.dtype,
            photos=photos,
            seed=self.params.seed,
            size=self.params.portraits.size,
        )
        latents = in_resumable_batches(
            len(images),
            PEOPLE_AT_ONCE,
            scratch,
            lambda first, length: {"latents": mirrored_latents(self.pipe, images[first : first + length])},
        )["latents"]
        return latents[[names.index(person) for person in people]]

    @cached_property
    def _observed(self) -> EncodedPhotos:
        """What inversion sees of the held-out people.

        Rows change none of the settings that these depend on.
        """
        people, invert = self.held_out, self.params.invert
        batches = [
            encode_held_out(self.pipe, people, invert, slice(first, first + count))
            for first, count in chunks(len(people.names), invert.people_at_once)
        ]
        latents, text = (torch.cat([batch[key] for batch in batches]) for key in ("latents", "text"))
        mask = None
        if invert.mask == "face":
            mask = mask_held_out(people, invert, load_face_finder(self.params.faces), latents.shape[-1])
        return EncodedPhotos(latents, text, mask)

    def _invert(self, space: WeightSpace, encoder: PhotoEncoder, settings: Params, scratch: Path, label: str) -> Tensor:
        """Weights [n, d] of the held-out people, from the photos that inversion sees."""
        batches = search_batches(encoder, self._observed, settings.invert.people_at_once, scratch, label)
        options = SearchOptions(settings.invert, settings.seed)
        finish(batches, partial(invert_batch, self.pipe, space.to(device()), options), label, settings.engine)
        return found_weights(space.cpu(), joined(batches))
