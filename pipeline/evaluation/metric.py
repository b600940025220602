"""What a metric is: a number with a definition and a unit, from sums over all rows, or a mean over batches of rows."""

import math
from typing import ClassVar

import torch

from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, WeightFacts


class Metric:
    """One number about one SAE, from sums in float64."""

    unit: str
    of_weights: ClassVar[bool] = False
    """Whether it follows from the weights alone, whatever the rows and the codes."""

    def __init__(self, weights: WeightFacts) -> None:
        self.weights = weights
        self.active_rows_E = torch.zeros_like(weights.decoder_max_cosine_E, dtype=torch.int64)
        self.n_rows = 0
        self.total = 0.0

    def update(self, rows: ScoredRows) -> None:
        """Take one batch in."""
        self.n_rows += rows.n_rows
        self._add(rows)

    def value(self) -> float | None:
        """The number; None where it does not exist (0/0, or no row) or is none (a sum that overflows)."""
        value = self._value() if self.n_rows else None
        return value if value is not None and math.isfinite(value) else None

    def _add(self, rows: ScoredRows) -> None:
        raise NotImplementedError

    def _value(self) -> float | None:
        return self.total / self.n_rows


def definition(metric: type[Metric]) -> str:
    """A metric's definition: its docstring on one line."""
    return " ".join((metric.__doc__ or "").split())


def spread(mean_square: float, square_of_mean: float) -> float | None:
    """E ||x||^2 - ||E x||^2, the variance summed over the columns; None where it is rounding of that difference."""
    variance = mean_square - square_of_mean
    return variance if variance > 1e-12 * mean_square else None


class PerBatch(Metric):
    """A mean over batches of `batch_rows` consecutive rows, as libraries report it that score batch by batch.

    The size is fixed, so that the value does not depend on how many rows are read at once. A shorter last batch counts
    only where it is the only one: of few rows, a variance is nearly any number.
    """

    batch_rows: ClassVar[int] = 2048
    """Rows of a batch (count)."""
    # SAEBench's core evaluation takes 16 contexts of 128 tokens at a time.

    def __init__(self, weights: WeightFacts) -> None:
        super().__init__(weights)
        self._filled = 0
        self._values: list[float | None] = []

    def _add(self, rows: ScoredRows) -> None:
        start = 0
        while start < rows.n_rows:
            stop = min(start + self.batch_rows - self._filled, rows.n_rows)
            self._take(rows, slice(start, stop))
            self._filled += stop - start
            if self._filled == self.batch_rows:
                self._values.append(self._of_batch())
                self._filled = 0
                self._clear()
            start = stop

    def _value(self) -> float | None:
        values = [value for value in self._values or [self._of_batch()] if value is not None]
        return math.fsum(values) / len(values) if values else None

    def _take(self, rows: ScoredRows, part: slice) -> None:
        """Take some of the rows into the batch that is being filled."""
        raise NotImplementedError

    def _of_batch(self) -> float | None:
        """The value of the batch that is being filled; None where it does not exist."""
        raise NotImplementedError

    def _clear(self) -> None:
        """Begin the next batch."""
        raise NotImplementedError
