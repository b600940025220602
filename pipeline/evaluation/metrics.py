"""What is measured of a trained SAE: the errors of its reconstructions here, and the registry of all metrics.

A metric is a class: its docstring is the definition that goes into metrics.json, `unit` what the number counts.
Adding one = a class here and a line in METRICS. No value depends on how many rows are read at once.
Notation: x a row, xhat its reconstruction, e = x - xhat, f its codes, E the mean over rows.
"""

from torch import Tensor

from strata_sae.pipeline.evaluation.metric import Metric, spread
from strata_sae.pipeline.evaluation.of_latents import (
    AliveLatents,
    DeadLatents,
    DecoderMaxCosineMax,
    DecoderMaxCosineMean,
    DecoderMaxCosineP95,
    DensityMedian,
    EncoderMaxCosineMax,
    EncoderMaxCosineMean,
    EncoderMaxCosineP95,
    FracAlive,
    FracRare,
)
from strata_sae.pipeline.evaluation.per_batch import (
    ExplainedVarianceLegacy,
    FracVarianceExplainedPerBatch,
    NormalisedMSEPerBatch,
    RelativeReconstructionBiasPerBatch,
)
from strata_sae.pipeline.evaluation.scored_rows import ScoredRows


class L0(Metric):
    """Mean number of active latents of a row: those whose code is not 0."""

    unit = "latents per row"

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.active_rows_E.sum())


class L1(Metric):
    """E sum |f|: the absolute codes of a row, added up. Comparable where decoder rows have the same norm."""

    unit = "model units per row"

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.codes.values.double().abs().sum())


class SSE(Metric):
    """E ||e||^2: squared error summed over the columns, averaged over rows."""

    unit = "squared model units per row"

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.error_square_B.sum())


class MSEPerDim(Metric):
    """E ||e||^2 / d_out: squared error averaged over rows and columns."""

    unit = "squared model units"

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.error_square_B.sum()) / rows.d_out


class R2Pooled(Metric):
    """1 - E ||e||^2 / (E ||x||^2 - ||E x||^2), pooled over all rows. A constant error counts as error."""

    # Source: SAELens' ExplainedVarianceCalculator. dictionary_learning's frac_variance_explained centres the residual
    # within each batch, and so forgives a constant error.
    unit = "fraction of variance"
    square = 0.0
    sum_M: Tensor | None = None

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.error_square_B.sum())
        self.square += float(rows.square_B.sum())
        self.sum_M = rows.sum_M if self.sum_M is None else self.sum_M + rows.sum_M

    def _value(self) -> float | None:
        variance = self._variance()
        return None if variance is None else 1.0 - self.total / self.n_rows / variance

    def _variance(self) -> float | None:
        """Of the rows, summed over the columns; None where that is rounding."""
        assert self.sum_M is not None
        return spread(self.square / self.n_rows, float((self.sum_M / self.n_rows).square().sum()))


class FVU(R2Pooled):
    """E ||e||^2 / (E ||x||^2 - ||E x||^2) = 1 - r2_pooled: the unexplained variance, or normalised MSE, pooled over all
    rows.
    """

    # Source: seed 000's eval_metrics.py; HypotheSAEs' normalized_mse has the mean of a batch instead.

    def _value(self) -> float | None:
        variance = self._variance()
        return None if variance is None else self.total / self.n_rows / variance


class FracVarianceExplained(R2Pooled):
    """1 - (E ||e||^2 - ||E e||^2) / (E ||x||^2 - ||E x||^2), pooled over all rows. A constant error is forgiven."""

    # Source: dictionary_learning's frac_variance_explained, which is the mean over batches of this ratio.
    error_sum_M: Tensor | None = None

    def _add(self, rows: ScoredRows) -> None:
        super()._add(rows)
        self.error_sum_M = rows.error_sum_M if self.error_sum_M is None else self.error_sum_M + rows.error_sum_M

    def _value(self) -> float | None:
        assert self.error_sum_M is not None
        variance = self._variance()
        unexplained = self.total / self.n_rows - float((self.error_sum_M / self.n_rows).square().sum())
        return None if variance is None else 1.0 - unexplained / variance


class CosineSimilarity(Metric):
    """E [<x, xhat> / (||x|| ||xhat||)]; a row where x or xhat is 0 counts as 0."""

    unit = "cosine"

    def _add(self, rows: ScoredRows) -> None:
        norms_B = rows.square_B.sqrt() * rows.xhat_square_B.sqrt()
        self.total += float((rows.dot_B / norms_B.where(norms_B > 0.0, 1.0)).sum())


class NormRatio(Metric):
    """E [||xhat|| / ||x||], over the rows where x is not 0."""

    unit = "ratio"
    n_defined = 0

    def _add(self, rows: ScoredRows) -> None:
        defined_B = rows.square_B > 0.0
        self.n_defined += int(defined_B.sum())
        self.total += float((rows.xhat_square_B[defined_B] / rows.square_B[defined_B]).sqrt().sum())

    def _value(self) -> float | None:
        return self.total / self.n_defined if self.n_defined else None


class RelativeReconstructionBias(Metric):
    """E ||xhat||^2 / E <x, xhat>: 1 when no rescaling of xhat would help, below 1 when reconstructions are shrunk."""

    # Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), equation 10; pooled over all rows here.
    unit = "ratio"
    dot = 0.0

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.xhat_square_B.sum())
        self.dot += float(rows.dot_B.sum())

    def _value(self) -> float | None:
        return self.total / self.dot if self.dot else None


METRICS: dict[str, type[Metric]] = {
    "l0": L0,
    "l1": L1,
    "r2_pooled": R2Pooled,
    "fvu": FVU,
    "normalised_mse_per_batch": NormalisedMSEPerBatch,
    "frac_variance_explained": FracVarianceExplained,
    "frac_variance_explained_per_batch": FracVarianceExplainedPerBatch,
    "explained_variance_legacy": ExplainedVarianceLegacy,
    "sse": SSE,
    "mse_per_dim": MSEPerDim,
    "cosine_similarity": CosineSimilarity,
    "norm_ratio": NormRatio,
    "relative_reconstruction_bias": RelativeReconstructionBias,
    "relative_reconstruction_bias_per_batch": RelativeReconstructionBiasPerBatch,
    "dead_latents": DeadLatents,
    "alive_latents": AliveLatents,
    "frac_alive": FracAlive,
    "frac_rare": FracRare,
    "density_median": DensityMedian,
    "decoder_max_cosine_mean": DecoderMaxCosineMean,
    "decoder_max_cosine_p95": DecoderMaxCosineP95,
    "decoder_max_cosine_max": DecoderMaxCosineMax,
    "encoder_max_cosine_mean": EncoderMaxCosineMean,
    "encoder_max_cosine_p95": EncoderMaxCosineP95,
    "encoder_max_cosine_max": EncoderMaxCosineMax,
}
