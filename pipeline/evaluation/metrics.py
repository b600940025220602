"""What is measured of a trained SAE. Every definition is pooled over all rows: the batch size never enters a value.

A metric is a class: its docstring is the definition that goes into metrics.json, `unit` what the number counts.
Adding one = a class here and a line in METRICS.
Notation: x a row, xhat its reconstruction, e = x - xhat, E the mean over rows.
"""

import math
from functools import cached_property

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes


class ScoredRows:
    """Rows, codes and reconstruction; sums in float64. Shapes: x_BM, xhat_BM [B, M]; squares and products [B]."""

    def __init__(self, x_BM: Tensor, codes: Codes, xhat_BM: Tensor) -> None:
        self.n_rows, self.d_out = x_BM.shape
        self.codes = codes
        self.x_BM = x_BM.double()
        self.xhat_BM = xhat_BM.double()

    @cached_property
    def active_rows_E(self) -> Tensor:
        """Rows of this batch on which each latent is active (count), int64."""
        return self.codes.latent_sums((self.codes.values != 0).float()).long()

    @cached_property
    def error_square_B(self) -> Tensor:
        """||x - xhat||^2."""
        return (self.x_BM - self.xhat_BM).square().sum(dim=1)

    @cached_property
    def square_B(self) -> Tensor:
        """||x||^2."""
        return self.x_BM.square().sum(dim=1)

    @cached_property
    def xhat_square_B(self) -> Tensor:
        """||xhat||^2."""
        return self.xhat_BM.square().sum(dim=1)

    @cached_property
    def dot_B(self) -> Tensor:
        """<x, xhat>."""
        return (self.x_BM * self.xhat_BM).sum(dim=1)


class Metric:
    """One number about one SAE, from sums in float64."""

    unit: str

    def __init__(self, max_cosine_E: Tensor) -> None:
        """Shapes: max_cosine_E [E], each latent's largest cosine to another decoder row."""
        self.max_cosine_E = max_cosine_E
        self.active_rows_E = torch.zeros_like(max_cosine_E, dtype=torch.int64)  # rows on which each latent is active
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


class L0(Metric):
    """Mean number of active latents of a row: those whose code is not 0."""

    unit = "latents per row"

    def _add(self, rows: ScoredRows) -> None:
        self.total += float(rows.active_rows_E.sum())


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
        sum_M = rows.x_BM.sum(dim=0)
        self.sum_M = sum_M if self.sum_M is None else self.sum_M + sum_M

    def _value(self) -> float | None:
        assert self.sum_M is not None
        mean_square_of_mean = float((self.sum_M / self.n_rows).square().sum())
        variance = self.square / self.n_rows - mean_square_of_mean
        # Below this, the difference of two sums of squares is rounding.
        exists = variance > 1e-12 * self.square / self.n_rows
        return 1.0 - self.total / self.n_rows / variance if exists else None


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


class DeadLatents(Metric):
    """Latents active on none of the scored rows. Falls as more rows are scored."""

    unit = "latents"

    def _add(self, rows: ScoredRows) -> None:
        self.active_rows_E += rows.active_rows_E

    def _value(self) -> float | None:
        return float((self.active_rows_E == 0).sum())


class AliveLatents(DeadLatents):
    """Latents active on at least one of the scored rows. Rises as more rows are scored."""

    def _value(self) -> float:
        return float((self.active_rows_E > 0).sum())


class DensityMedian(DeadLatents):
    """Median over the alive latents of the share of rows on which the latent is active."""

    unit = "fraction of rows"

    def _value(self) -> float | None:
        ordered_E = self.active_rows_E[self.active_rows_E > 0].double().sort().values
        middle = len(ordered_E) // 2
        return float(ordered_E[middle] + ordered_E[-1 - middle]) / 2 / self.n_rows if len(ordered_E) else None


class DecoderMaxCosineMean(Metric):
    """Mean over latents of the largest cosine between the latent's decoder row and any other. 0: all orthogonal."""

    unit = "cosine"

    def _add(self, rows: ScoredRows) -> None:
        """No row changes the decoder."""

    def _value(self) -> float:
        return float(self.max_cosine_E.mean())


class DecoderMaxCosineP95(DecoderMaxCosineMean):
    """95th percentile over latents of the largest cosine between the latent's decoder row and any other."""

    def _value(self) -> float:
        ordered_E = self.max_cosine_E.sort().values
        return float(ordered_E[round(0.95 * (len(ordered_E) - 1))])


METRICS: dict[str, type[Metric]] = {
    "l0": L0,
    "r2_pooled": R2Pooled,
    "sse": SSE,
    "mse_per_dim": MSEPerDim,
    "cosine_similarity": CosineSimilarity,
    "norm_ratio": NormRatio,
    "relative_reconstruction_bias": RelativeReconstructionBias,
    "dead_latents": DeadLatents,
    "alive_latents": AliveLatents,
    "density_median": DensityMedian,
    "decoder_max_cosine_mean": DecoderMaxCosineMean,
    "decoder_max_cosine_p95": DecoderMaxCosineP95,
}
