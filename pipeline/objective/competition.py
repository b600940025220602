"""Which latents compete: how often two are on together, and how strongly that counts. Never forms [E, E]."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.kernels.codes import SparseCodes, offsets_of

PAIRS_PER_CHUNK = 2**23
"""Co-active pairs, each as often as it occurs, looked at together (count); bounds the memory."""
LARGEST_LIFT = 10.0
"""Where `lift` is cut. Source: seed 001's sibling."""


@dataclass(frozen=True)
class Occurrences:
    """The rows in which pairs are on together: where both latents stand among the codes' pairs, N times."""

    first_place: Tensor
    second_place: Tensor
    by_pair: Tensor
    """Numbers from 0 to N - 1, those of a pair together, pairs sorted."""
    starts: Tensor
    """Where each pair begins in `by_pair`."""


@dataclass(frozen=True)
class CoActive:
    """Pairs of latents that are on together in at least one row, once, first < second, sorted; counts are floats."""

    keys: Tensor
    """Both numbers in one: first << bits | second."""
    first: Tensor
    second: Tensor
    n_both: Tensor
    """Rows in which both are on."""
    n_first: Tensor
    """Rows in which the first is on."""
    n_second: Tensor
    """Rows in which the second is on."""
    batch_size: int
    density: float
    """Share of latents on, over the batch: l0 / d_sae."""


@dataclass(frozen=True)
class Competing:
    """Pairs with a competition above 0, each once, first < second, sorted."""

    keys: Tensor
    """first << bits | second, as in CoActive."""
    c: Tensor
    """c_ij + c_ji."""
    first_place: Tensor
    """Where the first latent stands among the codes' pairs, in one of the rows in which both are on."""
    second_place: Tensor
    """Where the second stands, in the same row."""
    n_latents: int

    def latents(self) -> tuple[Tensor, Tensor]:
        """The first and the second of every pair."""
        return _split(self.keys, self.n_latents)


def _lift(pairs: CoActive) -> Tensor:
    share = pairs.n_both / torch.minimum(pairs.n_first, pairs.n_second)
    return (share / pairs.density).clamp(max=LARGEST_LIFT)


NORMALISATIONS: dict[str, Callable[[CoActive], tuple[Tensor, Tensor]]] = {
    "min": lambda pairs: _both_ways(pairs.n_both / torch.minimum(pairs.n_first, pairs.n_second)),
    "batch": lambda pairs: _both_ways(pairs.n_both / pairs.batch_size),
    "jaccard": lambda pairs: _both_ways(pairs.n_both / (pairs.n_first + pairs.n_second - pairs.n_both)),
    "conditional": lambda pairs: (pairs.n_both / pairs.n_first, pairs.n_both / pairs.n_second),
    "lift": lambda pairs: _both_ways(_lift(pairs)),
}
"""Name -> mask intersection n_ij and n_ji, from 0 to 1. `conditional`: share of i's rows with j on. `lift`: the larger
of both directions' P(i|j) / (l0 / d_sae), from 0 to LARGEST_LIFT; 1 is chance."""

SHAPES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "linear": lambda n, threshold, temperature: ((n - threshold) / threshold).clamp(0, 1),
    "sigmoid": lambda n, threshold, temperature: torch.sigmoid((n - threshold) / temperature),
    "proportional": lambda n, threshold, temperature: n,
}
"""Name -> competition c of a mask intersection n, given the threshold (above 0) and the temperature."""


def active_sorted(codes: SparseCodes) -> tuple[SparseCodes, Tensor]:
    """The pairs with a value other than 0, by rising latent within each row, and their places in `codes`."""
    active_P = (codes.values_P != 0).nonzero().squeeze(1)
    keys_P = codes.rows_P[active_P] * codes.n_latents + codes.indices_P[active_P]
    places_P = active_P[keys_P.argsort(stable=True)]
    counts_B = torch.bincount(codes.rows_P[active_P], minlength=codes.batch_size)
    return SparseCodes(
        codes.values_P[places_P], codes.indices_P[places_P], offsets_of(counts_B), codes.n_latents
    ), places_P


def co_active(codes: SparseCodes) -> Iterator[tuple[CoActive, Occurrences]]:
    """All pairs of latents in the same row of sorted codes, in chunks of rising first latent."""
    bits = _bits(codes.n_latents)
    # Numbers of 32 bits sort in half the passes of 64; a shift costs a tenth of a division.
    latents_P = codes.indices_P.to(torch.int32 if 2 * bits < 32 else torch.int64)
    n_rows_E = torch.bincount(codes.indices_P, minlength=codes.n_latents).to(codes.values_P.dtype)
    density = codes.indices_P.numel() / max(codes.batch_size * codes.n_latents, 1)
    order_P, rows_P, _ = codes.by_latent
    partners_P = codes.offsets[rows_P + 1] - order_P - 1  # the pairs after it in its row: latents with a larger number
    for start, stop in _chunks(codes.indices_P[order_P], partners_P):
        places, counts = order_P[start:stop], partners_P[start:stop]
        n_keys = int(counts.sum())
        source = torch.repeat_interleave(counts, output_size=n_keys)
        skip = places + 1 - (counts.cumsum(0) - counts)
        second_place = torch.arange(n_keys, device=source.device).add_(skip.index_select(0, source))
        first_place = places.index_select(0, source)
        keys = (latents_P << bits).index_select(0, first_place) | latents_P.index_select(0, second_place)
        keys, by_pair = keys.sort(stable=True)
        keys, n_both = torch.unique_consecutive(keys, return_counts=True)
        first, second = _split(keys, codes.n_latents)
        n_first, n_second = n_rows_E.index_select(0, first), n_rows_E.index_select(0, second)
        counts = n_both.to(n_first.dtype)
        pairs = CoActive(keys, first, second, counts, n_first, n_second, codes.batch_size, density)
        yield pairs, Occurrences(first_place, second_place, by_pair, n_both.cumsum(0) - n_both)


def competition(pairs: CoActive, normalisation: str, shape: str, threshold: float, temperature: float) -> Tensor:
    """c_ij + c_ji of every pair."""
    n_there, n_back = NORMALISATIONS[normalisation](pairs)
    c = SHAPES[shape](n_there, threshold, temperature)
    return c + c if n_back is n_there else c + SHAPES[shape](n_back, threshold, temperature)


def competing(codes: SparseCodes, normalisation: str, shape: str, threshold: float, temperature: float) -> Competing:
    """The pairs of sorted codes that compete; only these are kept of each chunk."""
    kept = []
    for pairs, where in co_active(codes):
        c = competition(pairs, normalisation, shape, threshold, temperature)
        competes = (c > 0).nonzero().squeeze(1)
        once = where.by_pair.index_select(0, where.starts.index_select(0, competes))  # one of its rows
        places = where.first_place.index_select(0, once), where.second_place.index_select(0, once)
        kept.append((pairs.keys.index_select(0, competes), c.index_select(0, competes), *places))
    if not kept:
        empty = codes.indices_P.new_empty(0)
        kept = [(empty, codes.values_P.new_empty(0), empty, empty)]
    keys, c, first_place, second_place = (_joined(parts) for parts in zip(*kept, strict=True))
    return Competing(keys, c, first_place, second_place, codes.n_latents)


def between(codes: SparseCodes, first: Tensor, second: Tensor) -> CoActive:
    """The same counts for pairs of one's choice, whether or not they are ever on together."""
    on, other = (_on(codes, latents) for latents in (first, second))
    counts = ((on & other).sum(0).double(), on.sum(0).double(), other.sum(0).double())
    density = codes.n_active() / max(codes.batch_size * codes.n_latents, 1)
    keys = first << _bits(codes.n_latents) | second
    return CoActive(keys, first, second, *counts, codes.batch_size, density)


def _on(codes: SparseCodes, latents: Tensor) -> Tensor:
    """Whether each of some latents is on in each row: bool, [B, number of latents]."""
    columns = []
    for latent in latents.tolist():
        rows = codes.rows_P[(codes.indices_P == latent) & (codes.values_P != 0)]
        columns.append(torch.bincount(rows, minlength=codes.batch_size) > 0)
    return torch.stack(columns, dim=1)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _bits(n_latents: int) -> int:
    return max(n_latents - 1, 1).bit_length()


def _split(keys: Tensor, n_latents: int) -> tuple[Tensor, Tensor]:
    bits = _bits(n_latents)
    return keys >> bits, keys & ((1 << bits) - 1)


def _both_ways(n: Tensor) -> tuple[Tensor, Tensor]:
    return n, n


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
