"""Where b_dec starts: at a centre of the first batch, or of all rows to train on."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from strata_sae.pipeline.reading.feed import Rows
from strata_sae.pipeline.saes.base import SAE


class Targets(Protocol):
    """Where rows to reconstruct come from, as training sees them."""

    def batch(self, step: int) -> Rows:
        """Batch `step`."""

    def targets_in_order(self) -> Iterable[Tensor]:
        """All rows to train on, once, in the store's order: [B, M] each."""


def geometric_median(x_BM: Tensor, *, iterations: int = 100, tolerance: float = 1e-5) -> Tensor:
    """The point of least total distance to the rows: [M], in the rows' dtype.

    Source: Weiszfeld 1937, from the mean; the floor on distances guards a row that is hit exactly.
    """
    rows_BM = x_BM.double()
    median_M = rows_BM.mean(dim=0)
    for _ in range(iterations):
        distance_B = torch.linalg.vector_norm(rows_BM - median_M, dim=1).clamp_min(1e-12)
        weight_B = 1.0 / distance_B
        moved_M = (weight_B @ rows_BM) / weight_B.sum()
        shift = torch.linalg.vector_norm(moved_M - median_M)
        median_M = moved_M
        if shift < tolerance:
            break
    return median_M.to(x_BM.dtype)


CENTRES: dict[str, Callable[[Tensor], Tensor]] = {
    "geometric_median": geometric_median,
    "mean": lambda x_BM: x_BM.mean(dim=0),
    "median": lambda x_BM: (x_BM.median(dim=0).values - (-x_BM).median(dim=0).values) / 2,  # torch takes the lower one
    "zero": lambda x_BM: torch.zeros_like(x_BM[0]),
}
"""Where b_dec may start, of the first batch: [M]. Sources: dictionary_learning, sparsify, HypotheSAEs, SAELens."""


def start_at_a_centre(saes: Sequence[SAE], rows: Targets) -> None:
    """Set the decoder bias of new SAEs to the centre that the settings of each name, each centre being found once."""
    points: dict[tuple[str, str], Tensor] = {}
    for sae in saes:
        initial = sae.settings.initial
        if initial.b_dec == "zero":
            continue  # as it is drawn
        wanted = (initial.b_dec, initial.b_dec_from)
        if wanted not in points and initial.b_dec_from == "train_split":
            points[wanted] = CENTRES_OF_ALL[initial.b_dec](rows.targets_in_order)
        elif wanted not in points:
            points[wanted] = CENTRES[initial.b_dec](rows.batch(0).target)
        sae.b_dec.copy_(points[wanted])


def mean_of_all(batches: Callable[[], Iterable[Tensor]]) -> Tensor:
    """The mean of each column over all batches, summed in float64: float32 [M]."""
    sums = ((x_BM.double().sum(dim=0), x_BM.shape[0]) for x_BM in batches())
    total_M, n_rows = next(sums)
    for sum_M, n in sums:
        total_M, n_rows = total_M + sum_M, n_rows + n
    return (total_M / n_rows).float()


def median_of_all(batches: Callable[[], Iterable[Tensor]]) -> Tensor:
    """The exact median of each column over all batches, of float32 rows: [M]. `batches` is called four times.

    A pass counts, for every column, the values of one byte among the numbers that share the bytes found so far with
    the middle one. So 256 counts a column are in memory, and no row. Of an even number of rows: the mean of the middle
    two.
    """
    found: Tensor | None = None  # [2, M]: the upper bytes of the two middle numbers
    left: Tensor | None = None  # [2, M]: how many numbers that share them lie below
    for shift in (24, 16, 8, 0):
        counts = _counts(batches, found, shift)
        if found is None or left is None:
            n_rows = counts[0, 0].sum()
            left = torch.stack([(n_rows - 1) // 2, n_rows // 2])[:, None].expand(-1, counts.shape[1])
            counts, found = counts.expand(2, -1, -1), torch.zeros_like(left)
        up_to = counts.cumsum(dim=2)
        byte = (up_to <= left[:, :, None]).sum(dim=2, keepdim=True)
        left = left - (up_to - counts).gather(2, byte).squeeze(2)
        found = (found << 8) + byte.squeeze(2)
    assert found is not None
    return (_numbers(found).double().mean(dim=0)).float()


def _counts(batches: Callable[[], Iterable[Tensor]], found: Tensor | None, shift: int) -> Tensor:
    """How often each value of the byte at `shift` occurs in each column: [1 or 2, M, 256].

    found: upper bytes [2, M] that a number must share with the first, or the second, to be counted; None: all count.
    """
    uppers: list[Tensor | None] = [None] if found is None else [*found]
    total: Tensor | None = None
    for x_BM in batches():
        keys_BM = _keys(x_BM)
        n_columns = keys_BM.shape[1]
        places_BM = ((keys_BM >> shift) & 255) + torch.arange(n_columns, device=keys_BM.device) * 256
        of_batch = []
        for upper_M in uppers:
            counted = places_BM.flatten() if upper_M is None else places_BM[keys_BM >> (shift + 8) == upper_M]
            of_batch.append(torch.bincount(counted, minlength=n_columns * 256).view(n_columns, 256))
        total = torch.stack(of_batch) if total is None else total + torch.stack(of_batch)
    assert total is not None, "a median needs at least one batch"
    return total


def _keys(x_BM: Tensor) -> Tensor:
    """Integers of 32 bits, from 0, in the order of the float32 numbers: int64."""
    bits = x_BM.view(torch.int32).long()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)) + 2**31  # below 0, larger bits are a smaller number


def _numbers(keys: Tensor) -> Tensor:
    """The float32 numbers of `_keys`."""
    signed = keys - 2**31
    return (signed ^ ((signed >> 31) & 0x7FFFFFFF)).int().view(torch.float32)


CENTRES_OF_ALL: dict[str, Callable[[Callable[[], Iterable[Tensor]]], Tensor]] = {
    "mean": mean_of_all,
    "median": median_of_all,
}
"""Where b_dec may start, of all rows to train on. Source: HypotheSAEs (median)."""
