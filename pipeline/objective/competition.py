"""Which latents compete: how often two are on together, and how strongly that counts. Never forms [E, E]."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.kernels.codes import SparseCodes, offsets_of

PAIRS_PER_CHUNK = 2**23
"""Co-active pairs looked at together (count); bounds the memory."""


@dataclass(frozen=True)
class CoActive:
    """Pairs of latents that are on together in at least one row, each once, first < second, sorted; counts float64."""

    first: Tensor
    second: Tensor
    n_both: Tensor
    """Rows in which both are on."""
    n_first: Tensor
    """Rows in which the first is on."""
    n_second: Tensor
    """Rows in which the second is on."""
    batch_size: int


NORMALISATIONS: dict[str, Callable[[CoActive], tuple[Tensor, Tensor]]] = {
    "min": lambda pairs: _both_ways(pairs.n_both / torch.minimum(pairs.n_first, pairs.n_second)),
    "batch": lambda pairs: _both_ways(pairs.n_both / pairs.batch_size),
    "jaccard": lambda pairs: _both_ways(pairs.n_both / (pairs.n_first + pairs.n_second - pairs.n_both)),
    "conditional": lambda pairs: (pairs.n_both / pairs.n_first, pairs.n_both / pairs.n_second),
}
"""Name -> mask intersection n_ij and n_ji, each from 0 to 1. `conditional`: share of i's rows with j on."""

SHAPES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "linear": lambda n, threshold, temperature: ((n - threshold) / threshold).clamp(0, 1),
    "sigmoid": lambda n, threshold, temperature: torch.sigmoid((n - threshold) / temperature),
}
"""Name -> competition c of a mask intersection n, given the threshold (above 0) and the temperature."""


def co_active(codes: SparseCodes) -> Iterator[CoActive]:
    """All pairs of latents with values above 0 in the same row, in chunks of rising first latent."""
    codes = _active_sorted(codes)
    n_rows_E = torch.bincount(codes.indices_P, minlength=codes.n_latents).double()
    order_P, rows_P, _ = codes.by_latent
    partners_P = codes.offsets[rows_P + 1] - order_P - 1  # the pairs after it in its row: latents with a larger number
    for start, stop in _chunks(codes.indices_P[order_P], partners_P):
        places, counts = order_P[start:stop], partners_P[start:stop]
        n_keys = int(counts.sum())
        first = codes.indices_P[places].repeat_interleave(counts, output_size=n_keys)
        begins = counts.cumsum(0) - counts
        skip = (places + 1 - begins).repeat_interleave(counts, output_size=n_keys)
        second = codes.indices_P[torch.arange(n_keys, device=first.device) + skip]
        keys, n_both = torch.unique_consecutive((first * codes.n_latents + second).sort().values, return_counts=True)
        first, second = keys.div(codes.n_latents, rounding_mode="floor"), keys % codes.n_latents
        yield CoActive(first, second, n_both.double(), n_rows_E[first], n_rows_E[second], codes.batch_size)


def competing(
    codes: SparseCodes, normalisation: str, shape: str, threshold: float, temperature: float
) -> tuple[SparseCodes, int]:
    """Pairs that compete, as codes: value [i, j] is c_ij + c_ji, for i < j. Returns: them, and how many."""
    kept = []
    for pairs in co_active(codes):
        n_there, n_back = NORMALISATIONS[normalisation](pairs)
        c = SHAPES[shape](n_there, threshold, temperature) + SHAPES[shape](n_back, threshold, temperature)
        where = (c > 0).nonzero().squeeze(1)
        kept.append((pairs.first[where], pairs.second[where], c[where]))
    if not kept:
        empty = codes.indices_P.new_empty(0)
        kept = [(empty, empty, empty.double())]
    first, second, c = (torch.cat(parts) for parts in zip(*kept, strict=True))
    offsets = offsets_of(torch.bincount(first, minlength=codes.n_latents))
    return SparseCodes(c.to(codes.values_P.dtype), second, offsets, codes.n_latents), c.numel()


def _both_ways(n: Tensor) -> tuple[Tensor, Tensor]:
    return n, n


def _active_sorted(codes: SparseCodes) -> SparseCodes:
    """The pairs with a value above 0, by rising latent within each row."""
    active_P = (codes.values_P > 0).nonzero().squeeze(1)
    keys_P = (codes.rows_P[active_P] * codes.n_latents + codes.indices_P[active_P]).sort().values
    rows_P = keys_P.div(codes.n_latents, rounding_mode="floor")
    counts_B = torch.bincount(rows_P, minlength=codes.batch_size)
    return SparseCodes(torch.ones_like(keys_P), keys_P % codes.n_latents, offsets_of(counts_B), codes.n_latents)


def _chunks(latents_P: Tensor, partners_P: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches of whole latents with about PAIRS_PER_CHUNK partners each (latents_P is sorted)."""
    if latents_P.numel() == 0:
        return
    ends = _last_of_each(latents_P) + 1
    chunk_numbers = partners_P.cumsum(0)[ends - 1] // PAIRS_PER_CHUNK
    start = 0
    for stop in ends[_last_of_each(chunk_numbers)].tolist():
        yield start, stop
        start = stop


def _last_of_each(sorted_numbers: Tensor) -> Tensor:
    """Places of the last of each run of equal numbers."""
    return torch.nn.functional.pad(sorted_numbers.diff() != 0, (0, 1), value=True).nonzero().squeeze(1)
