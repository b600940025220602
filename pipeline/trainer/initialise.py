"""Where training starts. Variants of one seed and one shape start from equal weights, so comparisons are paired."""

import hashlib
from collections.abc import Callable

import torch
from torch import Tensor


def weight_generator(seed: int, d_sae: int, d_out: int) -> torch.Generator:
    """The random stream of the initial weights: decided by seed and shape, never by a variant's name or neighbours."""
    digest = hashlib.sha256(f"weights {seed} {d_sae} {d_out}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))


def geometric_median(x_BM: Tensor, *, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point of least total distance to the rows: [M], in the rows' dtype.

    Source: Weiszfeld 1937, from the mean; the floor on distances guards a row that is hit exactly.
    """
    rows_BM = x_BM.double()
    median_M = rows_BM.mean(dim=0)
    for _ in range(iterations):
        distance_B = torch.linalg.vector_norm(rows_BM - median_M, dim=1).clamp_min(1e-12)
        weight_B = 1.0 / distance_B
        moved_M = (weight_B @ rows_BM) / weight_B.sum()
        shift = torch.linalg.vector_norm(moved_M - median_M)
        median_M = moved_M
        if shift < tolerance:
            break
    return median_M.to(x_BM.dtype)


CENTRES: dict[str, Callable[[Tensor], Tensor]] = {
    "geometric_median": geometric_median,
    "mean": lambda x_BM: x_BM.mean(dim=0),
    "median": lambda x_BM: (x_BM.median(dim=0).values - (-x_BM).median(dim=0).values) / 2,  # torch takes the lower
    "zero": lambda x_BM: torch.zeros_like(x_BM[0]),
}
"""Where b_dec may start, of the first batch: [M]. Sources: dictionary_learning, sparsify, HypotheSAEs, SAELens."""
