"""Pairs of latents: how strongly two latents that are active together compete, and penalties of their similarity.

No matrix [E, E] is formed.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import SparseCodes
from strata_sae.pipeline.kernels.machine.backend import backend_of
from strata_sae.pipeline.kernels.machine.reference import RowPairs, occurrences, partner_offsets

OCCURRENCES_PER_CHUNK = 2**24
"""Co-active pairs, each as often as it occurs, that are counted together (count); bounds the memory."""
# A batch of 2048 rows at k 128 has 16.6 million, so nearly every batch is one chunk. On a CPU each takes 8 bytes.
LARGEST_LIFT = 10.0
"""Largest `lift`. Source: seed 001's sibling."""
ROUNDING_MARGIN = 1e-12
"""A share above the threshold by less than this (relative) counts as equal to it."""
# Above the rounding of a float64 quotient (2e-16). Such a pair has c = 0, and its least count would depend on rounding.
SUMMED_AT_ONCE = 4096
"""Values that one thread sums (count)."""
# Of a fixed length, because torch splits a sum by the number of threads, which would change the last bits of the loss.


@dataclass(frozen=True)
class Occurrences:
    """Every time that a pair is active together: the places of both latents among the codes' entries, by pair."""

    first_place: Tensor
    second_place: Tensor
    n_both: Tensor
    """How many belong to each pair, one pair after the other."""


@dataclass(frozen=True)
class CoActive:
    """Pairs of latents that are active together in at least one row, each once; counts are floats."""

    n_both: Tensor
    """Rows in which both are active."""
    n_first: Tensor
    """Rows in which the first is active."""
    n_second: Tensor
    """Rows in which the second is active."""
    batch_size: int
    density: float
    """Share of active latents over the batch: l0 / d_sae."""


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
"""Name -> mask intersection n_ij and n_ji, from 0 to 1. `conditional`: share of i's rows in which j is active.
`lift`: the larger of both directions' P(i|j) / (l0 / d_sae), from 0 to LARGEST_LIFT; 1 is chance."""

SHAPES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "linear": lambda n, threshold, temperature: ((n - threshold) / threshold).clamp(0, 1),
    "sigmoid": lambda n, threshold, temperature: torch.sigmoid((n - threshold) / temperature),
    "proportional": lambda n, threshold, temperature: n,
}
"""Name -> competition c of a mask intersection n, given the threshold (above 0) and the temperature."""


def least_share(normalisation: str, shape: str, threshold: float, density: float) -> float:
    """Share of the rarer latent's rows in which a pair must be active to compete.

    No mask intersection is larger than that share (`lift`: than the share over the density).
    """
    if shape != "linear":
        return 0.0
    return threshold * density if normalisation == "lift" else threshold


def active_sorted(codes: SparseCodes) -> tuple[SparseCodes, Tensor]:
    """The entries with a value other than 0, by rising latent within each row, and their places in `codes`."""
    active_P = (codes.values_P != 0).nonzero().squeeze(1)
    rows_P, latents_P = codes.rows_P[active_P], codes.indices_P[active_P]
    backend = backend_of(codes.values_P)
    by_latent_P, rows_P, _ = backend.sort_by_index(latents_P, rows_P, codes.n_latents)
    _, order_P, offsets = backend.sort_by_index(rows_P, by_latent_P, codes.batch_size)
    places_P = active_P[order_P]
    return SparseCodes(codes.values_P[places_P], latents_P[order_P], offsets, codes.n_latents), places_P


def competition(pairs: CoActive, normalisation: str, shape: str, threshold: float, temperature: float) -> Tensor:
    """c_ij + c_ji of every pair."""
    n_there, n_back = NORMALISATIONS[normalisation](pairs)
    c = SHAPES[shape](n_there, threshold, temperature)
    return c + c if n_back is n_there else c + SHAPES[shape](n_back, threshold, temperature)


def competing(
    codes: SparseCodes, normalisation: str, shape: str, threshold: float, temperature: float
) -> Iterator[tuple[RowPairs, Tensor]]:
    """The pairs of sorted codes that may compete, in chunks of rising latents, with c_ij + c_ji (0 for a few)."""
    n_rows_E = codes.by_latent[2].diff()
    density = _density(codes)
    share = least_share(normalisation, shape, threshold, density) * (1 + ROUNDING_MARGIN)
    # In float64 counts are exact; + 1 and cutting off make "more than the share" of "at least this many rows".
    least_E = (n_rows_E.double() * share + 1).clamp(max=codes.batch_size + 1).int()
    n_rows_P = n_rows_E.to(_counted_in(codes))[codes.indices_P]
    room_E = partner_offsets(codes.entries)
    for first, stop in _chunks(room_E):
        pairs = backend_of(codes.values_P).pairs_together(codes.entries, room_E, least_E, first, stop)
        n_first = n_rows_P.repeat_interleave(pairs.offsets.diff(), output_size=pairs.partners.numel())
        n_second = n_rows_P.index_select(0, pairs.partners)
        counts = CoActive(pairs.n_both.to(n_first.dtype), n_first, n_second, codes.batch_size, density)
        yield pairs, competition(counts, normalisation, shape, threshold, temperature)


def co_active(codes: SparseCodes) -> Iterator[tuple[CoActive, Occurrences]]:
    """All pairs of latents in the same row of sorted codes, as often as they occur, in chunks of rising latents."""
    n_rows_E = codes.by_latent[2].diff().to(_counted_in(codes))
    for first, stop in _chunks(partner_offsets(codes.entries)):
        where = Occurrences(*occurrences(codes.entries, first, stop))
        once = where.n_both.cumsum(0) - where.n_both
        n_first, n_second = (
            n_rows_E[codes.indices_P[places[once]]] for places in (where.first_place, where.second_place)
        )
        yield CoActive(where.n_both.to(n_first.dtype), n_first, n_second, codes.batch_size, _density(codes)), where


def between(codes: SparseCodes, first: Tensor, second: Tensor) -> CoActive:
    """The same counts for given pairs, also for those that are never active together."""
    one, other = (_is_active(codes, latents) for latents in (first, second))
    counts = ((one & other).sum(0).double(), one.sum(0).double(), other.sum(0).double())
    return CoActive(*counts, codes.batch_size, codes.n_active() / max(codes.batch_size * codes.n_latents, 1))


def _is_active(codes: SparseCodes, latents: Tensor) -> Tensor:
    """Whether each of some latents is active in each row: bool, [B, number of latents]."""
    columns = []
    for latent in latents.tolist():
        rows = codes.rows_P[(codes.indices_P == latent) & (codes.values_P != 0)]
        columns.append(torch.bincount(rows, minlength=codes.batch_size) > 0)
    return torch.stack(columns, dim=1)


def _both_ways(n: Tensor) -> tuple[Tensor, Tensor]:
    return n, n


def _density(codes: SparseCodes) -> float:
    return codes.indices_P.numel() / max(codes.batch_size * codes.n_latents, 1)


def _counted_in(codes: SparseCodes) -> torch.dtype:
    """A dtype that holds counts exactly."""
    return torch.promote_types(codes.values_P.dtype, torch.float32)


def _chunks(room_E: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches of latents with about OCCURRENCES_PER_CHUNK occurrences each, without those that have none."""
    room = room_E.tolist()
    first, n_latents = 0, len(room) - 1
    while room[first] < room[-1]:
        first = bisect_right(room, room[first]) - 1
        stop = min(max(bisect_right(room, room[first] + OCCURRENCES_PER_CHUNK) - 1, first + 1), n_latents)
        yield first, stop
        first = stop


PENALTIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "absolute": (torch.abs, torch.sign),
    "squared": (torch.square, lambda similarity: 2 * similarity),
}
"""Name -> penalty of a similarity, and its derivative."""


class Penalised(NamedTuple):
    """Sums over pairs, 0-dim, in float64."""

    loss: Tensor
    """Of c * penalty(similarity)."""
    absolute: Tensor
    """Of the absolute similarities of the pairs that compete."""


def of_decoder(
    W_EM: Tensor, codes: SparseCodes, pairs: RowPairs, c: Tensor, penalty: str, weight: float, gradient_EM: Tensor
) -> Penalised:
    """Penalty of the inner products of decoder rows; adds weight times the loss's gradient to gradient_EM."""
    value, slope = PENALTIES[penalty]
    c = c.to(W_EM.dtype)
    backend, entries = backend_of(W_EM), codes.entries
    dots = backend.pair_dots(W_EM, entries, pairs)
    backend.add_pair_sums(W_EM, entries, pairs, slope(dots).mul_(c).mul_(weight), gradient_EM)
    return Penalised(_sum(value(dots).mul_(c)), _sum(dots.abs_().mul_(c > 0)))


def of_activations(
    codes: SparseCodes, where: Occurrences, c: Tensor, penalty: str, weight: float, gradient_P: Tensor
) -> Penalised:
    """Penalty of (f^T f)_ij / B, where f are the codes; `where` must have all rows in which a pair is active."""
    value, slope = PENALTIES[penalty]
    first, second = where.first_place, where.second_place
    c = c.to(codes.values_P.dtype)
    left, right = codes.values_P[first], codes.values_P[second]
    similarity = torch.segment_reduce(left * right, "sum", lengths=where.n_both, unsafe=True) / codes.batch_size
    pull = weight / codes.batch_size * c * slope(similarity)
    pull = pull.repeat_interleave(where.n_both, output_size=first.numel())
    # Sorted by place, so that every sum has one order, whatever the number of threads.
    places, parts = torch.cat([first, second]), torch.cat([pull * right, pull * left])
    n_parts = torch.bincount(places, minlength=codes.values_P.numel())
    order = places.int().argsort(stable=True)
    gradient_P += torch.segment_reduce(parts[order], "sum", lengths=n_parts, unsafe=True)
    return Penalised(_sum(c * value(similarity)), _sum(similarity.abs() * (c > 0)))


def _sum(values: Tensor) -> Tensor:
    """Their sum in float64, in an order that does not depend on the number of threads."""
    whole = values.numel() - values.numel() % SUMMED_AT_ONCE
    parts = values[:whole].view(-1, SUMMED_AT_ONCE).sum(1, dtype=torch.float64)
    return parts.sum() + values[whole:].sum(dtype=torch.float64)
