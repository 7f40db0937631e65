"""Pictures from outside are scored by person, by face and by style, and what is drawn is a photo or is not."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from w2wpp.evaluation.gallery import Gallery
from w2wpp.evaluation.outside import RealPhotos, frechet_floor, measure, photo_frechet, summary
from w2wpp.evaluation.style_probe import PHOTO, StyleProbe, fit_style_probe
from w2wpp.faces.embeddings import Embeddings
from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_pack

PEOPLE, SHAPE = 12, (2, 2, 2)  # latents
SOME = np.arange(PEOPLE) >= 4


@pytest.fixture
def looks(normal) -> dict[str, torch.Tensor]:
    """Latents of photos, and of pictures in two other styles, each of which shows in one number."""
    shift = {PHOTO: 0.0, "print": 6.0, "drawing": -6.0}
    return {name: normal(80, *SHAPE) + by * torch.eye(8)[0].view(SHAPE) for name, by in shift.items()}


@pytest.fixture
def probe(looks) -> StyleProbe:
    return fit_style_probe({name: each[:60] for name, each in looks.items()}, 1.0)


def test_the_probe_reads_styles_as_sklearn_does(looks, probe):
    assert probe.styles == [PHOTO, "drawing", "print"]
    truth = np.repeat([0, 1, 2], 60)
    x = torch.cat([looks[name][:60] for name in probe.styles]).flatten(1).numpy()
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=1000)).fit(x, truth)
    others = torch.cat([looks[name][60:] for name in probe.styles])
    assert np.array_equal(probe(others).numpy(), oracle.predict(others.flatten(1).numpy()))
    assert (probe(others).numpy() == np.repeat([0, 1, 2], 20)).mean() > 0.95


def test_of_one_other_style_the_probe_reads_both(looks):
    probe = fit_style_probe({name: looks[name] for name in (PHOTO, "print")}, 1.0)
    assert (probe(looks[PHOTO]) == 0).double().mean() > 0.95
    assert (probe(looks["print"]) == 1).double().mean() > 0.95


def test_the_share_of_photos_is_per_person(looks, probe):
    pictures = torch.stack([looks[PHOTO][60:], looks["print"][60:]], 1)
    assert probe.photo_share(pictures).shape == (20,)
    assert probe.photo_share(pictures).mean().item() == pytest.approx(0.5, abs=0.05)


def test_probe_round_trip(looks, probe, tmp_path):
    probe.save(tmp_path / "probe.safetensors")
    again = StyleProbe.load(tmp_path / "probe.safetensors")
    assert again.styles == probe.styles
    assert torch.equal(again(looks["drawing"]), probe(looks["drawing"]))
    write_pack(tmp_path / "other.safetensors", {"matrix": torch.zeros(2, 2)})
    with pytest.raises(InputError, match=r"other\.safetensors: offset: no such tensor"):
        StyleProbe.load(tmp_path / "other.safetensors")


def seen(vectors: torch.Tensor) -> Embeddings:
    return Embeddings(vectors.numpy(), np.ones(vectors.shape[:-1], bool))


@pytest.fixture
def faces(normal) -> torch.Tensor:
    """One direction per person, far from the mean of the zoo."""
    return 5 * torch.eye(PEOPLE, 16)


@pytest.fixture
def gallery(faces, normal) -> Gallery:
    real = faces[:, None] + 0.1 * normal(PEOPLE, 5, 16)
    return Gallery.build([f"p{i}" for i in range(PEOPLE)], seen(real), 4, seen(normal(50, 16)))


@pytest.fixture
def photos(normal) -> torch.Tensor:
    """Latents of four real photos of each person: a person's own look, and a little of each photo."""
    return normal(PEOPLE, 1, *SHAPE) + 0.3 * normal(PEOPLE, 4, *SHAPE)


@pytest.fixture
def real(photos) -> RealPhotos:
    latents = photos.flatten(2).numpy()
    return RealPhotos(latents, latents.mean((0, 1)))


def test_further_photos_of_the_person_are_as_good_as_can_be(gallery, real, probe, photos, faces, normal):
    more = photos[:, :1] + 0.3 * normal(PEOPLE, 2, *SHAPE)
    drawing = normal(PEOPLE, *SHAPE) - 6 * torch.eye(8)[0].view(SHAPE)
    table = measure(seen(faces[:, None].expand(-1, 2, -1)), more, drawing, real, gallery, probe)
    best = summary(table, more, real, SOME, 200)
    assert best["id_score"] == pytest.approx(gallery.ceiling, abs=0.02)
    assert best["id_score_low"] <= best["id_score"] <= best["id_score_high"]
    assert best["face_found"] == 1 and best["photo_share"] > 0.9 and best["copying"] < 0.15


def test_the_picture_printed_again_is_a_copy_and_no_photo(gallery, real, probe, photos, faces, normal):
    drawing = normal(PEOPLE, *SHAPE) - 6 * torch.eye(8)[0].view(SHAPE)
    nobody = Embeddings(np.zeros((PEOPLE, 2, 16)), np.zeros((PEOPLE, 2), bool))
    printed = drawing[:, None].expand(-1, 2, -1, -1, -1)
    found = summary(measure(nobody, printed, drawing, real, gallery, probe), printed, real, SOME, 200)
    assert found["copying"] == pytest.approx(1)
    assert found["id_score"] == pytest.approx(gallery.floor)
    assert found["face_found"] == 0 and found["photo_share"] < 0.1
    further = photos[:, :1] + 0.3 * normal(PEOPLE, 2, *SHAPE)
    assert found["photo_frechet"] > 10 * photo_frechet(further, real, SOME)


def test_only_the_people_who_count_are_summarised(gallery, real, probe, photos, faces):
    pictures = photos[:, :2]
    table = measure(seen(faces[:, None].expand(-1, 2, -1)), pictures, photos[:, 3], real, gallery, probe)
    spoiled, other = table.copy(), pictures.clone()
    spoiled.loc[~SOME] = np.nan
    other[:4] = 100.0
    assert summary(spoiled, other, real, SOME, 200) == summary(table, pictures, real, SOME, 200)


def test_real_photos_are_close_to_real_photos(real, photos, normal):
    floor = frechet_floor(real, SOME)
    assert 0 < floor < 0.2 * photo_frechet(photos[:, :2] + 1.0, real, SOME)
    assert photo_frechet(photos[:, :2], real, SOME) == pytest.approx(0, abs=1e-6)
