"""The sums from which every metric of an SAE follows: over all rows of a population, and over batches of them."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, TargetRows, WeightFacts

BATCH_ROWS = 2048
"""Rows of a batch, of metrics that are means over batches (count)."""
# SAEBench's core evaluation takes 16 contexts of 128 tokens at a time. The size is fixed, so that no value depends on
# how many rows are read at once. A shorter last batch counts only where it is the only one: of few rows, a variance is
# nearly any number.


FIXED_ROWS = (10_000, 100_000, 1_000_000)
"""Counts of rows at which dead and rare latents are counted: shares of unequal counts cannot be compared."""


def spread(mean_square: float, square_of_mean: float) -> float | None:
    """E ||x||^2 - ||E x||^2, the variance summed over the columns; None where it is rounding of that difference."""
    variance = mean_square - square_of_mean
    return variance if variance > 1e-12 * mean_square else None


class BatchTargets(NamedTuple):
    """What a batch of rows is, whatever the SAE. distance_B: ||x - mean of the batch||^2, in the batch's order."""

    n_rows: int
    square: float
    variance: float | None
    norm: float
    distance_B: Tensor


class Segment(NamedTuple):
    """Rows of a population that lie in one batch: slices of the parts that were read, and the batch that they end."""

    slices: tuple[slice, ...]
    """One for each part; empty where none of its rows belongs to it."""
    ends: BatchTargets | None


class BatchSums(NamedTuple):
    """Sums over the rows of one batch. Those of rows are over `targets.n_rows` rows."""

    targets: BatchTargets
    error_square: float
    xhat_square: float
    dot: float
    centred_error: float
    """E ||e||^2 - ||E e||^2."""
    shares: tuple[float, int]
    """Sum of ||e||^2 / ||x - mean||^2 over the rows that have one, and how many have."""
    error_norm: float
    xhat_norm: float
    ratio: float
    """Of ||xhat|| / ||x||, without any guard."""
    guarded_ratio: float
    """The same, with 1 in the place of norms below 1e-4."""
    cosine: float
    """Of <x, xhat> / (||x|| ||xhat||), without any guard."""
    active: float
    absolute: float
    signed: float


class Totals:
    """Sums over all rows of a population that one SAE reconstructed, by one of its ways of inference."""

    batch_rows: ClassVar[int] = BATCH_ROWS

    def __init__(self, weights: WeightFacts) -> None:
        self.weights = weights
        counts_E = torch.zeros_like(weights.decoder_max_cosine_E, dtype=torch.int64)
        self.active_rows_E, self.positive_rows_E = counts_E, counts_E.clone()
        self.signed_E = torch.zeros_like(weights.decoder_max_cosine_E)
        self.n_rows = self.d_out = self.n_with_norm = 0
        self.error_square = self.error_square_per_dim = self.square = self.xhat_square = self.dot = 0.0
        self.cosine = self.ratio = self.absolute = 0.0
        self.sum_M: Tensor = torch.zeros((), dtype=torch.float64)
        self.error_sum_M: Tensor = torch.zeros((), dtype=torch.float64)
        self.batches: list[BatchSums] = []
        self.active_at: dict[int, Tensor] = {}
        """Of FIXED_ROWS -> `active_rows_E` of the first so many rows, once there are as many."""
        self.of_tokens: dict[str, tuple[int, float]] = {}
        """Kind of token -> rows of that kind (count), and the sum of ||e||^2 over them."""
        self._filling = _Filling()

    def update(self, parts: Sequence[ScoredRows], segments: Sequence[Segment]) -> None:
        """Take rows in: those of the segments, in batches as they say."""
        self._count_at(parts, segments)
        for place, rows in enumerate(parts):
            used = [part for segment in segments if (part := segment.slices[place]).stop > part.start]
            if used:
                self._add(rows, slice(used[0].start, used[-1].stop), used)
        for segment in segments:
            for rows, part in zip(parts, segment.slices, strict=True):
                if part.stop > part.start:
                    self._filling.add(rows, part)
            if segment.ends is not None:
                self.end_batch(segment.ends)

    def end_batch(self, targets: BatchTargets) -> None:
        """The rows since the last one were this batch."""
        self.batches.append(self._filling.sums(targets))
        self._filling = _Filling()

    def add_tokens(self, kind: str, rows: ScoredRows, kept_B: Tensor) -> None:
        """Take in the errors of tokens of one kind."""
        n_rows, error_square = self.of_tokens.get(kind, (0, 0.0))
        found_B = rows.error_square_B[kept_B]
        self.of_tokens[kind] = (n_rows + len(found_B), error_square + float(found_B.sum()))

    def variance(self) -> float | None:
        """Of the rows, summed over the columns; None where that is rounding."""
        return spread(self.square / self.n_rows, float((self.sum_M / self.n_rows).square().sum()))

    def _count_at(self, parts: Sequence[ScoredRows], segments: Sequence[Segment]) -> None:
        """Keep how often latents were active on the first rows, where a segment ends at one of the fixed counts."""
        n_rows = self.n_rows
        for segment in segments:
            n_rows += sum(part.stop - part.start for part in segment.slices)
            if n_rows in FIXED_ROWS:
                now = (rows.active_until(part.stop) for rows, part in zip(parts, segment.slices, strict=True))
                self.active_at[n_rows] = sum(now, start=self.active_rows_E)

    def _add(self, rows: ScoredRows, part: slice, pieces: list[slice]) -> None:
        targets, codes = rows.targets, rows.codes
        self.n_rows, self.d_out = self.n_rows + part.stop - part.start, rows.d_out
        error_square = float(rows.error_square_B[part].sum())
        self.error_square += error_square
        self.error_square_per_dim += error_square / rows.d_out
        self.square += float(targets.square_B[part].sum())
        self.xhat_square += float(rows.xhat_square_B[part].sum())
        self.dot += float(rows.dot_B[part].sum())
        self.sum_M = self.sum_M + targets.sum_M(part)
        for piece in pieces:
            self.error_sum_M = self.error_sum_M + rows.error_sum_M(piece)
        norms_B = targets.norm_B[part] * rows.xhat_norm_B[part]
        self.cosine += float((rows.dot_B[part] / norms_B.where(norms_B > 0.0, 1.0)).sum())
        defined_B = targets.square_B[part] > 0.0
        self.n_with_norm += int(defined_B.sum())
        shares_B = rows.xhat_square_B[part][defined_B] / targets.square_B[part][defined_B]
        self.ratio += float(shares_B.sqrt().sum())
        self.absolute += float(codes.absolute_B.sum())
        self.active_rows_E += codes.active_rows_E
        self.positive_rows_E += codes.positive_rows_E
        self.signed_E += codes.signed_E


class _Filling:
    """The batch that is being filled."""

    def __init__(self) -> None:
        self._by_row: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        self._error_sum_M: Tensor = torch.zeros((), dtype=torch.float64)
        self._active = self._absolute = self._signed = 0.0

    def add(self, rows: ScoredRows, part: slice) -> None:
        """Some rows more."""
        by_row = (rows.error_square_B, rows.xhat_square_B, rows.dot_B, rows.targets.norm_B)
        error_square_B, xhat_square_B, dot_B, norm_B = (values_B[part] for values_B in by_row)
        self._by_row.append((error_square_B, xhat_square_B, dot_B, norm_B))
        self._error_sum_M = self._error_sum_M + rows.error_sum_M(part)
        self._active += float(rows.codes.active_B[part].sum())
        self._absolute += float(rows.codes.absolute_B[part].sum())
        self._signed += float(rows.codes.signed_B[part].sum())

    def sums(self, targets: BatchTargets) -> BatchSums:
        """Of the rows of the batch."""
        error_square_B, xhat_square_B, dot_B, norm_B = (torch.cat(parts) for parts in zip(*self._by_row, strict=True))
        xhat_norm_B, has_one_B = xhat_square_B.sqrt(), targets.distance_B > 0.0
        shares_B = error_square_B[has_one_B] / targets.distance_B[has_one_B]
        error_square = float(error_square_B.sum())
        return BatchSums(
            targets=targets,
            error_square=error_square,
            xhat_square=float(xhat_square_B.sum()),
            dot=float(dot_B.sum()),
            centred_error=error_square / targets.n_rows - float((self._error_sum_M / targets.n_rows).square().sum()),
            shares=(float(shares_B.sum()), len(shares_B)),
            error_norm=float(error_square_B.sqrt().sum()),
            xhat_norm=float(xhat_norm_B.sum()),
            ratio=float((xhat_norm_B / norm_B).sum()),
            guarded_ratio=float((xhat_norm_B / norm_B.where(norm_B >= 1e-4, 1.0)).sum()),
            cosine=float((dot_B / (norm_B * xhat_norm_B)).sum()),
            active=self._active,
            absolute=self._absolute,
            signed=self._signed,
        )


class Batching:
    """Cuts the rows of a population into batches, as they come. Rows come in parts, which all SAEs share."""

    def __init__(self, batch_rows: int = 0) -> None:
        self._batch_rows = batch_rows or Totals.batch_rows
        self._filled = self._n_rows = 0
        self._parts: list[tuple[TargetRows, slice]] = []
        self.n_batches = 0

    def cuts(self, n_rows: int) -> Iterator[tuple[int, int, bool]]:
        """Of the next rows: first, end, and whether a batch ends there. One of FIXED_ROWS is an end, too."""
        start = 0
        while start < n_rows:
            to_fixed = min((count - self._n_rows for count in FIXED_ROWS if count > self._n_rows), default=n_rows)
            stop = min(start + self._batch_rows - self._filled, start + to_fixed, n_rows)
            self._filled, self._n_rows = self._filled + stop - start, self._n_rows + stop - start
            if ends := self._filled == self._batch_rows:
                self._filled = 0
            yield start, stop, ends
            start = stop

    def segment(self, parts: Sequence[TargetRows], slices: tuple[slice, ...], ends: bool) -> Segment:
        """The rows of one cut."""
        self._parts += [(rows, part) for rows, part in zip(parts, slices, strict=True) if part.stop > part.start]
        return Segment(slices, self.batch() if ends else None)

    def batch(self) -> BatchTargets:
        """The rows since the last one."""
        square_B = torch.cat([rows.square_B[part] for rows, part in self._parts])
        sum_M = sum((rows.sum_M(part) for rows, part in self._parts), start=torch.zeros(()))
        n_rows, square = len(square_B), float(square_B.sum())
        mean_M = sum_M / n_rows
        distance_B = torch.cat([(rows.x_BM[part] - mean_M).square_().sum(dim=1) for rows, part in self._parts])
        variance = spread(square / n_rows, float(mean_M.square().sum()))
        self._parts, self.n_batches = [], self.n_batches + 1
        return BatchTargets(n_rows, square, variance, float(square_B.sqrt().sum()), distance_B)

    def last(self) -> BatchTargets | None:
        """The shorter batch at the end, if it is the only one."""
        return self.batch() if self._parts and not self.n_batches else None
