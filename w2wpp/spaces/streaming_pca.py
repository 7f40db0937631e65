"""Principal component analysis of weight vectors that do not fit in memory (w2w at full size)."""

from collections.abc import Iterator

import torch
from torch import Tensor

from w2wpp.lora.shards import Shards
from w2wpp.lora.statistics import blocks_with_progress, refuse_infinite
from w2wpp.spaces.affine import PCASpace
from w2wpp.spaces.base import check_latent_dim

_COLUMNS = 1024


def fit_streaming_pca(
    shards: Shards,
    mean: Tensor,
    std: Tensor,
    latent_dim: int,
    seed: int,
    *,
    oversampling: int = 32,
    power_iterations: int = 4,
    block_rows: int = 512,
    device: torch.device | str = "cpu",
) -> tuple[PCASpace, Tensor]:
    """The result of `fit_pca`, the space and shares [k], for n streamed vectors in d dimensions.

    Randomised subspace iteration (Halko, Martinsson and Tropp 2011, arXiv 0909.4061, algorithms 4.4 and 5.1), with the
    z-scored data A [n, d] read anew in each pass. Its sketch has l = min(latent_dim + oversampling, n, d) vectors and
    lies on the smaller side of A: it spans the range of A where n < d, that of A^T otherwise. It is orthonormalised by
    Householder QR after each product with A, A^T or A^T A. The data are read 2 power_iterations + 2 times if n < d, and
    power_iterations + 2 times otherwise. Products take 4 (power_iterations + 1) n d l floating-point operations.

    Memory, in bytes: 4 block_rows d for a block, beside its rows as stored and 12 block_rows l for their products, and
    4 l (d + min(n, d)) + 8 l^2 for two sketches; after the last pass 4 l d + 36 l^2. For n = 64,974 rows of float16
    with d = 99,648, k = 10,000 takes 7.3 GiB and k = 1,000 takes 1.0 GiB.

    Args:
        shards: the rows.
        mean, std: float32 [d] of these rows, as `standardise_shards` returns them.
        latent_dim: k.
        seed: of the random test vectors; equal seeds give equal spaces, whatever the division into packs.
        oversampling: sketch vectors beyond k; more of them make the last components more accurate.
        power_iterations: 0 or more. They capture more variance where the spectrum falls slowly, and separate components
            of similar variance. With 2 or 3, the captured variance is mostly within 1 % of the maximum for k.
        block_rows: rows in memory at a time.
        device: of the matrix products; the result is on the CPU.

    Returns:
        The space of float32 components, whose largest entries are positive, and float32 shares in [0, 1].

    Raises:
        InputError: latent_dim is not in 1 .. min(n - 1, d), or naming the first row that is not finite.
    """
    n, d = len(shards), shards.dimension
    check_latent_dim(None, latent_dim, n, d)
    rows = _ZScores(shards, mean, std, block_rows, device)
    size = min(latent_dim + oversampling, n, d)
    sketch = _sketch_rows if n < d else _sketch_columns
    basis, gram = sketch(rows, size, power_iterations, torch.Generator().manual_seed(seed))

    squares, rotation = torch.linalg.eigh(gram)
    squares = squares.flip(0)[:latent_dim].clamp_min(0).cpu()
    rotation = rotation[:, -latent_dim:].float().flip(1).T
    for start in range(0, d, _COLUMNS):
        part = slice(start, start + _COLUMNS)
        basis[:latent_dim, part] = rotation @ basis[:, part]
    components = basis[:latent_dim]
    for component in components:
        component *= component[component.abs().argmax()].sign()

    # On the meta device the space allocates nothing; its components are then assigned without a copy.
    with torch.device("meta"):
        space = PCASpace(latent_dim, shards.layout)
    scales = (squares / (n - 1)).sqrt().clamp_min(1e-6).float()
    space.load_state_dict(
        {"mean": mean.float().clone(), "std": std.float().clone(), "components": components.cpu(), "scales": scales},
        assign=True,
    )
    space.hold_donors(0)
    return space, (squares / rows.squares).float()


class _ZScores:
    """The z-scored rows, read and standardised again in every pass.

    Attributes:
        squares: sum of all squared z-scores, known after the first pass.
    """

    def __init__(self, shards: Shards, mean: Tensor, std: Tensor, block_rows: int, device: torch.device | str):
        self.shards, self.block_rows, self.device = shards, block_rows, torch.device(device)
        self.mean, self.factor = mean.float().to(device), std.float().reciprocal().to(device)
        self.buffer = torch.empty(min(block_rows, len(shards)), shards.dimension, device=device)
        self.squares = 0.0

    def blocks(self, label: str, first: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """One pass: (where these rows are among the n, float32 [block, d] until the next block).

        Raises:
            InputError: naming the first row that is not finite, in the first pass.
        """
        start = 0
        for raw in blocks_with_progress(self.shards, self.block_rows, label):
            block = self.buffer[: len(raw)].copy_(raw.to(self.device)).sub_(self.mean).mul_(self.factor)
            if first:
                norms = torch.linalg.vector_norm(block, dim=1)
                if not torch.isfinite(norms).all():
                    refuse_infinite(self.shards, start, raw)
                self.squares += norms.double().square().sum().item()
            yield slice(start, start + len(raw)), block
            start += len(raw)


def _sketch_rows(data: _ZScores, size: int, power_iterations: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Orthonormal rows [l, d] and the float64 matrix [l, l] that is A^T A on their span; for n < d."""
    right = torch.randn(size, data.shards.dimension, generator=generator).to(data.device)
    left = torch.empty(size, len(data.shards), device=data.device)
    for iteration in range(power_iterations + 1):
        for rows, block in data.blocks(f"range, {iteration + 1} of {power_iterations + 1}", first=iteration == 0):
            torch.mm(right, block.T, out=left[:, rows])
        _orthonormalise(left)
        right.zero_()
        for rows, block in data.blocks(f"projection, {iteration + 1} of {power_iterations + 1}"):
            right.addmm_(left[:, rows], block)
        factor = _orthonormalise(right)
    del left
    factor = factor.double()
    return right, factor @ factor.T


def _sketch_columns(
    data: _ZScores, size: int, power_iterations: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """As `_sketch_rows`, for n >= d."""
    basis = torch.zeros(size, data.shards.dimension, device=data.device)
    for _, block in data.blocks("range", first=True):
        # One draw per row: a draw of several rows at once would depend on the number of rows in a block.
        noise = torch.stack([torch.randn(size, generator=generator) for _ in block]).to(data.device)
        basis.addmm_(noise.T, block)
    _orthonormalise(basis)
    for iteration in range(power_iterations):
        product = torch.zeros_like(basis)
        for _, block in data.blocks(f"power iteration {iteration + 1} of {power_iterations}"):
            product.addmm_((block @ basis.T).T, block)
        basis = product
        _orthonormalise(basis)
    gram = torch.zeros(size, size, dtype=torch.float64, device=data.device)
    for _, block in data.blocks("projection"):
        scores = (block @ basis.T).double()
        gram.addmm_(scores.T, scores)
    return basis, gram


def _orthonormalise(rows: Tensor) -> Tensor:
    """Turn rows [l, m], l <= m, into an orthonormal basis of their span in place; returns R [l, l] of rows^T = Q R."""
    # The transpose already has LAPACK's memory order, so the QR decomposition needs no copy.
    columns, scales = rows.T, rows.new_empty(len(rows))
    torch.geqrf(columns, out=(columns, scales))
    factor = columns[: len(rows)].triu()
    torch.linalg.householder_product(columns, scales, out=columns)
    return factor
