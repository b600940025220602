"""Metrics in the very forms of SAEBench 0.6.0 (sb_) and dictionary_learning 0.1.0 (dl_), for comparison with them.

Both score batch by batch. A batch here: 2,048 scored rows in a row, whole ones only, unless there is one alone.
Sources: sae_bench/evals/core/main.py (get_sparsity_and_variance_metrics); dictionary_learning/evaluation.py (evaluate).
"""

from strata_sae.pipeline.evaluation.metric import Metric, PerBatch, mean_of_rows
from strata_sae.pipeline.evaluation.per_batch import (
    ExplainedVarianceLegacy,
    FracVarianceExplainedPerBatch,
    RelativeReconstructionBiasPerBatch,
)
from strata_sae.pipeline.evaluation.totals import BatchSums


class SBExplainedVariance(Metric):
    """SAEBench's explained_variance: 1 - R / (Q - (Q / d)^2), R and Q being means over batches of E ||e||^2 and of
    E ||x||^2. The mean it subtracts is one of squares, so it is nearly 1 - R / Q, and changes with the unit of x.
    """

    unit = "fraction of sum of squares"

    def _value(self) -> float | None:
        batches = self.totals.batches
        residual = sum(mean_of_rows(batch.error_square, batch) for batch in batches) / max(1, len(batches))
        square = sum(mean_of_rows(batch.targets.square, batch) for batch in batches) / max(1, len(batches))
        total = square - (square / self.totals.d_out) ** 2
        return 1.0 - residual / total if total else None


class SBExplainedVarianceLegacy(ExplainedVarianceLegacy):
    """SAEBench's explained_variance_legacy: E [1 - ||e||^2 / ||x - mean of the batch||^2]."""


class SBMSE(PerBatch):
    """SAEBench's mse: E ||e||^2 divided by the number of rows of a batch, on which it therefore depends."""

    unit = "squared model units per row and batch row"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.error_square, batch) / batch.targets.n_rows


class SBCossim(PerBatch):
    """SAEBench's cossim: E [<x, xhat> / (||x|| ||xhat||)]; none where a row or a reconstruction is 0."""

    unit = "cosine"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.cosine, batch)


class SBL2NormIn(PerBatch):
    """SAEBench's l2_norm_in: E ||x||."""

    unit = "model units"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.targets.norm, batch)


class SBL2NormOut(PerBatch):
    """SAEBench's l2_norm_out: E ||xhat||."""

    unit = "model units"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.xhat_norm, batch)


class SBL2Ratio(PerBatch):
    """SAEBench's l2_ratio: E [||xhat|| / ||x||], with 1 in the place of ||x|| below 1e-4."""

    unit = "ratio"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.guarded_ratio, batch)


class SBRelativeReconstructionBias(RelativeReconstructionBiasPerBatch):
    """SAEBench's relative_reconstruction_bias: mean over batches of E ||xhat||^2 / E <x, xhat>."""


class SBL0(PerBatch):
    """SAEBench's l0: E of the number of codes that are not 0."""

    unit = "latents per row"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.active, batch)


class SBL1(PerBatch):
    """SAEBench's l1: E sum f, without the absolute value."""

    unit = "model units per row"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.signed, batch)


class SBFracAlive(Metric):
    """SAEBench's frac_alive: share of the latents whose code is above 0 on a row of all that are scored."""

    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.totals.positive_rows_E > 0).double().mean())


class DLL2Loss(PerBatch):
    """dictionary_learning's l2_loss: E ||e||, a norm and no square."""

    unit = "model units"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.error_norm, batch)


class DLL1Loss(PerBatch):
    """dictionary_learning's l1_loss: E sum |f|."""

    unit = "model units per row"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.absolute, batch)


class DLL0(SBL0):
    """dictionary_learning's l0: E of the number of codes that are not 0, mean over batches."""


class DLFracVarianceExplained(FracVarianceExplainedPerBatch):
    """dictionary_learning's frac_variance_explained: mean over batches of 1 - sum of Var(e) / sum of Var(x)."""


class DLCossim(SBCossim):
    """dictionary_learning's cossim: E [<x, xhat> / (||x|| ||xhat||)], mean over batches; none where one is 0."""


class DLL2Ratio(PerBatch):
    """dictionary_learning's l2_ratio: E [||xhat|| / ||x||], mean over batches; none where a row is 0."""

    unit = "ratio"

    def _of_batch(self, batch: BatchSums) -> float:
        return mean_of_rows(batch.ratio, batch)


class DLRelativeReconstructionBias(RelativeReconstructionBiasPerBatch):
    """dictionary_learning's relative_reconstruction_bias: mean over batches of E ||xhat||^2 / E <x, xhat>, too."""


class DLFracAlive(Metric):
    """dictionary_learning's frac_alive: share of the latents whose codes of all scored rows do not add up to 0."""

    unit = "fraction of latents"

    def _value(self) -> float:
        return float((self.totals.signed_E != 0).double().mean())


OF_LIBRARIES: dict[str, type[Metric]] = {
    "sb_explained_variance": SBExplainedVariance,
    "sb_explained_variance_legacy": SBExplainedVarianceLegacy,
    "sb_mse": SBMSE,
    "sb_cossim": SBCossim,
    "sb_l2_norm_in": SBL2NormIn,
    "sb_l2_norm_out": SBL2NormOut,
    "sb_l2_ratio": SBL2Ratio,
    "sb_relative_reconstruction_bias": SBRelativeReconstructionBias,
    "sb_l0": SBL0,
    "sb_l1": SBL1,
    "sb_frac_alive": SBFracAlive,
    "dl_l2_loss": DLL2Loss,
    "dl_l1_loss": DLL1Loss,
    "dl_l0": DLL0,
    "dl_frac_variance_explained": DLFracVarianceExplained,
    "dl_cossim": DLCossim,
    "dl_l2_ratio": DLL2Ratio,
    "dl_relative_reconstruction_bias": DLRelativeReconstructionBias,
    "dl_frac_alive": DLFracAlive,
}
