"""PCA and VAE spaces: decoding, their relation, and saving to files."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from w2wpp.files.errors import ArgumentError, InputError
from w2wpp.files.storage import read_pack, write_pack
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.statistics import standardise
from w2wpp.spaces.affine import LinearSpace, PCASpace
from w2wpp.spaces.base import SMOOTHING, WeightSpace, check_latent_dim
from w2wpp.spaces.pca import fit_pca
from w2wpp.spaces.prior import Kernels
from w2wpp.spaces.registry import load_space
from w2wpp.spaces.vae_space import VAESpace
from w2wpp.spaces.vae_training import VAEParams

FEW, MANY = 12, 80  # fewer and more people than the 30 weights


def people(n: int, seed: int = 0) -> torch.Tensor:
    """Weight vectors [n, 30] whose coordinates have different means and scales and depend on each other."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(30, 30, generator=generator) * torch.linspace(2, 0.1, 30)[:, None]
    return torch.randn(n, 30, generator=generator) @ mixing * torch.linspace(0.01, 1, 30) + torch.linspace(-1, 1, 30)


def fit(weights: torch.Tensor, latent_dim: int, layout: WeightLayout) -> PCASpace:
    return fit_pca(weights, *standardise(weights), latent_dim, layout, seed=0)[0]


@pytest.fixture(params=[FEW, MANY])
def weights(request) -> torch.Tensor:
    return people(request.param)


@pytest.fixture
def full(weights, toy_layout) -> PCASpace:
    return fit(weights, min(len(weights) - 1, 30), toy_layout)


def randomised(space: LinearSpace, normal) -> LinearSpace:
    for name, tensor in space.named_buffers():
        tensor.copy_(normal(*tensor.shape).abs() + 0.1 if name == "scales" else normal(*tensor.shape))
    return space


@pytest.fixture(params=["pca", "linear", "vae of pca", "vae of linear"])
def space(request, toy_layout, normal) -> WeightSpace:
    """A space of 5 dimensions with nothing left at zero."""
    pca = fit(people(FEW), 11, toy_layout)
    if request.param == "pca":
        return pca.truncated(5)
    if request.param == "linear":
        return randomised(LinearSpace(5, toy_layout), normal)
    kind = request.param.removeprefix("vae of ")
    space = VAESpace(5, toy_layout, kind, basis=11, width=16, layers=2)
    basis = pca if kind == "pca" else randomised(LinearSpace(11, toy_layout), normal)
    space.basis.load_state_dict(basis.state_dict())
    with torch.no_grad():
        for parameter in space.parameters():
            parameter.add_(0.3 * normal(*parameter.shape))
    space.latent_mean.copy_(normal(5))
    space.latent_std.copy_(normal(5).abs() + 0.5)
    return space.requires_grad_(False).eval()


def test_standardise_leaves_constant_coordinates_alone():
    weights = people(FEW)
    weights[:, 3] = 0.7
    mean, std = standardise(weights)
    np.testing.assert_allclose(mean, weights.numpy().mean(0), rtol=1e-5, atol=1e-6)
    expected = weights.numpy().std(0, ddof=1)
    expected[3] = 1
    np.testing.assert_allclose(std, expected, rtol=1e-4)


def test_pca_encode_undoes_decode(full, normal):
    z = normal(20, full.latent_dim)
    torch.testing.assert_close(full.encode(full.decode(z)), z, atol=2e-3, rtol=0)


def test_pca_with_all_components_reproduces_the_data(full, weights):
    torch.testing.assert_close(full.decode(full.encode(weights)), weights, atol=1e-4, rtol=1e-4)


def test_pca_latents_are_white(full, weights):
    z = full.encode(weights)
    torch.testing.assert_close(z.mean(0), torch.zeros(full.latent_dim), atol=1e-3, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), torch.eye(full.latent_dim), atol=2e-3, rtol=0)


def test_pca_agrees_with_the_singular_value_decomposition(weights, toy_layout):
    mean, std = standardise(weights)
    space, shares = fit_pca(weights, mean, std, 4, toy_layout, seed=0)
    scores = ((weights - mean) / std).double().numpy()
    _, singular, vectors = np.linalg.svd(scores, full_matrices=False)
    components = space.components.double().numpy()
    np.testing.assert_allclose(components.T @ components, vectors[:4].T @ vectors[:4], atol=1e-4)
    np.testing.assert_allclose(space.scales, singular[:4] / np.sqrt(len(weights) - 1), rtol=1e-4)
    np.testing.assert_allclose(shares, singular[:4] ** 2 / (singular**2).sum(), rtol=1e-4)


def test_pca_signs_are_fixed(weights, full, toy_layout):
    largest = full.components.gather(1, full.components.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()
    reordered = fit(weights.flip(0), 4, toy_layout)
    torch.testing.assert_close(reordered.components, full.components[:4], atol=1e-3, rtol=0)
    assert torch.equal(fit(weights, 4, toy_layout).components, fit(weights, 4, toy_layout).components)


def test_pca_of_too_few_distinct_people_stays_finite(toy_layout):
    weights = people(4).repeat(3, 1)
    space = fit(weights, 11, toy_layout)
    assert torch.isfinite(space.encode(weights)).all()
    torch.testing.assert_close(space.decode(space.encode(weights)), weights, atol=1e-3, rtol=1e-3)


def test_truncated_pca_is_the_smaller_pca(weights, full, toy_layout, normal):
    smaller, z = fit(weights, 4, toy_layout), normal(6, 4)
    torch.testing.assert_close(full.truncated(4).decode(z), smaller.decode(z), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("latent_dim", [1, 4, 11])
def test_untrained_vae_is_pca(toy_layout, normal, latent_dim):
    weights = people(FEW)
    pca = fit(weights, latent_dim, toy_layout)
    vae = VAESpace(latent_dim, toy_layout, "pca", basis=11, width=16, layers=2)
    vae.basis.load_state_dict(fit(weights, 11, toy_layout).state_dict())
    z, others = normal(6, latent_dim), people(7, seed=3)
    torch.testing.assert_close(vae.decode(z), pca.decode(z), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vae.encode(others), pca.encode(others), atol=1e-3, rtol=1e-3)


def test_perceptrons_see_coordinates_times_the_root_of_their_scales(toy_layout, normal):
    vae = VAESpace(3, toy_layout, "pca", basis=6, width=16, layers=1)
    vae.basis.scales.copy_(torch.tensor([9.0, 4.0, 4.0, 1.0, 1.0, 0.0]))
    vae.encoder, vae.decoder = torch.nn.Identity(), torch.nn.ZeroPad1d((0, 3))
    coordinates, root = normal(5, 6), torch.tensor([1, 2 / 3, 2 / 3, 1 / 3, 1 / 3, 0])
    mean, log_variance = vae.posterior(coordinates)
    torch.testing.assert_close(mean, (coordinates * (1 + root))[:, :3])
    torch.testing.assert_close(log_variance, (coordinates * root)[:, 3:])
    z = coordinates[:, :3]
    torch.testing.assert_close(vae.decode_coordinates(z)[:, :3], z * (1 + root[:3]))


@pytest.mark.parametrize("space", ["vae of pca", "vae of linear"], indirect=True)
def test_standardised_latents_have_mean_0_and_variance_1_and_decode_as_before(space, normal):
    coordinates = 2 * normal(600, 11) + 1
    latents, log_variance = space.posterior(coordinates)
    decoded, steps = space.decode_coordinates(latents), space.scales / space.latent_std
    for _ in range(2):  # the second time there is nothing left to do
        space.standardise(coordinates.split(250))
        again, again_log_variance = space.posterior(coordinates)
        torch.testing.assert_close(again.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
        torch.testing.assert_close(again.std(0), torch.ones(5), atol=1e-4, rtol=0)
        torch.testing.assert_close(again, (latents - latents.mean(0)) / latents.std(0), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(again_log_variance, log_variance - 2 * latents.std(0).log(), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(space.decode_coordinates(again), decoded, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(space.scales, steps * space.latent_std)


def test_file_round_trip(space, tmp_path, normal):
    for number in range(4):
        space.save(tmp_path / str(number))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1
    again = load_space(tmp_path / "0")
    assert (again.kind, again.latent_dim, again.layout, again.config()) == (space.kind, 5, space.layout, space.config())
    assert not again.training
    assert not any(parameter.requires_grad for parameter in again.parameters())
    z, weights = normal(3, 5), people(3)
    assert torch.equal(again.decode(z), space.decode(z))
    assert torch.equal(again.encode(weights), space.encode(weights))
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "0").read_bytes()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda tensors, meta: (tensors, meta | {"kind": "umap"}), "kind"),
        (lambda tensors, meta: (tensors, {}), "kind"),
        (lambda tensors, meta: (tensors, {k: v for k, v in meta.items() if k != "layout"}), "layout"),
        (lambda tensors, meta: (tensors, meta | {"layout": meta["layout"] | {"rank": 1}}), "layout"),
        (lambda tensors, meta: (tensors, meta | {"config": meta["config"] | {"latent_dim": 6}}), "config"),
        (lambda tensors, meta: (tensors, meta | {"config": {}}), "config"),
        (lambda tensors, meta: (tensors, {k: v for k, v in meta.items() if k != "config"}), "config"),
        (lambda tensors, meta: (dict(list(tensors.items())[1:]), meta), "config"),
        (lambda tensors, meta: (tensors | {"extra": torch.zeros(1)}, meta), "config"),
    ],
)
def test_mismatched_file_is_refused(space, tmp_path, change, key):
    space.save(tmp_path / "space")
    write_pack(tmp_path / "space", *change(*read_pack(tmp_path / "space")))
    with pytest.raises(InputError) as caught:
        load_space(tmp_path / "space")
    assert (caught.value.where, caught.value.key) == (str(tmp_path / "space"), key)


def test_corrupt_or_missing_file_is_refused(space, tmp_path):
    space.save(tmp_path / "space")
    (tmp_path / "space").write_bytes((tmp_path / "space").read_bytes()[:-5])
    with pytest.raises(InputError, match="not a readable"):
        load_space(tmp_path / "space")
    with pytest.raises(InputError, match="no such file"):
        load_space(tmp_path / "absent")


@given(st.integers(2, 40), st.integers(1, 40), st.integers(-3, 60))
def test_latent_dim_is_checked(number, dimension, latent_dim):
    limit = min(number - 1, dimension)
    if 1 <= latent_dim <= limit:
        check_latent_dim(VAEParams, latent_dim, number, dimension)
        return
    with pytest.raises(ArgumentError) as caught:
        check_latent_dim(VAEParams, latent_dim, number, dimension)
    assert (caught.value.owner, caught.value.key) == (VAEParams, "latent_dim")
    assert f"1 .. {limit}:" in caught.value.remedy


def test_decode_is_differentiable(space, normal):
    space = space.double()
    z = normal(2, 5).double().requires_grad_()
    assert torch.autograd.gradcheck(space.decode, (z,))
    space.decode(z).square().sum().backward()
    assert (z.grad.abs() > 0).all()


@given(st.integers(1, 9), st.integers(1, 5), st.integers(0, 2**31), st.floats(0, 30))
def test_log_prior_is_the_standard_normal(latent_dim, n, seed, spread):
    space = PCASpace(latent_dim, WeightLayout((Adapted("x", 1, 1),), 1, 1.0))
    z = spread * space.prior.sample(n, torch.Generator().manual_seed(seed))
    expected = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(space.prior.log_prob(z), expected, atol=1e-3, rtol=1e-4)


def test_sample_is_repeatable_and_standard_normal(space):
    z = space.prior.sample(4000, torch.Generator().manual_seed(0))
    assert z.shape == (4000, 5)
    assert torch.equal(z, space.prior.sample(4000, torch.Generator().manual_seed(0)))
    assert not torch.equal(z, space.prior.sample(4000, torch.Generator().manual_seed(1)))
    assert z.mean(0).abs().max() < 0.07
    torch.testing.assert_close(torch.cov(z.T), torch.eye(5), atol=0.1, rtol=0)


def test_completed_people_have_what_the_space_leaves_out_of_the_nearest_donor(space, normal):
    z, donors = normal(6, 5), people(20, seed=7)
    assert torch.equal(space.complete(z), space.decode(z))
    space.keep_donors(donors)
    latents = space.encode(donors)
    distance = ((z[:, None] - latents) * space.scales).square().sum(2).sqrt()
    left_out = donors - space.decode(latents)
    half = 1e-3 * left_out.abs().max().item()  # what is left out is kept in half precision
    torch.testing.assert_close(space.complete(z), space.decode(z) + left_out[distance.argmin(1)], atol=half, rtol=0)
    # At a donor's own point, it is the donor.
    torch.testing.assert_close(space.complete(latents), donors, atol=half, rtol=0)
    assert left_out.abs().max() > 0.1


def test_samples_are_drawn_around_donors_and_completed(space, normal):
    def draw(*how):
        return space.sample(3, torch.Generator().manual_seed(1), *how)

    z, weights = draw()
    assert torch.equal(z, space.prior.sample(3, torch.Generator().manual_seed(1)))
    assert torch.equal(weights, space.decode(z))
    space.keep_donors(people(20, seed=7))
    z, weights = draw(1e-9)
    assert torch.cdist(z, space.donor_latents).amin(1).max() < 1e-2
    assert torch.equal(weights, space.complete(z))
    assert torch.equal(draw()[0], Kernels(space.donor_latents, SMOOTHING).sample(3, torch.Generator().manual_seed(1)))


def test_kernels_are_a_mixture_of_gaussians_with_the_variance_of_their_centres(normal):
    centres = normal(40, 3)
    centres = (centres - centres.mean(0)) / centres.std(0, correction=0)
    kernels = Kernels(centres, 0.3)
    components = torch.distributions.Independent(torch.distributions.Normal(0.7**0.5 * centres, 0.3**0.5), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(torch.ones(40)), components)
    z = kernels.sample(20000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(kernels.log_prob(z[:50]), mixture.log_prob(z[:50]), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(z.mean(0), torch.zeros(3), atol=0.03, rtol=0)
    torch.testing.assert_close(z.var(0), torch.ones(3), atol=0.03, rtol=0)
    normally = torch.distributions.Normal(0, 1).log_prob(z).sum(1)
    torch.testing.assert_close(Kernels(centres, 1.0).log_prob(z), normally, atol=1e-3, rtol=1e-4)


def test_donors_are_kept_in_the_file(space, tmp_path, normal):
    space.save(tmp_path / "without")
    assert len(load_space(tmp_path / "without").donor_latents) == 0
    space.keep_donors(people(7, seed=7))
    space.save(tmp_path / "with")
    again, z = load_space(tmp_path / "with"), normal(3, 5)
    assert torch.equal(again.complete(z), space.complete(z)) and torch.equal(again.decode(z), space.decode(z))
    again.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "with").read_bytes()
    tensors, meta = read_pack(tmp_path / "with")
    del tensors["donor_residuals"]
    write_pack(tmp_path / "half", tensors, meta)
    with pytest.raises(InputError, match="config"):
        load_space(tmp_path / "half")
