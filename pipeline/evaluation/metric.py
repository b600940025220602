"""What a metric is: a number with a definition and a unit, which follows from sums over rows."""

import math
from typing import ClassVar

from strata_sae.pipeline.evaluation.totals import BatchSums, Totals


class Metric:
    """One number about one SAE, from sums in float64."""

    unit: str
    of_rows: ClassVar[bool] = True
    """Whether it depends on the population and on the way of inference; otherwise it is measured once."""

    def __init__(self, totals: Totals) -> None:
        self.totals = totals

    def value(self) -> float | None:
        """The number; None where it does not exist (0/0, or no row) or is none (a sum that overflows)."""
        value = self._value() if self.totals.n_rows else None
        return value if value is not None and math.isfinite(value) else None

    def _value(self) -> float | None:
        raise NotImplementedError

    def _mean(self, total: float) -> float:
        """Over the rows."""
        return total / self.totals.n_rows


def definition(metric: type[Metric]) -> str:
    """A metric's definition: its docstring on one line."""
    return " ".join((metric.__doc__ or "").split())


class PerBatch(Metric):
    """A mean over batches of `Totals.batch_rows` consecutive rows, as libraries report it that score batch by batch."""

    def _value(self) -> float | None:
        values = [value for batch in self.totals.batches if (value := self._of_batch(batch)) is not None]
        return math.fsum(values) / len(values) if values else None

    def _of_batch(self, batch: BatchSums) -> float | None:
        """The value of one batch; None where it does not exist."""
        raise NotImplementedError


def mean_of_rows(total: float, batch: BatchSums) -> float:
    """The mean over the rows of a batch."""
    return total / batch.targets.n_rows
