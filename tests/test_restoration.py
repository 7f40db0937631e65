"""A restorer says what a photo would show, and where it cannot know."""

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal

from w2wpp.files.errors import InputError
from w2wpp.files.storage import write_pack
from w2wpp.inversion.restoration import Restorer, load_restorer, save_restorer, train_restorer, unexplained

SIDE = 4  # of latents


def photos_of(latents: torch.Tensor) -> torch.Tensor:
    """Photos uint8 [n, 32, 32, 3] of latents [n, 3, 4, 4] in [-1, 1]: each is the colour of a square of 8x8 pixels."""
    large = latents.repeat_interleave(8, 2).repeat_interleave(8, 3)
    return ((large + 1) * 127.5).round().byte().movedim(1, 3)


def covered(photos: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """With the lower half of them covered."""
    return torch.cat([photos[:, :16], torch.full_like(photos[:, 16:], 128)], 1)


@pytest.fixture(scope="module")
def latents() -> torch.Tensor:
    return torch.rand(600, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def restorer(latents) -> Restorer:
    return train_restorer(photos_of(latents[:500]), latents[:500], covered, 250, 0)


def own_latents(pictures: torch.Tensor) -> torch.Tensor:
    """The latents that `photos_of` would make these pictures from."""
    return F.avg_pool2d(pictures.movedim(3, 1) / 127.5 - 1, 8)


@pytest.fixture(scope="module")
def seen(latents) -> torch.Tensor:
    """Latents of people whom the restorer has not seen."""
    return latents[500:]


def test_it_is_sure_of_what_is_visible_alone(restorer, seen):
    pictures = covered(photos_of(seen), torch.Generator())
    found = restorer.restore(pictures, own_latents(pictures))
    assert found.latents.shape == found.confidence.shape == seen.shape
    assert found.confidence[:, :, :2].mean() > 0.85
    assert found.confidence[:, :, 2:].mean() < 0.4
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1
    torch.testing.assert_close(found.mask, found.confidence[:, None] ** 2)
    error = (found.latents - seen).square()
    assert error[:, :, :2].mean() < 0.05 * seen.var()
    # Of what is hidden nothing is known, so that the best guess is the mean.
    assert found.latents[:, :, 2:].square().mean() < 0.2 * seen.var()


def test_what_a_picture_shows_as_expected_is_its_own(restorer, seen):
    """Latents that differ from the expected by little are kept, others are not; oracle: two normal densities."""
    pictures = covered(photos_of(seen), torch.Generator())
    mean, log_variance = restorer(pictures.movedim(3, 1) / 127.5 - 1)
    variance = log_variance.exp().clamp(1e-3, 1)
    for off in (0.05, 3.0):
        shown = restorer.mean + restorer.std * (mean + off)
        densities = [Normal(mean, each.sqrt()).log_prob(mean + off).exp() for each in (variance, variance + 1)]
        share = densities[0] / (densities[0] + densities[1]) * (1 - variance)
        moved = (restorer.restore(pictures, shown).latents - restorer.mean) / restorer.std - mean
        torch.testing.assert_close(moved, share * off, atol=1e-3, rtol=1e-3)


def test_the_share_that_is_not_explained(restorer, seen):
    photos = photos_of(seen)
    pictures = covered(photos, torch.Generator())
    assert unexplained(restorer, pictures, own_latents(pictures), seen) == pytest.approx(0.5, abs=0.1)
    nothing = torch.full_like(photos, 128)
    assert unexplained(restorer, nothing, own_latents(nothing), seen) > 0.9


def test_round_trip(restorer, seen, tmp_path):
    save_restorer(tmp_path / "restorer.safetensors", restorer)
    again = load_restorer(tmp_path / "restorer.safetensors")
    photos = photos_of(seen)
    assert torch.equal(again.restore(photos, seen).latents, restorer.restore(photos, seen).latents)
    write_pack(tmp_path / "other.safetensors", {"mean": seen[0], "std": seen[1]}, {"channels": 3, "side": 4})
    with pytest.raises(InputError, match=r"other\.safetensors: .*not a restorer"):
        load_restorer(tmp_path / "other.safetensors")
