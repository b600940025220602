"""Pairs of latents: how often two latents are active together, and how strongly they compete.

No matrix [E, E] is formed.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import Codes, DenseCodes, SparseCodes
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


class Form(NamedTuple):
    """How competition follows from counts."""

    normalisation: str
    """Name in NORMALISATIONS."""
    shape: str
    """Name in SHAPES."""
    threshold: float
    """Above 0."""
    temperature: float


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


def _sigmoid(n: Tensor, threshold: float, temperature: float) -> Tensor:
    return torch.sigmoid((n - threshold) / temperature)


SHAPES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "linear": lambda n, threshold, temperature: ((n - threshold) / threshold).clamp(0, 1),
    "sigmoid": _sigmoid,
    "sigmoid_co_active": _sigmoid,
    "proportional": lambda n, threshold, temperature: n,
}
"""Name -> competition c of a mask intersection n, given the threshold (above 0) and the temperature.

`sigmoid_co_active` is 0 for a pair that is never active together; `sigmoid` is not: see `apart`.
"""


def apart(form: Form) -> float:
    """c_ij of latents that are never active together (n is 0): above 0 for `sigmoid` only."""
    if form.shape != "sigmoid":
        return 0.0
    return float(_sigmoid(torch.zeros((), dtype=torch.float64), form.threshold, form.temperature))


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


def competition_of_any(pairs: CoActive, form: Form) -> Tensor:
    """c_ij + c_ji of pairs that may never be active together, or of which a latent is never active (n is then 0)."""
    at_least_one = replace(pairs, n_first=pairs.n_first.clamp(min=1), n_second=pairs.n_second.clamp(min=1))
    c = competition(at_least_one, *form)
    return c * (pairs.n_both > 0) if form.shape == "sigmoid_co_active" else c


def competing(
    codes: SparseCodes, normalisation: str, shape: str, threshold: float, temperature: float
) -> Iterator[tuple[RowPairs, Tensor]]:
    """The pairs of sorted codes that may compete, in chunks of rising latents, with c_ij + c_ji (0 for a few)."""
    n_rows_E = codes.by_latent[2].diff()
    density = _density(codes)
    share = least_share(normalisation, shape, threshold, density) * (1 + ROUNDING_MARGIN)
    # In float64 counts are exact; + 1 and cutting off make "more than the share" of "at least this many rows".
    least_E = (n_rows_E.double() * share + 1).clamp(max=codes.batch_size + 1).int()
    n_rows_P = n_rows_E.to(counted_in(codes.values_P))[codes.indices_P]
    room_E = partner_offsets(codes.entries)
    for first, stop in _chunks(room_E):
        pairs = backend_of(codes.values_P).pairs_together(codes.entries, room_E, least_E, first, stop)
        n_first = n_rows_P.repeat_interleave(pairs.offsets.diff(), output_size=pairs.partners.numel())
        n_second = n_rows_P.index_select(0, pairs.partners)
        counts = CoActive(pairs.n_both.to(n_first.dtype), n_first, n_second, codes.batch_size, density)
        yield pairs, competition(counts, normalisation, shape, threshold, temperature)


def co_active(codes: SparseCodes) -> Iterator[tuple[CoActive, Occurrences]]:
    """All pairs of latents in the same row of sorted codes, as often as they occur, in chunks of rising latents."""
    n_rows_E = codes.by_latent[2].diff().to(counted_in(codes.values_P))
    for first, stop in _chunks(partner_offsets(codes.entries)):
        where = Occurrences(*occurrences(codes.entries, first, stop))
        once = where.n_both.cumsum(0) - where.n_both
        n_first, n_second = (
            n_rows_E[codes.indices_P[places[once]]] for places in (where.first_place, where.second_place)
        )
        yield CoActive(where.n_both.to(n_first.dtype), n_first, n_second, codes.batch_size, _density(codes)), where


def between(codes: Codes, first: Tensor, second: Tensor) -> CoActive:
    """The same counts for given pairs, also for those that are never active together."""
    one, other = (activations(codes, latents) != 0 for latents in (first, second))
    counts = ((one & other).sum(0).double(), one.sum(0).double(), other.sum(0).double())
    return CoActive(*counts, codes.batch_size, density_of(codes))


def activations(codes: Codes, latents: Tensor) -> Tensor:
    """The values of some latents in every row. Returns: [B, number of latents]."""
    if isinstance(codes, DenseCodes):
        return codes.values_BE[:, latents]
    columns = []
    for latent in latents.tolist():
        places = (codes.indices_P == latent).nonzero().squeeze(1)
        column_B = codes.values_P.new_zeros(codes.batch_size)
        column_B[codes.rows_P[places].long()] = codes.values_P[places]
        columns.append(column_B)
    return torch.stack(columns, dim=1)


def density_of(codes: Codes) -> float:
    """Share of active latents over the batch."""
    return codes.n_active() / max(codes.batch_size * codes.n_latents, 1)


def _both_ways(n: Tensor) -> tuple[Tensor, Tensor]:
    return n, n


def _density(codes: SparseCodes) -> float:
    return codes.indices_P.numel() / max(codes.batch_size * codes.n_latents, 1)


def counted_in(values: Tensor) -> torch.dtype:
    """A dtype that holds counts exactly."""
    return torch.promote_types(values.dtype, torch.float32)


def _chunks(room_E: Tensor) -> Iterator[tuple[int, int]]:
    """Stretches of latents with about OCCURRENCES_PER_CHUNK occurrences each, without those that have none."""
    room = room_E.tolist()
    first, n_latents = 0, len(room) - 1
    while room[first] < room[-1]:
        first = bisect_right(room, room[first]) - 1
        stop = min(max(bisect_right(room, room[first] + OCCURRENCES_PER_CHUNK) - 1, first + 1), n_latents)
        yield first, stop
        first = stop
