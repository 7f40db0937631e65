"""One photo of any size is framed like the training photos, and inverted as the stage inverts held-out people."""

import random
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from photo_files import broken_exif, encoded, scene
from PIL import Image

from w2wpp.api.artifacts import restorer_file
from w2wpp.diffusion.pipeline import encode_images, encode_prompts, load_pipeline
from w2wpp.faces.finders import load_face_finder
from w2wpp.faces.frames import FFHQ, RENDERED, align
from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.inversion.own_photo import align_photo, framing_of, invert_photos, open_photo
from w2wpp.inversion.photo_encoder import LatentPrior, PhotoEncoder, uninformed
from w2wpp.inversion.restoration import Restorer
from w2wpp.inversion.search import EncodedPhotos, InvertParams, SearchOptions, invert
from w2wpp.spaces.affine import PCASpace
from w2wpp.world.drawing import draw
from w2wpp.world.populations import sample_people

ROOT = Path(__file__).parents[1]


def astronaut() -> Image.Image:
    return Image.open(Path(skimage.__file__).parent / "data/astronaut.png").convert("RGB")


@pytest.fixture(scope="module")
def find():
    return load_face_finder("dlib", RENDERED)


@pytest.fixture(scope="module")
def rendered() -> np.ndarray:
    """One photo each of eight people of the world who served to measure no constant, uint8 [8, 64, 64, 3]."""
    return draw(sample_people(0, "probe", 8, 1), 64)[:, 0].numpy()


@pytest.fixture(scope="module")
def elsewhere(rendered) -> list[Image.Image]:
    """These photos as parts of larger ones, enlarged and turned by 10 degrees."""
    photos = []
    for picture in rendered:
        large = np.asarray(Image.fromarray(picture).resize((320, 320), Image.Resampling.BICUBIC))
        large = np.pad(large, ((160, 240), (300, 80), (0, 0)), mode="edge")
        photos.append(Image.fromarray(large).rotate(10, Image.Resampling.BICUBIC, center=(460, 320)))
    return photos


def test_a_restorer_that_is_not_there_is_named():
    for absent in ("none.safetensors", "~nobody-here/restorer.safetensors"):
        with pytest.raises(ArgumentError, match=rf"restorer: no such file: {absent}"):
            restorer_file(absent)


def test_a_photo_that_is_framed_already_is_taken_as_it_is(rendered, find):
    for picture in rendered:
        found = align_photo(picture, 64, RENDERED, find)
        assert found.whole and found.faces == 1
        np.testing.assert_array_equal(found.pixels, picture)
        large = Image.fromarray(picture).resize((512, 512), Image.Resampling.BICUBIC)
        found = align_photo(large, 64, RENDERED, find)
        assert found.whole and found.size == (512, 512)
        assert np.abs(found.pixels.astype(int) - picture).mean() < 2


def test_a_face_elsewhere_on_a_photo_is_framed_as_training_photos_are(rendered, elsewhere, find):
    """In the codec's latents, aligned photos are nearest to the person's own, and nearer than by FFHQ's framing."""
    pipe = load_pipeline(ROOT / "data/base")
    seen = [align_photo(photo, 64, RENDERED, find) for photo in elsewhere]
    assert not any(each.whole for each in seen)
    original, found, otherwise = (
        encode_images(pipe, torch.from_numpy(np.stack(pictures))).flatten(1)
        for pictures in (
            rendered,
            [each.pixels for each in seen],
            [align_photo(photo, 64, FFHQ, find).pixels for photo in elsewhere],
        )
    )
    assert (torch.cdist(found, original).argmin(1) == torch.arange(8)).sum() >= 7
    assert ((found - original).norm(dim=1) < (otherwise - original).norm(dim=1)).all()


def test_faces_of_other_worlds_are_framed_as_those_of_a_folder():
    find, photo = load_face_finder("dlib"), astronaut()
    found = align_photo(photo, 96, FFHQ, find)
    assert found.faces == 1 and not found.whole
    np.testing.assert_array_equal(found.pixels, align(photo, find(np.asarray(photo))[0], 96))
    # Aligned again: only a face finder frames such photos.
    assert not align_photo(found.pixels, 96, FFHQ, find).whole


def test_a_small_face_on_a_large_photo(find):
    photo = Image.new("RGB", (3000, 2400), "grey")
    photo.paste(astronaut().crop((120, 0, 340, 220)).resize((500, 500)), (2100, 200))
    found = align_photo(photo, 64, RENDERED, find)
    close = align_photo(astronaut(), 64, RENDERED, find)
    assert found.size == (3000, 2400)
    inside = np.s_[12:56, 12:52]
    assert np.abs(found.pixels[inside].astype(int) - close.pixels[inside]).mean() < 12


def test_no_face_is_one_clear_error(tmp_path, find):
    Image.new("RGB", (200, 100), "green").save(tmp_path / "wall.png")
    with pytest.raises(InputError, match=r"wall\.png: no face found\. Give a photo"):
        align_photo(tmp_path / "wall.png", 64, RENDERED, find)


def test_of_several_faces_the_clearly_largest_is_taken(find):
    photo, face = Image.new("RGB", (900, 500), "grey"), astronaut().crop((120, 0, 340, 220))
    photo.paste(face.resize((400, 400)), (20, 50))
    photo.paste(face.resize((330, 330)), (500, 100))
    with pytest.raises(InputError, match="photo: 2 faces, none of them clearly the largest"):
        align_photo(photo, 64, RENDERED, find)
    largest = align_photo(photo, 64, RENDERED, find, largest=True)
    photo.paste("grey", (500, 100, 830, 430))
    photo.paste(face.resize((220, 220)), (550, 100))
    beside = align_photo(photo, 64, RENDERED, find)
    assert largest.faces == beside.faces == 2
    assert np.abs(largest.pixels.astype(int) - beside.pixels).mean() < 8
    assert align_photo(photo.crop((0, 0, 470, 500)), 64, RENDERED, find).faces == 1


def test_photos_are_files_images_or_arrays(tmp_path, monkeypatch):
    photo = astronaut()
    photo.save(tmp_path / "a.png")
    (tmp_path / "link").symlink_to(tmp_path / "a.png")
    for given in (str(tmp_path / "a.png"), tmp_path / "link", photo, photo.convert("RGBA"), np.asarray(photo)):
        np.testing.assert_array_equal(np.asarray(open_photo(given)), np.asarray(photo))
    monkeypatch.setenv("HOME", str(tmp_path))
    np.testing.assert_array_equal(np.asarray(open_photo("~/a.png")), np.asarray(photo))
    for absent in (tmp_path / "none.jpg", "~nobody/a.png"):
        with pytest.raises(InputError, match="cannot be read"):
            open_photo(absent)
    for wrong in (np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ArgumentError, match=r"photo: expected uint8 \[h, w, 3\]"):
            open_photo(wrong)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "CMYK", "P", "1", "I;16"])
@pytest.mark.parametrize("metadata", ["none", "turned", "broken"])
def test_opened_pictures_are_what_their_files_are(tmp_path, mode, metadata):
    """As greyscale of 16 bits, transparent pictures and broken metadata are."""
    exif = Image.Exif()
    exif[0x0112] = 6
    kind, options = "JPEG" if mode == "CMYK" else "PNG", {"exif": exif} if metadata == "turned" else {}
    content = encoded(scene(3, (90, 80)), kind, mode, **options)
    content = broken_exif(content, random.Random(0)) if metadata == "broken" else content
    (tmp_path / "photo").write_bytes(content)
    opened = Image.open(tmp_path / "photo")
    seen = np.asarray(open_photo(opened))
    assert np.ptp(seen) > 100
    np.testing.assert_array_equal(seen, np.asarray(open_photo(tmp_path / "photo")))
    np.testing.assert_array_equal(np.asarray(opened), np.asarray(Image.open(tmp_path / "photo")))  # as it was


def test_the_base_model_tells_how_its_photos_are_framed(pipe, sd15_base):
    assert framing_of(pipe) == "rendered"
    assert framing_of(load_pipeline(sd15_base)) == "ffhq"


@pytest.fixture
def space(layout, draw_weights) -> PCASpace:
    space = PCASpace(4, layout)
    space.mean.copy_(draw_weights(layout, 1)[0])
    space.components.copy_(draw_weights(layout, 4, seed=4))
    return space


@pytest.fixture
def photos(face):
    return [align_photo(picture, 32, None, None) for picture in (face, np.ascontiguousarray(face[:, ::-1]))]


def test_one_photo_is_inverted_as_the_stage_does(pipe, space, photos, normal):
    """The calls of stages/invert.py, on one person."""
    options = SearchOptions(InvertParams(steps=3), seed=2)
    encoder = PhotoEncoder(0.1 * normal(64, 4), normal(4), torch.tensor([0.2, 0.4, 0.8, 1.0]))
    found = invert_photos(pipe, space, encoder, photos[:1], options)
    latents = encode_images(pipe, torch.tensor(photos[0].pixels)[None])
    text = encode_prompts(pipe, ["a photo of sks person"])
    z, _ = invert(pipe, space, encoder(latents), EncodedPhotos(latents[:, None], text[:, None]), options)
    assert torch.equal(found.z, z[0])
    assert torch.equal(found.guess, encoder(latents).mean[0])
    assert found.losses.shape == (2,) and found.losses[0] != found.losses[1]


def test_the_search_lowers_the_loss_that_is_told(pipe, space, photos):
    found = invert_photos(pipe, space, None, photos[:1], SearchOptions(InvertParams(steps=40, lr=0.3, prior_weight=0)))
    assert not found.guess.any()
    assert found.losses[1] < found.losses[0]


def test_several_photos_start_at_the_mean_of_their_guesses(pipe, space, photos, normal):
    encoder = PhotoEncoder(0.1 * normal(64, 4), normal(4), torch.ones(4))
    options = SearchOptions(InvertParams(steps=2))
    apart = [invert_photos(pipe, space, encoder, [photo], options) for photo in photos]
    together = invert_photos(pipe, space, encoder, photos, options)
    torch.testing.assert_close(together.guess, (apart[0].guess + apart[1].guess) / 2)
    latents = encode_images(pipe, torch.from_numpy(np.stack([photo.pixels for photo in photos])))
    text = encode_prompts(pipe, ["a photo of sks person"]).expand(1, 2, -1, -1)
    z, _ = invert(
        pipe, space, LatentPrior(together.guess[None], torch.ones(4)), EncodedPhotos(latents[None], text), options
    )
    torch.testing.assert_close(together.z, z[0])
    assert (together.z - apart[0].z).abs().max() > 1e-3


def test_only_the_face_counts_if_the_settings_say_so(pipe, space, photos, find):
    options = SearchOptions(InvertParams(steps=3, mask="face", region=(0.0, 0.0, 1.0, 1.0)))
    masked = invert_photos(pipe, space, None, photos[:1], options, find)
    whole = invert_photos(pipe, space, uninformed(64, 4), photos[:1], options, lambda _: [])
    assert (masked.z - whole.z).abs().max() > 1e-3


def test_a_picture_from_outside_is_inverted_as_it_is_restored(pipe, space, photos, normal):
    """As stages/outside.py does."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        restorer = Restorer(4, 4).requires_grad_(False).eval()
    encoder, options = PhotoEncoder(0.1 * normal(64, 4), normal(4), torch.ones(4)), SearchOptions(InvertParams(steps=3))
    found = invert_photos(pipe, space, encoder, photos[:1], options, restorer=restorer)
    picture = torch.tensor(photos[0].pixels)[None]
    restored = restorer.restore(picture, encode_images(pipe, picture))
    text = encode_prompts(pipe, ["a photo of sks person"])[:, None]
    seen = EncodedPhotos(restored.latents[:, None], text, restored.confidence.square()[:, None])
    z, _ = invert(pipe, space, encoder(restored.latents), seen, options)
    torch.testing.assert_close(found.z, z[0])
    assert torch.equal(found.guess, encoder(restored.latents).mean[0])
    assert (found.z - invert_photos(pipe, space, encoder, photos[:1], options).z).abs().max() > 1e-3
