"""What training remembers beside weights: since when each latent is silent, and where the activation cut lies."""

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes


class DeadClock:
    """Rows seen since each latent last fired. A latent fires where its value is not 0."""

    def __init__(self, d_sae: int, dead_after_rows: int, device: torch.device) -> None:
        self.dead_after_rows = dead_after_rows
        self.rows_since_active = torch.zeros(d_sae, dtype=torch.int64, device=device)  # [E]

    def update(self, codes: Codes) -> Tensor:
        """Count one batch. Returns: dead, bool [E], this batch included."""
        self.rows_since_active += codes.batch_size
        self.rows_since_active.masked_fill_(codes.active_E(), 0)
        return self.dead()

    def dead(self) -> Tensor:
        """Whether each latent is dead: bool [E]."""
        return self.rows_since_active >= self.dead_after_rows


class RunningThreshold:
    """Running mean of the smallest selected activation, in float64; batches without a positive one are skipped.

    `start`: `corrected` for beginning at 0 (by the weight of that beginning), `first_value`, or `from_zero`.
    Source: dictionary_learning's TopK and BatchTopK trainers (first_value), SAELens and HypotheSAEs (from_zero).
    """

    def __init__(self, beta: float, per_row: bool, device: torch.device, *, start: str = "corrected") -> None:
        self.beta = beta
        self.per_row = per_row
        self.start = start
        self.mean = torch.zeros((), dtype=torch.float64, device=device)
        self.weight = torch.zeros((), dtype=torch.float64, device=device)  # how much of the mean is not its start, 0

    def update(self, codes: Codes) -> None:
        """Count one batch: the smallest positive activation of all its rows, or of each row on average."""
        smallest_B = _smallest_positive(codes).double()
        found_B = smallest_B.isfinite()
        over_rows = smallest_B.masked_fill(~found_B, 0.0).sum() / found_B.sum()
        smallest = over_rows if self.per_row else smallest_B.amin()
        share = found_B.any().double() * (1.0 - self.beta)
        if self.start == "first_value":
            share = torch.where(self.weight > 0, share, found_B.any().double())
        self.mean.lerp_(smallest.nan_to_num(nan=0.0, posinf=0.0), share)
        self.weight.lerp_(torch.ones_like(self.weight), share)

    def is_set(self) -> bool:
        """Whether there has been a positive activation."""
        return float(self.weight) > 0

    def value(self) -> float:
        """The threshold; 0 while it is not set."""
        if not self.is_set():
            return 0.0
        return float(self.mean if self.start == "from_zero" else self.mean / self.weight)


def _smallest_positive(codes: Codes) -> Tensor:
    """The smallest positive value of each row, infinity where there is none: [B]."""
    values = codes.values.masked_fill(codes.values <= 0, torch.inf)
    if isinstance(codes, DenseCodes):
        return values.amin(dim=1)
    return values.new_full((codes.batch_size,), torch.inf).scatter_reduce_(0, codes.rows_P.long(), values, "amin")
