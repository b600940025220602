"""Metrics that other libraries compute batch by batch and then average; their pooled forms have other names."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.metric import PerBatch, spread
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, WeightFacts


@dataclass
class _Sums:
    """Sums over the rows of a batch; [M] of x and e."""

    n_rows: int = 0
    error_square: float = 0.0
    square: float = 0.0
    xhat_square: float = 0.0
    dot: float = 0.0
    sum_M: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    error_sum_M: Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))

    def add(self, rows: ScoredRows, part: slice) -> None:
        """Add some of the rows."""
        self.n_rows += len(rows.error_square_B[part])
        self.error_square += float(rows.error_square_B[part].sum())
        self.square += float(rows.square_B[part].sum())
        self.xhat_square += float(rows.xhat_square_B[part].sum())
        self.dot += float(rows.dot_B[part].sum())
        self.sum_M = self.sum_M + rows.x_BM[part].sum(dim=0)
        self.error_sum_M = self.error_sum_M + rows.error_BM[part].sum(dim=0)

    def variance(self) -> float | None:
        """Of the rows, summed over the columns; None where that is rounding."""
        return spread(self.square / self.n_rows, float((self.sum_M / self.n_rows).square().sum()))

    def centred_error(self) -> float:
        """Variance of the errors, summed over the columns."""
        return self.error_square / self.n_rows - float((self.error_sum_M / self.n_rows).square().sum())


class _OfSums(PerBatch):
    """A mean over batches of a number that follows from sums."""

    def __init__(self, weights: WeightFacts) -> None:
        super().__init__(weights)
        self._sums = _Sums()

    def _take(self, rows: ScoredRows, part: slice) -> None:
        self._sums.add(rows, part)

    def _clear(self) -> None:
        self._sums = _Sums()


class NormalisedMSEPerBatch(_OfSums):
    """Mean over batches of E ||e||^2 / E ||x - mean of the batch||^2. A batch: 2,048 scored rows in a row."""

    # Source: HypotheSAEs' normalized_mse. Pooled over all rows it is fvu.
    unit = "fraction of variance"

    def _of_batch(self) -> float | None:
        variance = self._sums.variance()
        return self._sums.error_square / self._sums.n_rows / variance if variance else None


class FracVarianceExplainedPerBatch(_OfSums):
    """Mean over batches of 1 - sum over columns of Var(e) / the same of Var(x). A batch: 2,048 scored rows in a row."""

    # Source: dictionary_learning's frac_variance_explained. Both of its variances divide by B - 1, which cancels.
    unit = "fraction of variance"

    def _of_batch(self) -> float | None:
        variance = self._sums.variance()
        return 1.0 - self._sums.centred_error() / variance if variance else None


class RelativeReconstructionBiasPerBatch(_OfSums):
    """Mean over batches of E ||xhat||^2 / E <x, xhat>. A batch: 2,048 scored rows in a row."""

    # Source: SAEBench's core evaluation, dictionary_learning's evaluate.
    unit = "ratio"

    def _of_batch(self) -> float | None:
        return self._sums.xhat_square / self._sums.dot if self._sums.dot else None


class ExplainedVarianceLegacy(PerBatch):
    """E [1 - ||e||^2 / ||x - mean of the row's batch||^2]: of every row, then averaged, so that rows near the mean
    count as much as far ones. A batch: 2,048 scored rows in a row.
    """

    # Source: SAEBench's explained_variance_legacy, which its published tables hold. A row that is the mean of its batch
    # has no value and is left out.
    unit = "fraction of variance"

    def __init__(self, weights: WeightFacts) -> None:
        super().__init__(weights)
        self._parts: list[tuple[Tensor, Tensor]] = []

    def _take(self, rows: ScoredRows, part: slice) -> None:
        self._parts.append((rows.target_BM[part], rows.error_square_B[part]))

    def _clear(self) -> None:
        self._parts = []

    def _of_batch(self) -> float | None:
        targets, errors = zip(*self._parts, strict=True)
        x_BM, error_square_B = torch.cat(targets).double(), torch.cat(errors)
        distance_B = (x_BM - x_BM.mean(dim=0)).square().sum(dim=1)
        has_one_B = distance_B > 0.0
        shares_B = error_square_B[has_one_B] / distance_B[has_one_B]
        return 1.0 - float(shares_B.mean()) if len(shares_B) else None
