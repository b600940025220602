"""What is measured of a trained SAE: the errors of its reconstructions here, and the registry of all metrics.

A metric is a class: its docstring is the definition that goes into metrics.json, `unit` what the number counts.
Adding one = a class here and a line in METRICS. No value depends on how many rows are read at once.
Notation: x a row, xhat its reconstruction, e = x - xhat, f its codes, E the mean over rows.
"""

import math

from strata_sae.pipeline.evaluation.metric import Metric
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
    FracDeadAt1mRows,
    FracDeadAt10kRows,
    FracDeadAt100kRows,
    FracRare,
    FracRareAt1mRows,
    FracRareAt100kRows,
)
from strata_sae.pipeline.evaluation.of_libraries import OF_LIBRARIES
from strata_sae.pipeline.evaluation.per_batch import (
    ExplainedVarianceLegacy,
    FracVarianceExplainedPerBatch,
    NormalisedMSEPerBatch,
    RelativeReconstructionBiasPerBatch,
)


class L0(Metric):
    """Mean number of active latents of a row: those whose code is not 0."""

    unit = "latents per row"

    def _value(self) -> float:
        return self._mean(float(self.totals.active_rows_E.sum()))


class L1(Metric):
    """E sum |f|: the absolute codes of a row, added up. Comparable where decoder rows have the same norm."""

    unit = "model units per row"

    def _value(self) -> float:
        return self._mean(self.totals.absolute)


class SSE(Metric):
    """E ||e||^2: squared error summed over the columns, averaged over rows."""

    unit = "squared model units per row"

    def _value(self) -> float:
        return self._mean(self.totals.error_square)


class MSEPerDim(Metric):
    """E ||e||^2 / d_out: squared error averaged over rows and columns."""

    unit = "squared model units"

    def _value(self) -> float:
        return self._mean(self.totals.error_square_per_dim)


class R2Pooled(Metric):
    """1 - E ||e||^2 / (E ||x||^2 - ||E x||^2), pooled over all rows. A constant error counts as error."""

    # Source: SAELens' ExplainedVarianceCalculator. dictionary_learning's frac_variance_explained centres the residual
    # within each batch, and so forgives a constant error.
    unit = "fraction of variance"

    def _value(self) -> float | None:
        variance = self.totals.variance()
        return None if variance is None else 1.0 - self._mean(self.totals.error_square) / variance


class FVU(Metric):
    """E ||e||^2 / (E ||x||^2 - ||E x||^2) = 1 - r2_pooled: the unexplained variance, or normalised MSE, pooled over all
    rows.
    """

    # Source: seed 000's eval_metrics.py; HypotheSAEs' normalized_mse has the mean of a batch instead.
    unit = "fraction of variance"

    def _value(self) -> float | None:
        variance = self.totals.variance()
        return None if variance is None else self._mean(self.totals.error_square) / variance


class FracVarianceExplained(Metric):
    """1 - (E ||e||^2 - ||E e||^2) / (E ||x||^2 - ||E x||^2), pooled over all rows. A constant error is forgiven."""

    # Source: dictionary_learning's frac_variance_explained, which is the mean over batches of this ratio.
    unit = "fraction of variance"

    def _value(self) -> float | None:
        totals, variance = self.totals, self.totals.variance()
        unexplained = self._mean(totals.error_square) - float((totals.error_sum_M / totals.n_rows).square().sum())
        return None if variance is None else 1.0 - unexplained / variance


class CosineSimilarity(Metric):
    """E [<x, xhat> / (||x|| ||xhat||)]; a row where x or xhat is 0 counts as 0."""

    unit = "cosine"

    def _value(self) -> float:
        return self._mean(self.totals.cosine)


class NormRatio(Metric):
    """E [||xhat|| / ||x||], over the rows where x is not 0."""

    unit = "ratio"

    def _value(self) -> float | None:
        return self.totals.ratio / self.totals.n_with_norm if self.totals.n_with_norm else None


class RelativeReconstructionBias(Metric):
    """E ||xhat||^2 / E <x, xhat>: 1 when no rescaling of xhat would help, below 1 when reconstructions are shrunk."""

    # Source: Rajamanoharan et al. 2024 (arXiv 2404.16014), equation 10; pooled over all rows here.
    unit = "ratio"

    def _value(self) -> float | None:
        return self.totals.xhat_square / self.totals.dot if self.totals.dot else None


class MSESpecial(Metric):
    """E ||e||^2 / d_out over the tokens that are BOS or special, whatever the filters and the population."""

    # Source: seed 003's MSE_st (FAST, equation 7), over all such tokens instead of five ids. In units of the store: the
    # number depends on the scale of the rows.
    unit = "squared model units"
    of_rows = False
    kind = "special"

    def _value(self) -> float | None:
        n_rows, error_square = self.totals.of_tokens.get(self.kind, (0, 0.0))
        return error_square / n_rows / self.totals.d_out if n_rows else None


class MSESpecialLog2(MSESpecial):
    """log2 of mse_special, in which seed 003's published numbers are."""

    unit = "log2 of squared model units"

    def _value(self) -> float | None:
        return math.log2(mse) if (mse := super()._value()) else None


class MSETemplate(MSESpecial):
    """E ||e||^2 / d_out over the tokens that a chat template adds, whatever the filters and the population."""

    kind = "template"


class MSETemplateLog2(MSESpecialLog2):
    """log2 of mse_template."""

    kind = "template"


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
    "frac_dead_at_10k_rows": FracDeadAt10kRows,
    "frac_dead_at_100k_rows": FracDeadAt100kRows,
    "frac_dead_at_1m_rows": FracDeadAt1mRows,
    "frac_rare_at_100k_rows": FracRareAt100kRows,
    "frac_rare_at_1m_rows": FracRareAt1mRows,
    "density_median": DensityMedian,
    "decoder_max_cosine_mean": DecoderMaxCosineMean,
    "decoder_max_cosine_p95": DecoderMaxCosineP95,
    "decoder_max_cosine_max": DecoderMaxCosineMax,
    "encoder_max_cosine_mean": EncoderMaxCosineMean,
    "encoder_max_cosine_p95": EncoderMaxCosineP95,
    "encoder_max_cosine_max": EncoderMaxCosineMax,
    "mse_special": MSESpecial,
    "mse_special_log2": MSESpecialLog2,
    "mse_template": MSETemplate,
    "mse_template_log2": MSETemplateLog2,
    **OF_LIBRARIES,
}
