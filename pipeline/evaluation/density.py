"""How often latents fire, as a histogram small enough for JSON."""

from typing import Any

import torch
from torch import Tensor

BINS_PER_DECADE = 8
DECADES = 7


def density_histogram(fired_E: Tensor, n_rows: int) -> dict[str, Any]:
    """Alive latents (count) by log10 of the share of rows on which they fire; rarer than 1e-7 is in the first bin."""
    n_bins = BINS_PER_DECADE * DECADES
    edges = [place / BINS_PER_DECADE - DECADES for place in range(n_bins + 1)]
    log10_density = (fired_E[fired_E > 0].double() / n_rows).log10()
    bins = ((log10_density + DECADES) * BINS_PER_DECADE).floor().long().clamp(0, n_bins - 1)
    return {"log10_edges": edges, "counts": torch.bincount(bins, minlength=n_bins).tolist()}
