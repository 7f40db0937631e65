"""A computation that resumes gives the results of its version, so that no run resumes from another computation's state.

Every task of VERSIONS has a fixture of its name: results of the library's function on small fixed inputs. The inputs
are whole numbers, which no processor rounds. Settings whose effect needs more steps than a test may take, such as the
length of a warm-up, are separate results.
"""

from unittest.mock import patch

import pandas as pd
import pytest
import torch
from golden import GOLDEN, check, record, summary
from torch import Tensor

from w2wpp.compute.batches import finish
from w2wpp.compute.resume import VERSIONS
from w2wpp.compute.schedules import steady_rate
from w2wpp.diffusion.dreambooth import class_images, photo_prompts
from w2wpp.diffusion.pipeline import encode_images, reconstruct
from w2wpp.evaluation.sweep_rows import BY_VARIANCE, Row
from w2wpp.faces.portraits import write_portraits
from w2wpp.files.settings import with_changes
from w2wpp.files.storage import read_json, read_pack, write_csv
from w2wpp.ingest.w2w_data import pack_w2w
from w2wpp.ingest.w2w_people import ATTRIBUTES
from w2wpp.ingest.w2w_source import W2WFiles
from w2wpp.inversion.photo_encoder import LatentPrior, mirrored_latents
from w2wpp.inversion.refinement import invert_batch
from w2wpp.inversion.search import EncodedPhotos, SearchOptions
from w2wpp.lora.layout import WeightLayout
from w2wpp.lora.packs import write_loras
from w2wpp.lora.shards import write_shards
from w2wpp.lora.statistics import standardise
from w2wpp.lora.weights import Weights
from w2wpp.run.sweep import Sweep
from w2wpp.spaces.base import BASIS, FitContext
from w2wpp.spaces.pca import fit_pca
from w2wpp.spaces.registry import METHODS
from w2wpp.world.base_training import (
    DECODER_EMA,
    caption_tokens,
    people_factors,
    refine_decoder,
    train_codec,
    train_denoiser,
)
from w2wpp.world.drawing import PEOPLE_PER_BATCH, draw_resumably, photo_batches
from w2wpp.world.populations import manifest_rows, person_names, sample_people
from w2wpp.world.start import shared_start
from w2wpp.world.zoo import train_batch


def noise(*shape: int, seed: int = 0) -> Tensor:
    """Uniform numbers of variance 1."""
    return torch.randint(-1732, 1733, shape, generator=torch.Generator().manual_seed(seed)) / 1000


def pictures(*count: int, size: int = 32, seed: int = 0) -> Tensor:
    """uint8 [*count, size, size, 3]: blocks of 8x8 with colours and slopes of their own, some slopes far steeper."""
    slope = (torch.arange(8) - 3.5) / 3.5
    patterns = torch.stack([64 * torch.ones(8, 8), 30 * slope.expand(8, 8), 10 * slope[:, None].expand(8, 8)])
    strength = noise(*count, size // 8, size // 8, 3, 3, seed=seed) * torch.tensor([1.0, 0.6, 0.35])[:, None]
    blocks = torch.einsum("...ijcp,pyx->...iyjxc", strength / 1.8, patterns).flatten(-5, -4).flatten(-3, -2)
    return (128 + blocks + noise(*count, size, size, 3, seed=seed + 1)).round().clamp(0, 255).byte()


def rates() -> Tensor:
    """Those of a training of the base model."""
    return torch.tensor([steady_rate(step, 1600, 1.0) for step in range(1600)])[None]


def squares(drawn: Tensor) -> Tensor:
    """Means over squares of 8x8 pixels of pictures [n, h, w, 3], of which single pixels differ between processors."""
    return (drawn.float() - 128).unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).mean((2, 4))


@pytest.fixture
def photos(tmp_path) -> dict[str, Tensor]:
    return {"squares": squares(draw_resumably(sample_people(0, "base", 40, 1), 64, tmp_path)[:, 0])}


@pytest.fixture
def codec(make_pipe, base_params, tmp_path) -> dict[str, Tensor]:
    pipe, still, images = make_pipe(), make_pipe(), pictures(12)
    train_codec(still.vae, images, base_params.codec.model_copy(update={"steps": 0}), 0, tmp_path / "still.pt")
    train_codec(pipe.vae, images, base_params.codec.model_copy(update={"steps": 10}), 0, tmp_path / "codec.pt")
    latents, other = encode_images(pipe, images), encode_images(still, images)
    return {"linear": other, "learnt": latents - other, "pictures": reconstruct(pipe, images), "rates": rates()}


@pytest.fixture
def decoder(make_pipe, base_params, tmp_path) -> dict[str, Tensor]:
    pipe, images = make_pipe(), pictures(12)
    before = reconstruct(pipe, images)
    refine_decoder(
        pipe.vae,
        images,
        base_params.codec.model_copy(update={"decoder_steps": 20, "lr": 4e-3}),
        0,
        tmp_path / "decoder.pt",
    )
    return {"learnt": reconstruct(pipe, images) - before, "rates": rates(), "average": f"{DECODER_EMA}"}


@pytest.fixture
def denoiser(make_pipe, base_params, tmp_path) -> dict[str, Tensor]:
    pipe, people = make_pipe(), sample_people(0, "base", 6, 2)
    tokens, factors = caption_tokens(pipe, people, base_params.denoiser, 0), people_factors(people)

    @torch.no_grad()
    def answers() -> tuple[Tensor, Tensor]:
        text = pipe.text_encoder(tokens[:, 0]).last_hidden_state
        return text, pipe.unet(noise(12, 4, 4, 4, seed=1), torch.arange(12) * 80, text).sample

    before = answers()
    train_denoiser(
        pipe,
        noise(12, 2, 4, 4, 4),
        tokens,
        factors.repeat_interleave(2, 0),
        base_params.denoiser.model_copy(update={"steps": 20}),
        0,
        tmp_path / "denoiser.pt",
    )
    text, predictions = (after - first for after, first in zip(answers(), before, strict=True))
    return {"tokens": tokens.float(), "factors": factors, "text": text, "predictions": predictions, "rates": rates()}


@pytest.fixture
def loras(pipe, wide_layout, params, tmp_path) -> dict[str, Tensor]:
    settings = params.collect.model_copy(
        update={
            "steps": 110,
            "photos_per_step": 1,
            "start_people": 6,
            "start_photos": 2,
            "people_at_once": 4,
            "class_images": 3,
        }
    )
    base = photo_batches(sample_people(0, "base", 6, 2), PEOPLE_PER_BATCH, tmp_path)
    finish(base, lambda people: {"photos": pictures(len(people), 2)})
    start = shared_start(pipe, wide_layout, 32, settings, 0, tmp_path)
    shared = class_images(pipe, wide_layout, settings, params.generate.model_copy(update={"inference_steps": 3}))
    people = sample_people(0, "zoo", 3, 2)
    rows = pd.DataFrame(manifest_rows(person_names("zoo", 3), ["zoo"] * 3, people))
    results = {"start": start[None], "class images": shared}
    everything = {
        "trained": "both",
        "steps": 8,
        "photos_per_step": 2,
        "class_images_per_step": 1,
        "prior_weight": 0.5,
        "mirrored": True,
    }
    for trained, changes in (("B", {}), ("both", everything)):
        found = train_batch(
            pipe,
            wide_layout,
            start,
            shared,
            settings.model_copy(update=changes),
            pictures(3, 2, seed=2),
            rows,
            0,
            "LoRAs",
        )
        results |= {f"{trained}: weights": found["weights"] - start, f"{trained}: losses": found["losses"]}
    return results


def curved(count: int, layout: WeightLayout, seed: int) -> Tensor:
    """Weight vectors on a curved surface, which no linear space of two dimensions contains."""
    z = noise(count, 2, seed=seed)
    along = torch.cat([z, 0.6 * z.square(), 0.4 * z[:, :1] * z[:, 1:]], 1)
    return 0.1 * (
        along @ noise(5, layout.dimension)
        + noise(1, layout.dimension, seed=1)
        + 0.03 * noise(count, layout.dimension, seed=seed + 1)
    )


@pytest.fixture(scope="module")
def fitted(make_pipe, layout, params, tmp_path_factory) -> dict[str, dict]:
    """The outputs of spaces that build on each other, and the spaces themselves, by task."""
    folder = tmp_path_factory.mktemp("fitted")
    make_pipe().save_pretrained(folder / "base")
    zoo, others = curved(24, layout, 2), curved(8, layout, 4)
    vectors = {
        ("zoo", "zoo"): zoo,
        ("zoo-again", "zoo"): zoo[:8]
        + 0.1 * noise(8, layout.dimension, seed=6)
        + 0.05 * noise(1, layout.dimension, seed=7),
        ("true", "validation"): others,
    }
    shards = {
        key: write_shards(folder / "weights" / "-".join(key), [each], layout, 16) for key, each in vectors.items()
    }
    table = pd.DataFrame(
        [
            {"person": f"{split}-{number}", "split": split, "role": role}
            for (role, split), each in vectors.items()
            for number in range(len(each))
        ]
    )
    data = Weights(shards, *standardise(zoo), layout, table)
    context = FitContext(
        0,
        folder / "base",
        folder / "weights",
        folder / "spaces",
        folder / "scratch",
        params.generate.model_copy(update={"inference_steps": 3}),
    )

    def kept(pattern: str) -> dict[str, Tensor]:
        """The packs of resume state, joined."""
        packs = [read_pack(path)[0] for path in sorted(context.scratch.glob(pattern))]
        return {key: torch.cat([pack[key].reshape(-1, *pack[key].shape[1:]) for pack in packs]) for key in packs[0]}

    def fit(name: str, **changes: object):
        settings = getattr(params, name).model_copy(update=changes)
        with patch("torch.cuda.is_available", return_value=False):
            return METHODS[name].fit(data, settings, 2, context)

    linear = fit("linear", inputs=3, people=20, people_at_once=16, components=6)
    linear.basis.save(context.spaces / "linear" / BASIS)
    # The signs of the UNet's directions are arbitrary.
    results = {
        "predictions": {
            "predictions": kept("predictions-*/predictions/*")["answers"],
            "gradients": kept("predictions-*/gradients/*")["gradients"].square(),
            "zoo": linear.basis.encode(zoo),
            "basis": linear.basis.decode(torch.eye(6)),
        },
        "coordinates": {},
        "vae": {},
    }
    for metric, ridge in (("predictions", None), ("weights", None), ("weights", 1.0)):
        vae = fit(
            "vae",
            metric=metric,
            within_person_ridge=ridge,
            latent_dim=2,
            width=32,
            epochs=60,
            batch=8,
            lr=1e-2,
            weight_decay=0.1,
        )
        history = pd.DataFrame(vae.records["training.json"]["history"])
        assert vae.records["training.json"]["kept"]["epoch"] > 3  # or the space were the untrained one
        name = f"{metric}, ridge {ridge}"
        results["vae"] |= {
            f"{name}: history": torch.tensor(history.astype(float).to_numpy().T),
            f"{name}: zoo": vae.space.encode(zoo),
            f"{name}: decoded": vae.space.decode(noise(4, 2)),
        }
        coordinates = kept("coordinates-*/coordinates.safetensors")
        results["coordinates"] |= {f"{name}: {key}": each for key, each in coordinates.items()}
        for path in context.scratch.glob("coordinates-*/coordinates.safetensors"):
            path.unlink()
    return results


@pytest.fixture
def predictions(fitted) -> dict[str, Tensor]:
    return fitted["predictions"]


@pytest.fixture
def coordinates(fitted) -> dict[str, Tensor]:
    return fitted["coordinates"]


@pytest.fixture
def vae(fitted) -> dict[str, Tensor]:
    return fitted["vae"]


@pytest.fixture
def latents(pipe) -> dict[str, Tensor]:
    people = sample_people(0, "test", 3, 1)
    rows = pd.DataFrame(manifest_rows(person_names("test", 3), ["test"] * 3, people))
    return {
        "photos": encode_images(pipe, pictures(3)),
        "mirrored": mirrored_latents(pipe, pictures(2, 2)),
        "prompts": photo_prompts(pipe, rows, False),
        "captions": photo_prompts(pipe, rows, True),
    }


@pytest.fixture
def inversion(pipe, layout, params) -> dict[str, Tensor]:
    zoo = curved(12, layout, 2)
    space = fit_pca(zoo, *standardise(zoo), 4, layout, 0)[0]
    prior = LatentPrior(0.3 * noise(3, 4, seed=7), torch.tensor([1.0, 0.9, 0.6, 0.4]))
    text = photo_prompts(pipe, pd.DataFrame(index=range(6)), False).unflatten(0, (3, 2))
    photos = EncodedPhotos(noise(3, 2, 4, 4, 4, seed=9), text, noise(3, 2, 4, 4, seed=8).gt(1).float())
    results = {}
    for whitened, steps in ((True, 60), (False, 8)):
        settings = params.invert.model_copy(
            update={"steps": steps, "lr": 0.1, "whitened": whitened, "prior_weight": 1e-2}
        )
        found = invert_batch(pipe, space, SearchOptions(settings), prior, photos, "inversion")
        results |= {f"{key}, whitened {whitened}": found[key] for key in ("z", "losses")}
    return results


@pytest.fixture
def sweep(make_pipe, layout, params, tmp_path, monkeypatch) -> dict[str, Tensor]:
    names, people = person_names("zoo", 8), sample_people(0, "zoo", 8, 1)
    files = write_loras(tmp_path / "zoo/loras", "zoo-zoo", layout, curved(8, layout, 2))
    write_csv(
        tmp_path / "zoo/manifest.csv", pd.DataFrame({"person": names, "split": "zoo", "role": "zoo", "file": files})
    )
    rows = manifest_rows(names, ["zoo"] * 8, people)
    write_portraits(tmp_path / "zoo/people", draw_resumably(people, 64, tmp_path / "photos"), rows)
    make_pipe(64).save_pretrained(tmp_path / "base")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    settings = with_changes(
        params,
        {
            "recognizer": "dlib",
            "second_recognizer": "dlib",
            "split": "test",
            "portraits.photos": 3,
            "portraits.score_photos": 2,
            "portraits.validation": 2,
            "portraits.test": 3,
            "collect.photos": 1,
            "pca.latent_dim": 3,
            "photo_encoder.photos": 1,
            "invert.steps": 3,
            "invert.lr": 0.1,
            "generate.inference_steps": 2,
            "evaluate.seeds": 2,
        },
    )
    row = Row("pca", "PCA", 3, 6, changes=BY_VARIANCE)
    scores = Sweep(settings, tmp_path / "base", tmp_path / "zoo", tmp_path, tmp_path / "scratch").id_scores(row)
    (drawn,) = (tmp_path / "scratch").glob("sweep-*/pictures.safetensors")
    return {
        "pictures": squares(read_pack(drawn)[0]["inversion"][:, 0]),
        "scores": torch.tensor([each.tolist() for each in scores.values()]),
    }


@pytest.fixture
def w2w(toy_layout, tmp_path) -> dict[str, Tensor | str]:
    weights = noise(30, toy_layout.dimension)
    weights[4, 3] = torch.inf
    torch.save(weights, tmp_path / "weights.pt")
    people = pd.DataFrame(
        {name: 2 * noise(30, seed=number).gt(0).long().numpy() - 1 for number, name in enumerate(ATTRIBUTES)}
    )
    people["identity"] = [None if row == 9 else f"{row // 2}" for row in range(30)]
    people.to_csv(tmp_path / "people.csv", index=False)
    data = pack_w2w(
        W2WFiles(tmp_path / "weights.pt", tmp_path / "people.csv"),
        toy_layout,
        tmp_path / "out",
        tmp_path / "scratch",
        validation=0.2,
        test=0.2,
        rows_per_shard=8,
    )
    vectors = torch.cat([next(shards.blocks(30)) for shards in data.shards.values()])
    return {
        "vectors": vectors.float(),
        "people": data.people[["person", "split", "row"]].to_csv(index=False),
        "refused": (tmp_path / "out/quarantine.csv").read_text(),
    }


@pytest.mark.parametrize("task", VERSIONS)
def test_results_are_those_of_the_version(task, request):
    results, written = request.getfixturevalue(task), request.config.getoption("golden", None)
    if written is not None:
        known = read_json(GOLDEN) if GOLDEN.exists() else {}
        if task in written.split(",") or known.get(task, {}).get("version") != VERSIONS[task]:
            record(task, results)
    check(task, results, read_json(GOLDEN))


def test_every_golden_result_is_of_a_task():
    assert read_json(GOLDEN).keys() == VERSIONS.keys()


@pytest.mark.parametrize(
    "change",
    [
        lambda matrix: matrix * 1.01,
        lambda matrix: matrix + 0.01,
        lambda matrix: matrix.flip(1),
        lambda matrix: matrix.flip(0),
        lambda matrix: matrix[:-1],
        lambda matrix: matrix.T,
    ],
)
def test_other_results_say_which_version_to_raise(change):
    matrix = noise(5, 30)
    known = {"vae": {"version": VERSIONS["vae"], "results": {"z": summary(matrix), "text": "a"}}}
    check("vae", {"z": matrix + 1e-4 * noise(5, 30, seed=1), "text": "a"}, known)
    words = r"raise VERSIONS\['vae'\] in w2wpp/compute/resume.py and run `python tests/golden.py`"
    for other in ({"z": change(matrix), "text": "a"}, {"z": matrix, "text": "b"}, {"z": matrix}):
        with pytest.raises(pytest.fail.Exception, match=words):
            check("vae", other, known)


def test_a_raised_version_asks_for_golden_results_of_its_own():
    known = {"vae": {"version": VERSIONS["vae"] - 1, "results": {"z": summary(noise(5, 30))}}}
    for golden in (known, {}):
        with pytest.raises(
            pytest.fail.Exception, match=rf"of vae, not {VERSIONS['vae']}: run `python tests/golden.py`"
        ):
            check("vae", {"z": noise(5, 30)}, golden)
