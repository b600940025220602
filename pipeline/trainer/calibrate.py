"""The threshold that gives the wanted l0, exact over a sample of rows."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

WIDENING = 2
"""First guess of how many activations to keep, in multiples of those wanted; doubled while too few."""


class PreActivations(Protocol):
    """Anything that encodes rows."""

    def pre_activations(self, x_BM: Tensor) -> Tensor:
        """The encoder product of rows."""


def calibrate(sae: PreActivations, batches: Callable[[], Iterable[Tensor]], k: float) -> float:
    """The threshold above which a row has k positive pre-activations on average over all the batches.

    Only values above a floor are kept in memory. That is exact: if more than k per row lie above the floor, so does the
    wanted one; otherwise the floor is lowered and the rows are read again. 0 where no more than k per row are positive.
    """
    keep = WIDENING * k
    while True:
        floor: float | None = None
        n_rows = 0
        kept: list[Tensor] = []
        for x_BM in batches():
            values = sae.pre_activations(x_BM).reshape(-1)
            if floor is None:
                floor = _value_at_rank(values, round(keep * x_BM.shape[0]))
            kept.append(values[values > floor])
            n_rows += x_BM.shape[0]
        assert floor is not None, "calibration needs at least one batch"
        values = torch.cat(kept)
        wanted = round(k * n_rows)
        if values.numel() > wanted:
            between = values.topk(wanted + 1).values[-2:].double()
            return float(between.mean())
        if floor == 0.0:
            return 0.0
        keep *= 2


def _value_at_rank(values: Tensor, rank: int) -> float:
    """The rank-th largest positive value; 0 where fewer are positive."""
    positive = values[values > 0]
    return float(positive.topk(rank).values[-1]) if rank <= positive.numel() else 0.0
