"""How a squared error is reduced to a number: the three conventions of the field."""

from typing import Literal

from torch import Tensor, finfo

Reduction = Literal["sum", "mean", "fvu"]
"""Mean over rows of the sum over dimensions | mean over rows and dimensions | share of the batch's variance."""


def error_divisor(reduction: Reduction, target_BM: Tensor) -> Tensor | int:
    """What the sum of a batch's squared errors is divided by.

    `sum`: B (dictionary_learning, SAELens). `mean`: B * M (seed 0, overcomplete): a penalty of weight w beside it does
    what one of weight w * M does beside `sum`. `fvu`: the batch's squared deviation from its mean row (sparsify,
    HypotheSAEs).
    """
    if reduction == "fvu":
        return (target_BM - target_BM.mean(0)).square().sum().clamp(min=finfo(target_BM.dtype).tiny)
    return target_BM.shape[0] if reduction == "sum" else target_BM.numel()
