"""Errors by the row's place in its document."""

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.scored_rows import ScoredRows, TargetRows
from strata_sae.pipeline.evaluation.totals import spread
from strata_sae.pipeline.runs.evaluation_records import PositionScores

STARTS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
"""First place of each bucket; the last one has no end."""
N_BUCKETS = len(STARTS)


def bucket_of(positions_B: np.ndarray) -> Tensor:
    """The bucket of each place: int64 [B]."""
    return torch.from_numpy(np.searchsorted(STARTS, positions_B, side="right") - 1)


class PositionRows:
    """Sums over the rows of each bucket, whatever the SAE."""

    def __init__(self) -> None:
        self.n_rows = torch.zeros(N_BUCKETS, dtype=torch.int64)
        self._square = torch.zeros(N_BUCKETS, dtype=torch.float64)
        self._sums: dict[int, Tensor] = {}

    def take(self, bucket_B: Tensor, rows: TargetRows, part: slice) -> None:
        """Take some rows of a part in."""
        self.n_rows += torch.bincount(bucket_B, minlength=N_BUCKETS).cpu()
        self._square += by_bucket(bucket_B, rows.square_B[part])
        for bucket in bucket_B.unique().tolist():
            sum_M = rows.x_BM[part][bucket_B == bucket].sum(dim=0)
            self._sums[bucket] = self._sums[bucket] + sum_M if bucket in self._sums else sum_M

    def scores(self, error_square: Tensor, d_out: int) -> list[PositionScores]:
        """With an SAE's sums of ||e||^2 by bucket, [buckets]: the buckets that hold rows."""
        found = []
        for bucket, sum_M in sorted(self._sums.items()):
            n_rows, error = int(self.n_rows[bucket]), float(error_square[bucket])
            variance = spread(float(self._square[bucket]) / n_rows, float((sum_M / n_rows).square().sum()))
            stop = STARTS[bucket + 1] if bucket + 1 < N_BUCKETS else None
            found.append(
                PositionScores(
                    start=STARTS[bucket],
                    stop=stop,
                    n_rows=n_rows,
                    mse_per_dim=error / n_rows / d_out,
                    r2_pooled=None if variance is None else 1.0 - error / n_rows / variance,
                )
            )
        return found


def by_bucket(bucket_B: Tensor, values_B: Tensor) -> Tensor:
    """Sums of the values of each bucket: float64 [buckets], on the processor."""
    return torch.bincount(bucket_B, values_B, minlength=N_BUCKETS).cpu()


def error_by_bucket(rows: ScoredRows, bucket_B: Tensor, part: slice) -> Tensor:
    """Sums of ||e||^2 of some rows by bucket."""
    return by_bucket(bucket_B[part], rows.error_square_B[part])
