"""Metrics that other libraries compute batch by batch and then average; their pooled forms have other names."""

from strata_sae.pipeline.evaluation.metric import PerBatch, mean_of_rows
from strata_sae.pipeline.evaluation.totals import BatchSums


class NormalisedMSEPerBatch(PerBatch):
    """Mean over batches of E ||e||^2 / E ||x - mean of the batch||^2. A batch: 2,048 scored rows in a row."""

    # Source: HypotheSAEs' normalized_mse. Pooled over all rows it is fvu.
    unit = "fraction of variance"

    def _of_batch(self, batch: BatchSums) -> float | None:
        variance = batch.targets.variance
        return mean_of_rows(batch.error_square, batch) / variance if variance else None


class FracVarianceExplainedPerBatch(PerBatch):
    """Mean over batches of 1 - sum over columns of Var(e) / the same of Var(x). A batch: 2,048 scored rows in a row."""

    # Source: dictionary_learning's frac_variance_explained. Both of its variances divide by B - 1, which cancels.
    unit = "fraction of variance"

    def _of_batch(self, batch: BatchSums) -> float | None:
        variance = batch.targets.variance
        return 1.0 - batch.centred_error / variance if variance else None


class RelativeReconstructionBiasPerBatch(PerBatch):
    """Mean over batches of E ||xhat||^2 / E <x, xhat>. A batch: 2,048 scored rows in a row."""

    # Source: SAEBench's core evaluation, dictionary_learning's evaluate.
    unit = "ratio"

    def _of_batch(self, batch: BatchSums) -> float | None:
        return batch.xhat_square / batch.dot if batch.dot else None


class ExplainedVarianceLegacy(PerBatch):
    """E [1 - ||e||^2 / ||x - mean of the row's batch||^2]: of every row, then averaged, so that rows near the mean
    count as much as far ones. A batch: 2,048 scored rows in a row.
    """

    # Source: SAEBench's explained_variance_legacy, which its published tables hold. A row that is the mean of its batch
    # has no value and is left out.
    unit = "fraction of variance"

    def _of_batch(self, batch: BatchSums) -> float | None:
        total, n_rows = batch.shares
        return 1.0 - total / n_rows if n_rows else None
