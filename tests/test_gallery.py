"""The gallery, the reference of every score."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from w2wpp.evaluation.gallery import Gallery, build_gallery, embed_all
from w2wpp.faces.embeddings import Embeddings
from w2wpp.files.errors import InputError
from w2wpp.files.storage import rounded, write_pack


def everyone_found(vectors: np.ndarray) -> Embeddings:
    return Embeddings(vectors.astype(np.float32), np.ones(vectors.shape[:-1], bool))


@pytest.fixture
def faces() -> np.ndarray:
    """One direction per person of ten, in 16 dimensions, far from the mean of the zoo."""
    return 5 * np.eye(10, 16)


@pytest.fixture
def gallery(faces) -> Gallery:
    rng = np.random.default_rng(0)
    real = everyone_found(faces[:, None] + 0.1 * rng.standard_normal((10, 3, 16)))
    real.found[9] = False
    return Gallery.build(
        [f"p{i}" for i in range(10)],
        real,
        3,
        everyone_found(rng.standard_normal((50, 16))),
    )


def test_perfect_pictures_score_the_ceiling_and_strangers_the_floor(gallery, faces):
    perfect = gallery.summary(everyone_found(np.repeat(faces[:, None], 2, 1)), 200)
    assert perfect["id_score_normalised"] == pytest.approx(1, abs=0.05)
    assert perfect["tar_at_far1"] == 1
    strangers = gallery.summary(everyone_found(np.repeat(np.roll(faces, 1, 0)[:, None], 2, 1)), 200)
    assert strangers["id_score_normalised"] == pytest.approx(0, abs=0.15)
    assert strangers["tar_at_far1"] < 0.2


def test_pictures_without_a_face_score_the_floor(gallery, faces):
    blank = everyone_found(np.repeat(faces[:, None], 2, 1))
    blank.found[:] = False
    summary = gallery.summary(blank, 200)
    assert summary["id_score"] == pytest.approx(gallery.floor)
    assert summary["face_found"] == 0


def test_people_without_a_real_face_are_left_out(gallery, faces):
    scores = gallery.id_scores(everyone_found(np.repeat(faces[:, None], 2, 1)))
    assert np.isnan(scores[9]) and np.isfinite(scores[:9]).all()
    assert gallery.scored.sum() == 9


def test_people_are_scored_against_their_last_photos(gallery, faces):
    photos = Embeddings(*(np.concatenate([each, each[:, :1]], 1) for each in gallery.photos))
    photos.vectors[:, :2] = 0
    later = Gallery.build(gallery.people, photos, 2, gallery.zoo)
    assert np.array_equal(later.real.vectors, photos.vectors[:, 2:])
    perfect = everyone_found(np.repeat(faces[:, None], 2, 1))
    assert np.nanmin(later.id_scores(perfect)) > 0.9


def test_save_and_load(gallery, tmp_path):
    gallery.save(tmp_path / "gallery.safetensors")
    again = Gallery.load(tmp_path / "gallery.safetensors")
    assert (again.people, again.score_photos, again.floor, again.ceiling) == (
        gallery.people,
        gallery.score_photos,
        gallery.floor,
        gallery.ceiling,
    )
    assert np.array_equal(again.photos.vectors, gallery.photos.vectors)
    assert np.array_equal(again.real.found, gallery.real.found)
    write_pack(tmp_path / "other.safetensors", {"photos": torch.zeros(2)})
    with pytest.raises(InputError, match=r"other\.safetensors: photos_found: no such tensor"):
        Gallery.load(tmp_path / "other.safetensors")


def test_embed_all_keeps_leading_axes():
    class Sums:
        name, dim = "sums", 1

        def embed(self, images):
            sums = images.reshape(len(images), -1).sum(1, dtype=np.float32)
            return Embeddings(sums[:, None], sums > 0)

    images = torch.zeros(2, 3, 4, 4, 3, dtype=torch.uint8)
    images[1, 2, 0, 0, 0] = 7
    seen = embed_all(Sums(), images)
    assert seen.vectors.shape == (2, 3, 1) and seen.found.shape == (2, 3)
    assert seen.vectors[1, 2] == 7 and seen.found.sum() == 1


@pytest.mark.parametrize(("different", "embedded"), [(40, 40), (3, 120)])
def test_equal_pictures_are_embedded_once_where_they_fill_a_batch(different, embedded):
    numbers = []

    class Sums:
        name, dim = "sums", 1

        def embed(self, images):
            numbers.append(len(images))
            sums = images.reshape(len(images), -1).sum(1, dtype=np.float32)
            return Embeddings(sums[:, None], sums > 0)

    images = torch.arange(different, dtype=torch.uint8)[torch.arange(120) * 7 % different].unflatten(0, (4, 30))
    seen = embed_all(Sums(), images[..., None, None, None].expand(-1, -1, 2, 2, 3))
    assert numbers == [embedded]
    assert np.array_equal(seen.vectors[..., 0], 12 * images.int().numpy()) and np.array_equal(seen.found, images > 0)


def test_rounded_goes_into_the_tree():
    assert rounded({"a": {"b": 1.23456, "n": 3}, "c": "x"}) == {"a": {"b": 1.2346, "n": 3}, "c": "x"}


class Looked:
    """A recogniser of pictures that are their own embeddings' row numbers."""

    name, dim = "dlib", 16

    def __init__(self, *embeddings: Embeddings) -> None:
        self.vectors = np.concatenate([each.vectors.reshape(-1, 16) for each in embeddings])
        self.found = np.concatenate([each.found.reshape(-1) for each in embeddings])
        self.seen = 0

    def embed(self, images: np.ndarray) -> Embeddings:
        rows = slice(self.seen, self.seen + len(images))
        self.seen += len(images)
        return Embeddings(self.vectors[rows], self.found[rows])


def test_people_who_cannot_be_told_apart_are_refused(faces):
    held_out, zoo_photos = (
        SimpleNamespace(names=[f"p{i}" for i in range(count)], images=torch.zeros(count, photos, 1, 1, 3))
        for count, photos in ((10, 3), (50, 1))
    )
    zoo = everyone_found(np.random.default_rng(0).standard_normal((50, 16)))
    real = everyone_found(np.repeat(faces[:, None], 3, 1))
    assert build_gallery(held_out, 3, zoo_photos, Looked(real, zoo)).ceiling > 0.9
    everybody_alike = everyone_found(np.repeat(faces[:1, None], 10, 0).repeat(3, 1))
    faceless = Embeddings(real.vectors, np.zeros_like(real.found))
    for photos, people, words in (
        (everybody_alike, zoo, "must be above floor"),
        (faceless, zoo, "floor needs photos"),
        (real, Embeddings(zoo.vectors, ~zoo.found), "no face in any photo of the zoo"),
    ):
        with pytest.raises(InputError, match=f"dlib cannot score these people .*{words}"):
            build_gallery(held_out, 3, zoo_photos, Looked(photos, people))
