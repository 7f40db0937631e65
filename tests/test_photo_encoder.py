"""The photo encoder learns what photos determine of z, and nothing from photos that are unrelated to z."""

import pytest
import torch

from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_pack
from w2wpp.inversion.photo_encoder import PhotoEncoder, fit_photo_encoder, uninformed


@pytest.fixture
def world(normal):
    """Photos [200, 3, 2, 4, 4] and z [200, 3]: they show the first direction, half of the second, not the last."""
    z = normal(200, 3)
    shown = torch.stack([z[:, 0], z[:, 1] + normal(200), normal(200)], 1)
    directions = torch.linalg.qr(normal(32, 3)).Q.T
    photos = 5 + 2 * (shown @ directions)[:, None] + 0.05 * normal(200, 3, 32)
    return photos.unflatten(2, (2, 4, 4)), z


def test_it_guesses_people_it_has_not_seen(world):
    photos, z = world
    encoder = fit_photo_encoder(photos[:150], z[:150], 1e-3)
    guess, spread = encoder(photos[150:, 0])
    assert guess.shape == (50, 3)
    assert guess.dtype == spread.dtype == torch.float32
    error = (guess - z[150:]).square().mean(0) / z[150:].square().mean(0)
    assert error[0] < 0.1
    assert 0.25 < error[1] < 0.75
    assert 0.9 < error[2] < 1.2
    assert spread[0] == pytest.approx(0.05**0.5)  # never less, so that the search can move
    assert spread[1].item() == pytest.approx(0.5**0.5, abs=0.15)
    assert 0.9 < spread[2] <= 1


def test_where_photos_tell_nothing_it_guesses_the_mean(normal):
    encoder = fit_photo_encoder(normal(40, 2, 1, 4, 4), normal(40, 5), 1e-4)
    guess, spread = encoder(normal(100, 1, 4, 4))
    assert guess.abs().mean() < 0.25
    assert (spread > 0.7).all()


def test_photos_of_one_person_are_never_in_both_halves(normal):
    """Photos that identify people but do not determine z: an encoder tested on known people would trust them."""
    photos, z = normal(60, 1, 1, 8, 8).expand(-1, 6, -1, -1, -1).contiguous(), normal(60, 4)
    encoder = fit_photo_encoder(photos, z, 1e-5)
    assert (encoder.spread > 0.8).all()


def test_round_trip(world, tmp_path):
    encoder = fit_photo_encoder(*world, 0.1)
    encoder.save(tmp_path / "pca.safetensors")
    again = PhotoEncoder.load(tmp_path / "pca.safetensors")
    photo = world[0][:, 1]
    assert all(torch.equal(one, other) for one, other in zip(encoder(photo), again(photo), strict=True))
    with pytest.raises(InputError, match=r"vae\.safetensors"):
        PhotoEncoder.load(tmp_path / "vae.safetensors")
    write_pack(tmp_path / "space.safetensors", {"offset": photo})
    with pytest.raises(InputError, match=r"space\.safetensors: matrix: no such tensor"):
        PhotoEncoder.load(tmp_path / "space.safetensors")


def test_uninformed(normal):
    guess, spread = uninformed(32, 7)(normal(3, 2, 4, 4))
    assert torch.equal(guess, torch.zeros(3, 7))
    assert torch.equal(spread, torch.ones(7))


def test_constant_numbers_of_latents_do_no_harm(world):
    photos, z = world
    photos = photos.clone()
    photos[:, :, 0, 0, 0] = 3.0
    encoder = fit_photo_encoder(photos, z, 0.1)
    assert encoder.matrix.isfinite().all()
