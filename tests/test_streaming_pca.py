"""PCA of streamed shards equals PCA of the same rows in memory, within the documented memory."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from w2wpp.files.errors import InputError
from w2wpp.lora.layout import Adapted, WeightLayout
from w2wpp.lora.shards import Shards, write_shards
from w2wpp.lora.statistics import standardise, standardise_shards
from w2wpp.spaces.pca import fit_pca
from w2wpp.spaces.registry import load_space
from w2wpp.spaces.streaming_pca import fit_streaming_pca

LEADING, LATENT = 5, 12
WIDE, TALL = (150, 400), (400, 150)  # fewer and more rows than numbers in them


def layout_of(dimension: int) -> WeightLayout:
    return WeightLayout((Adapted("mid_block.attn1.to_q", dimension - 1, 1),), 1, 1.0)


def rows_of(n: int, d: int, dtype: torch.dtype = torch.float16) -> torch.Tensor:
    """Rows [n, d] of LEADING strong directions, clearly apart, over a slowly decaying rest, offset and scaled."""
    generator = torch.Generator().manual_seed(3)
    spectrum = torch.cat([torch.tensor([30.0, 22, 16, 12, 9]), 3 / torch.arange(1, 101).sqrt()])[:d]
    mixing = torch.linalg.qr(torch.randn(d, len(spectrum), generator=generator))[0] * spectrum
    rows = torch.randn(n, len(spectrum), generator=generator) @ mixing.T
    return (rows * torch.linspace(0.5, 1.5, d) + torch.linspace(-3, 3, d)).to(dtype)


def shards_of(rows: torch.Tensor, folder, rows_per_shard: int = 64) -> Shards:
    return write_shards(folder, [rows], layout_of(rows.shape[1]), rows_per_shard)


def fit(shards: Shards, latent_dim: int = LATENT, **settings):
    return fit_streaming_pca(shards, *standardise_shards(shards), latent_dim, seed=0, **settings)


def angle(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Largest principal angle, in radians, between the spans of orthonormal rows."""
    ours, theirs = ours.double(), theirs.double()
    outside = ours - ours @ theirs.T @ theirs
    return torch.linalg.matrix_norm(outside, 2).clamp_max(1).arcsin().item()


@pytest.fixture(params=[WIDE, TALL], ids=["wide", "tall"])
def shape(request):
    return request.param


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("block_rows", [1, 37, 1000])
def test_statistics_are_those_in_memory(tmp_path, dtype, block_rows):
    rows = rows_of(*WIDE, dtype)
    rows[:, 7] = 0.7
    rows[:, 9] += 30
    mean, std = standardise_shards(shards_of(rows, tmp_path / "shards"), block_rows)
    assert mean.dtype == std.dtype == torch.float32
    np.testing.assert_allclose(mean, rows.double().mean(0), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(std[np.arange(len(std)) != 7], rows.double().std(0)[np.arange(len(std)) != 7], rtol=1e-6)
    assert std[7] == 1
    torch.testing.assert_close((mean, std), standardise(rows), rtol=1e-4, atol=1e-5)


def test_statistics_survive_a_large_offset(tmp_path):
    rows = 1e4 + torch.rand(300, 20, generator=torch.Generator().manual_seed(0))
    mean, std = standardise_shards(shards_of(rows, tmp_path / "shards"), 7)
    np.testing.assert_allclose(mean, rows.double().mean(0), rtol=1e-7)
    np.testing.assert_allclose(std, rows.double().std(0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_agrees_with_exact_pca(tmp_path, shape, dtype):
    rows = rows_of(*shape, dtype)
    exact, exact_shares = fit_pca(rows, *standardise(rows), LATENT, layout_of(shape[1]), seed=0)
    space, shares = fit(shards_of(rows, tmp_path / "shards"), power_iterations=4, block_rows=61)
    assert (space.kind, space.latent_dim, space.layout) == ("pca", LATENT, exact.layout)
    for name, tensor in exact.state_dict().items():
        ours = space.state_dict()[name]
        assert (ours.dtype, ours.shape, ours.is_contiguous()) == (tensor.dtype, tensor.shape, True)
    assert shares.dtype == exact_shares.dtype
    torch.testing.assert_close(shares, exact_shares, rtol=1e-3, atol=0)
    torch.testing.assert_close(space.scales, exact.scales, rtol=5e-4, atol=0)
    for component in range(LEADING):
        assert angle(space.components[[component]], exact.components[[component]]) < 1e-3
    assert angle(space.components[:LEADING], exact.components[:LEADING]) < 1e-3
    torch.testing.assert_close(space.components[:LEADING], exact.components[:LEADING], rtol=0, atol=1e-3)
    torch.testing.assert_close(space.components @ space.components.T, torch.eye(LATENT), rtol=0, atol=1e-5)


def test_default_settings_suffice(tmp_path, shape):
    rows = rows_of(*shape)
    exact, exact_shares = fit_pca(rows, *standardise(rows), LATENT, layout_of(shape[1]), seed=0)
    space, shares = fit(shards_of(rows, tmp_path / "shards"))
    torch.testing.assert_close(shares, exact_shares, rtol=1e-3, atol=0)
    assert angle(space.components[:LEADING], exact.components[:LEADING]) < 1e-3


def test_all_components_reproduce_the_rows(tmp_path, shape):
    rows = rows_of(*shape)
    space, shares = fit(shards_of(rows, tmp_path / "shards"), min(shape[0] - 1, shape[1]), power_iterations=0)
    assert shares.sum().item() == pytest.approx(1, abs=1e-4)
    decoded = space.decode(space.encode(rows.float()))
    torch.testing.assert_close(decoded, rows.float(), atol=2e-3, rtol=1e-3)


def test_packing_changes_nothing_and_blocks_little(tmp_path, shape):
    rows = rows_of(*shape)
    one, many = (shards_of(rows, tmp_path / str(size), size) for size in (1000, 7))
    space, shares = fit(one, block_rows=61)
    again, again_shares = fit(many, block_rows=61)
    assert torch.equal(shares, again_shares)
    assert all(torch.equal(*pair) for pair in zip(space.buffers(), again.buffers(), strict=True))
    for block_rows in (13, shape[0], 5000):
        other, other_shares = fit(many, block_rows=block_rows)
        torch.testing.assert_close(other_shares, shares, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(other.components[:LEADING], space.components[:LEADING], rtol=0, atol=1e-4)


def test_seed_and_signs(tmp_path, shape):
    shards = shards_of(rows_of(*shape), tmp_path / "shards")
    statistics = standardise_shards(shards)
    spaces = [fit_streaming_pca(shards, *statistics, LATENT, seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(spaces[0].components, spaces[1].components)
    assert not torch.equal(spaces[0].components, spaces[2].components)
    for space in spaces:
        largest = space.components.gather(1, space.components.abs().argmax(1, keepdim=True))
        assert (largest > 0).all()
    torch.testing.assert_close(spaces[0].components[:LEADING], spaces[2].components[:LEADING], rtol=0, atol=1e-3)


def test_power_iterations_gain_variance(tmp_path, shape):
    shards = shards_of(rows_of(*shape), tmp_path / "shards")
    gained = [fit(shards, oversampling=0, power_iterations=count)[1].sum().item() for count in (0, 1, 4)]
    assert gained == sorted(gained)
    assert gained[2] > gained[0]


def test_constant_numbers_have_no_part(tmp_path, shape):
    rows = rows_of(*shape)
    rows[:, 20:30] = 0.7
    exact_shares = fit_pca(rows, *standardise(rows), LATENT, layout_of(shape[1]), seed=0)[1]
    space, shares = fit(shards_of(rows, tmp_path / "shards"))
    torch.testing.assert_close(shares, exact_shares, rtol=1e-3, atol=0)
    assert space.components[:, 20:30].abs().max() < 1e-5
    assert (space.std[20:30] == 1).all()


def test_too_few_distinct_rows_stay_finite(tmp_path, shape):
    rows = rows_of(4, shape[1], torch.float32).repeat(shape[0] // 4, 1)
    space, shares = fit(shards_of(rows, tmp_path / "shards"))
    assert shares[:3].sum().item() == pytest.approx(1, abs=1e-4)
    assert torch.isfinite(space.encode(rows)).all()
    torch.testing.assert_close(space.decode(space.encode(rows)), rows, atol=1e-2, rtol=1e-3)


def test_space_survives_a_file(tmp_path, normal):
    space, _ = fit(shards_of(rows_of(*WIDE), tmp_path / "shards"))
    space.save(tmp_path / "space.safetensors")
    assert (tmp_path / "space.safetensors").stat().st_size < 4 * (LATENT + 3) * WIDE[1]
    z = normal(3, LATENT)
    assert torch.equal(load_space(tmp_path / "space.safetensors").decode(z), space.decode(z))


def test_shards_are_left_alone(tmp_path):
    shards = shards_of(rows_of(*WIDE, torch.float32), tmp_path / "shards")
    before = [path.read_bytes() for path in shards.paths]
    fit(shards)
    assert [path.read_bytes() for path in shards.paths] == before


@pytest.mark.parametrize(("n", "d", "latent_dim", "limit"), [(20, 30, 20, 19), (40, 30, 31, 30), (20, 30, 0, 19)])
def test_unfit_latent_dim_is_refused(tmp_path, n, d, latent_dim, limit):
    shards = shards_of(rows_of(n, d), tmp_path / "shards")
    with pytest.raises(InputError, match=f"Choose 1 .. {limit}"):
        fit(shards, latent_dim)
    assert fit(shards, limit)[0].latent_dim == limit


def test_a_single_row_is_refused(tmp_path):
    with pytest.raises(InputError, match="only row"):
        standardise_shards(shards_of(rows_of(1, 30), tmp_path / "shards"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_rows_that_are_not_finite_are_refused(tmp_path, shape, value):
    rows = rows_of(*shape)
    mean, std = standardise(rows)
    rows[130, 29] = value
    shards = shards_of(rows, tmp_path / "shards")
    for work in (lambda: standardise_shards(shards, 50), lambda: fit_streaming_pca(shards, mean, std, 3, 0)):
        with pytest.raises(InputError, match="not finite") as caught:
            work()
        assert (caught.value.where, caught.value.key) == (str(shards.paths[2]), "weights[2]")


MEASURE = """
import sys
from pathlib import Path
from w2wpp.lora.shards import open_shards
from w2wpp.lora.statistics import standardise_shards
from w2wpp.spaces.streaming_pca import fit_streaming_pca
folder, latent_dim, block_rows = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
def peak(name, latent_dim):
    shards = open_shards(folder / name)
    fit_streaming_pca(shards, *standardise_shards(shards, block_rows // 4), latent_dim, 0, oversampling=8,
                      power_iterations=1, block_rows=block_rows)
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])
print(-peak("small", 8) + peak("large", latent_dim))
"""


@pytest.mark.parametrize(("n", "d"), [(2048, 9216), (6144, 6144)])
def test_memory_is_what_the_docstring_says(tmp_path, n, d):
    latent_dim, block_rows = 392, 128
    generator = torch.Generator().manual_seed(0)
    for name, rows, columns in (("small", 64, 80), ("large", n, d)):
        blocks = (torch.randn(256, columns, generator=generator).half()[:rows] for _ in range(max(1, rows // 256)))
        write_shards(tmp_path / name, blocks, layout_of(columns), 100_000)
    # With a fixed threshold, malloc returns every freed array, so the peak counts arrays in use. The matrix library has
    # one set of buffers per thread.
    grown = int(
        subprocess.run(
            [sys.executable, "-c", MEASURE, str(tmp_path), str(latent_dim), str(block_rows)],
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    )
    size = latent_dim + 8
    sketches = 4 * size * (d + min(n, d)) + 8 * size**2
    block = (4 + 2) * block_rows * d + 12 * block_rows * size
    # Less than another sketch; those buffers take most of it.
    slack = 8 * 2**20
    assert grown < block + max(sketches, 4 * size * d + 36 * size**2) + slack
    assert grown < 2 * n * d
