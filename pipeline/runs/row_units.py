"""Rows standardised by document (`training.input_scale: per_document`): what a batch was shifted and divided by."""

from typing import NamedTuple

import torch
from torch import Tensor


class RowUnits(NamedTuple):
    """Two numbers of each row's document: training sees (x - mean) * factor.

    mean: of all numbers of the document's rows; factor: sqrt(d) over their standard deviation (n - 1), d numbers a row.
    Source: seed 002 (sae_hacking: normalize_activations), whose stories are documents. float32 [B] each.
    """

    mean_B: Tensor
    factor_B: Tensor

    def apply(self, x_BM: Tensor) -> Tensor:
        """Rows as training sees them: [B, M]."""
        return (x_BM - self.mean_B[:, None]) * self.factor_B[:, None]

    def undo(self, x_BM: Tensor) -> Tensor:
        """Rows of the store again: [B, M]."""
        return x_BM / self.factor_B[:, None] + self.mean_B[:, None]


def units_of_documents(x_BM: Tensor, document_B: Tensor) -> RowUnits:
    """The units of rows of whole documents.

    Shapes: x_BM [B, M]; document_B [B]: an integer for each row, equal for rows of one document.
    Raises: ValueError if the numbers of a document do not vary.
    """
    found, place_B = document_B.unique(return_inverse=True)
    rows_BM = x_BM.double()
    zeros = rows_BM.new_zeros(len(found))
    count = zeros.index_add(0, place_B, torch.ones_like(rows_BM[:, 0])) * x_BM.shape[1]
    mean = zeros.index_add(0, place_B, rows_BM.sum(1)) / count
    # Of differences to the mean: sums of squares alone would lose digits where the mean is large.
    squares = zeros.index_add(0, place_B, (rows_BM - mean[place_B, None]).square().sum(1))
    std = (squares / (count - 1)).sqrt()
    if not bool((std > 0).all()):
        raise ValueError(f"document {int(found[std.argmin()])}: its numbers do not vary, so nothing standardises them")
    return RowUnits(mean[place_B].to(x_BM), (x_BM.shape[1] ** 0.5 / std)[place_B].to(x_BM))
