"""LoRAs reduced to a lower rank: canonical factors (A, B) of the best approximation of their products B A."""

import torch
from torch import Tensor

from w2wpp.lora.layout import WeightLayout

# float32 rounds products this far, so a singular value below this share of the largest says nothing.
_NOISE = torch.finfo(torch.float32).eps
# Smaller singular values would give factors that float32 holds with fewer digits.
_TINY = torch.finfo(torch.float32).tiny
# Canonical factors rounded to float32 are orthogonal and balanced to about 1e-7.
_ROUNDING = 1e-6
# A sum this small relative to the sum of magnitudes is rounding, and says nothing of a row's sign.
_CANCELLED = 1e-5


def reduce_rank(down: Tensor, up: Tensor, factor: float, rank: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The product factor * up @ down at the given rank, as canonical factors.

    With the singular value decomposition U S V^T of the product, A = sqrt(S) V^T and B = U sqrt(S), singular values
    descending, the sum of each row of A positive, and rows of zeros up to `rank`. Truncating the decomposition is the
    best approximation of that rank in the Frobenius norm (Eckart and Young, 1936). It is taken of the r x r core
    between the QR decompositions of both factors, so nothing of size fan_out x fan_in is ever formed. Factors that are
    canonical already come back as they are, to the bit.

    Args:
        down: A [n, r, fan_in], finite.
        up: B [n, fan_out, r], finite.
        factor: positive.
        rank: of the result; any, lower or higher than r.

    Returns:
        A float32 [n, rank, fan_in], B float32 [n, fan_out, rank], and the energy (sum of squared singular values,
        float64 [n]) that they keep and that of the whole product.

    Raises:
        torch.linalg.LinAlgError: the singular value decomposition does not converge.
    """
    down, up = down.double() * factor**0.5, up.double() * factor**0.5
    q_up, r_up = torch.linalg.qr(up)  # [n, fan_out, k], [n, k, r]
    q_down, r_down = torch.linalg.qr(down.mT)  # [n, fan_in, l], [n, l, r]
    u, s, vh = torch.linalg.svd(r_up @ r_down.mT, full_matrices=False)  # [n, k, m], [n, m], [n, m, l]
    energy = s.square().sum(-1)
    s = torch.where(s > (_NOISE * s[:, :1]).clamp_min(_TINY), s, 0)
    root, kept = s[:, :rank].sqrt(), energy - s[:, rank:].square().sum(-1)
    a = _pad(root[..., None] * (vh[:, :rank] @ q_down.mT), rank).float()
    b = _pad((q_up @ u[..., :rank] * root[:, None]).mT, rank).mT.float()
    sign = _signs(a)
    a, b = a * sign, b * sign.mT
    if down.shape[1] <= rank:
        given_a, given_b = _pad(down, rank), _pad(up.mT, rank).mT
        settled = _is_canonical(given_a, given_b)[:, None, None]
        a, b = torch.where(settled, given_a.float(), a), torch.where(settled, given_b.float(), b)
    return a, b, kept, energy


def canonicalise(weights: Tensor, layout: WeightLayout) -> Tensor:
    """Weight vectors [n, d], finite, to the canonical float32 vectors [n, d] of the same LoRAs (see `reduce_rank`).

    LoRAs trained from different seeds so become comparable coordinate by coordinate. Doing it twice changes nothing
    more. Singular vectors of equal singular values stay an arbitrary choice.
    """
    parts = []
    for down, up in layout.split(weights).values():
        a, b, _, _ = reduce_rank(down, up, 1.0, layout.rank)
        parts += [a.flatten(1), b.flatten(1)]
    return torch.cat(parts, 1)


def _pad(rows: Tensor, count: int) -> Tensor:
    return torch.nn.functional.pad(rows, (0, 0, 0, count - rows.shape[1]))


def _signs(a: Tensor) -> Tensor:
    """+1 or -1 [n, r, 1] for each row of A [n, r, fan_in]; multiplied by it, the row is canonical.

    Of LoRAs that started from one A, more keep one sign of the sum than one sign of the largest entry, because training
    on layer-normalised inputs hardly moves the sum. Where the sum cancels, the first entry that is not tiny decides.
    """
    total, size = a.sum(-1, keepdim=True), a.abs()
    first = a.gather(-1, (size > 0.5 * size.amax(-1, keepdim=True)).to(torch.uint8).argmax(-1, keepdim=True))
    cancelled = total.abs() <= _CANCELLED * size.sum(-1, keepdim=True)
    return torch.where(torch.where(cancelled, first, total) < 0, -1.0, 1.0).to(a.dtype)


def _is_canonical(a: Tensor, b: Tensor) -> Tensor:
    """bool [n]: rows of A and columns of B orthogonal, of equal and descending norms, signs as in `_signs`."""
    gram_a, gram_b = a @ a.mT, b.mT @ b  # [n, r, r]
    norms = gram_a.diagonal(dim1=-2, dim2=-1)
    bound = _ROUNDING * (norms[:, :, None] * norms[:, None]).sqrt()
    wanted = torch.diag_embed(norms)
    orthogonal = ((gram_a - wanted).abs() <= bound) & ((gram_b - wanted).abs() <= bound)
    descending = norms[:, 1:] <= norms[:, :-1] * (1 + _ROUNDING)
    return orthogonal.all(-1).all(-1) & descending.all(-1) & (_signs(a.float()) > 0).flatten(1).all(-1)
