"""Snapshots of how similar decoder rows are, at shares of the run."""

import torch
from torch import Tensor

from strata_sae.pipeline.objective.orthogonality import Orthogonality
from strata_sae.pipeline.objective.term import Term
from strata_sae.pipeline.runs.records import COSINE_BINS, Similarity

SHARES = (0.25, 0.5, 0.75, 1.0)
"""Shares of the run of which there is a snapshot. Source: seed 001, which asks for the first three."""
TILE_LATENTS = 512
"""Latents whose cosines with all others are in memory together (count)."""
COUNTED_AT_ONCE = 2**23
"""Cosines that are counted together (count): histc counts in float32, which is exact up to 2^24."""


def share_due(step: int, every_steps: int, n_steps: int) -> float | None:
    """The share of the run whose snapshot a logged step (updates done, 1-based) carries: it is the first at or after.

    The largest, where one step is the first after several of them. None for a step whose line is written for another
    reason: a share has one snapshot.
    """
    # Logged are step 1, every `every_steps`-th, and the last one.
    if step not in (1, n_steps) and step % every_steps:
        return None
    before = 1 if step - 1 < every_steps else (step - 1) // every_steps * every_steps
    before = 0 if step == 1 else before
    due = [share for share in SHARES if before < share * n_steps <= step]
    return max(due, default=None)


def watched_latents(terms: dict[str, Term]) -> list[int]:
    """The latents of the pairs that an orthogonality term watches, each once, rising."""
    pairs = [pair for term in terms.values() if isinstance(term, Orthogonality) for pair in term.settings.watch]
    return sorted({latent for pair in pairs for latent in pair})


def snapshot(W_dec: Tensor, share: float, latents: list[int]) -> Similarity:
    """Cosines of all pairs of rows, and of each row with its nearest, in bins; those of some latents one by one."""
    unit_EM = torch.nn.functional.normalize(W_dec, dim=1)
    n_latents = unit_EM.shape[0]
    pairs = torch.zeros(COSINE_BINS, dtype=torch.int64)
    largest_E = unit_EM.new_full((n_latents,), -1.0)
    for first in range(0, n_latents, TILE_LATENTS):
        # Each pair is computed once: a tile with all rows from its own on, and the result counts for both sides.
        cosine_RE = (unit_EM[first : first + TILE_LATENTS] @ unit_EM[first:].T).clamp_(-1.0, 1.0)
        above_RE = torch.ones_like(cosine_RE, dtype=torch.bool).triu_(1)
        pairs += _binned(cosine_RE.masked_fill(~above_RE, 2.0))  # outside the bins, so not counted
        cosine_RE.diagonal().fill_(-1.0)
        tile_E, later_E = largest_E[first : first + TILE_LATENTS], largest_E[first:]
        torch.maximum(tile_E, cosine_RE.amax(dim=1), out=tile_E)
        torch.maximum(later_E, cosine_RE.amax(dim=0), out=later_E)
    chosen = unit_EM[latents].double()
    return Similarity(
        share=share,
        pairs=pairs.tolist(),
        largest=_binned(largest_E).tolist(),
        latents=latents,
        cosines=(chosen @ chosen.T).tolist(),
    )


def _binned(cosines: Tensor) -> Tensor:
    """How many lie in each bin: int64 on the CPU."""
    parts = cosines.float().reshape(-1).split(COUNTED_AT_ONCE)
    counts = torch.stack([torch.histc(part, bins=COSINE_BINS, min=-1.0, max=1.0) for part in parts])
    return counts.to(device="cpu", dtype=torch.int64).sum(dim=0)
