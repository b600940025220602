"""From which density on matrix products are faster than gathers on this machine: measured in a second for a shape.

Training never measures by itself, because the choice decides how sums are rounded, and a run must be the same twice:
it takes a number from its settings, by default BREAK_EVEN_DENSITY.
"""

import logging
import time
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes

DENSITIES = (0.02, 0.05, 0.1, 0.2, 0.3)
"""Shares of active latents that are tried."""
# The highest seen on any machine was 0.30 (docs/log.md, 2026-11-21); beyond, full matrices are taken.
LARGEST_SHAPE = (512, 4096)
"""Rows and latents that are measured at most (counts): beyond, both costs grow alike."""

logger = logging.getLogger(__name__)


@cache
def measured_break_even(batch_size: int, d_sae: int, d_model: int, device: str = "cpu") -> float:
    """The density at which a step costs the same with sparse and with dense codes; kept for the process, and logged."""
    # Random numbers do: costs depend on shapes and on how many latents are active, not on which.
    generator = torch.Generator().manual_seed(0)
    n_rows, n_latents = min(batch_size, LARGEST_SHAPE[0]), min(d_sae, LARGEST_SHAPE[1])
    x_BM, W_EM = (torch.randn(n, d_model, generator=generator).to(device) for n in (n_rows, n_latents))
    random_BE = torch.rand(n_rows, n_latents, generator=generator).to(device)
    dense = _seconds(partial(_step, DenseCodes(random_BE), x_BM, W_EM), device)
    per_density = []
    for density in DENSITIES:
        codes = DenseCodes(torch.where(random_BE < density, random_BE, 0.0)).to_sparse()
        per_density.append(_seconds(partial(_step, codes, x_BM, W_EM), device))
    chosen = break_even(dense, per_density)
    logger.info(
        "break-even density %.3f for B %d, E %d, M %d on %s: dense %.1f ms, sparse %s",
        chosen, batch_size, d_sae, d_model, device, 1e3 * dense,
        ", ".join(f"{1e3 * cost:.1f} ms at {density}" for density, cost in zip(DENSITIES, per_density, strict=True)),
    )  # fmt: skip
    return chosen


def break_even(dense: float, per_density: list[float]) -> float:
    """Where the sparse cost, linear between DENSITIES and from 0 before, reaches the dense cost; at most the last."""
    density_before, cost_before = 0.0, 0.0
    for density, cost in zip(DENSITIES, per_density, strict=True):
        if cost >= dense:
            share = (dense - cost_before) / (cost - cost_before)
            return density_before + share * (density - density_before)
        density_before, cost_before = density, max(cost, cost_before)
    return DENSITIES[-1]


def _step(codes: Codes, x_BM: Tensor, W_EM: Tensor) -> None:
    """Everything an update does with codes: forward, and three products backward."""
    codes = codes.with_values(codes.values)  # new codes, which must be sorted again as in every step
    gradient_BM = codes.decode(W_EM)
    values = codes.dots(gradient_BM, W_EM)
    codes.transposed_times(gradient_BM)
    codes.transposed_times(x_BM, values)


def _seconds(job: Callable[[], None], device: str, n_rounds: int = 3) -> float:
    """The best of a few rounds: other processes only ever add time."""
    best = float("inf")
    for _ in range(n_rounds):
        start = time.perf_counter()
        job()
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best
