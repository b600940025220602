"""One column for each row: the assignment with the smallest sum."""

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine.compiled.assignment import cheapest_columns
from strata_sae.pipeline.kernels.machine.compiled.loops import array


def cheapest_pairs(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns, int64 [min(R, C)] each and by row, of the one-to-one assignment with the smallest sum of costs.

    cost: [R, C], on any device. Raises: ValueError for costs that are not finite.
    """
    if not torch.isfinite(cost).all():
        raise ValueError("costs of an assignment must be finite")
    wide = cost.T if cost.shape[0] > cost.shape[1] else cost
    columns = torch.from_numpy(cheapest_columns(array(wide.double().cpu())))
    rows = torch.arange(len(columns))
    if wide is not cost:
        order = columns.argsort()
        rows, columns = columns[order], rows[order]
    return rows.to(cost.device), columns.to(cost.device)
