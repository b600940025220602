"""Held-out rows for two populations from one read: those that training's filters leave, and all but special tokens."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import Route
from strata_sae.pipeline.reading.feed import side_by_side, sites_of
from strata_sae.stores import Filters, StoreError, Together, joined_in_order, joint_mask

SPLIT = "heldout"
NO_SPECIAL = Filters(drop_bos=True, drop_special=True)
"""The filters of the population `all_but_special`."""
LONGEST = 4
"""A span ends at this multiple of the batch size, however few of its rows pass training's filters."""


class Part(NamedTuple):
    """Rows of a span, with what the token map says of them: [B] each."""

    x_BM: Tensor
    target_BM: Tensor
    """The same tensor as x_BM for an SAE."""
    numbers_B: np.ndarray
    documents_B: np.ndarray
    positions_B: np.ndarray
    """Place in the document."""
    special_B: np.ndarray
    """Whether the token is BOS or special."""
    template_B: np.ndarray
    """Whether a chat template added it."""


class Span(NamedTuple):
    """Rows that follow one another in the store, each in one of two parts."""

    as_trained: Part
    rest: Part
    """First those of `all_but_special`, then the special ones; each in the order of the store."""
    n_counted: int
    """How many rows of `rest` belong to `all_but_special`."""
    in_first_B: np.ndarray
    """Of each row of `all_but_special`, in the order of the store: whether it is in the part `as_trained`."""


class Wanted(NamedTuple):
    """Which rows are read."""

    filters: Filters
    """Of training."""
    batch_size: int
    max_rows: int | None
    """Rows that pass them, at most; the other population ends where they end."""

    @property
    def includes_special(self) -> bool:
        """Whether training saw special tokens: its rows then are no part of `all_but_special`."""
        return not (self.filters.drop_bos and self.filters.drop_special)


def one_population(route: Route, stores: Together, filters: Filters) -> bool:
    """Whether both populations are the same rows."""
    sites = sites_of(route, stores)
    trained, others = joint_mask(sites, SPLIT, filters), joint_mask(sites, SPLIT, NO_SPECIAL)
    return trained.n_rows == others.n_rows == (trained & others).n_rows


def heldout_spans(stores: Together, route: Route, wanted: Wanted, device: torch.device) -> Iterator[Span]:
    """All held-out rows in spans of `batch_size` rows that pass training's filters, and what lies between them.

    Where training saw special tokens, rows of both populations are in both parts.
    Raises: StoreError at a row that is not finite.
    """
    sites = sites_of(route, stores)
    mask = joint_mask(sites, SPLIT, wanted.filters)
    size, left = stores.at(route.sites[0]).plan.rows_per_chunk, wanted.max_rows
    held: list[_Piece] = []
    for parts, numbers in joined_in_order(sites, SPLIT, Filters(), wanted.batch_size):
        blocks = np.unique(numbers // size).tolist()
        passing = np.concatenate([mask.rows_in(block) + block * size for block in blocks])
        held.append(_Piece([np.array(rows) for rows in parts], numbers, np.isin(numbers, passing)))
        while (cut := _cut(held, wanted.batch_size, left)) is not None:
            now, held = _divided(held, cut)
            yield _span(now, stores, route, wanted, device)
            left = None if left is None else left - int(now.passes_B.sum())
            if left == 0:
                return
    if any(piece.numbers.size for piece in held):
        yield _span(_joined(held), stores, route, wanted, device)


class _Piece(NamedTuple):
    parts: list[np.ndarray]
    """Rows of each site, as the store keeps them."""
    numbers: np.ndarray
    passes_B: np.ndarray
    """Whether a row passes training's filters."""


def _cut(held: Sequence[_Piece], batch_size: int, left: int | None) -> int | None:
    """Behind which row the next span ends; None while rows are missing."""
    passes_B = np.concatenate([piece.passes_B for piece in held])
    n_wanted = batch_size if left is None else min(batch_size, left)
    places = np.flatnonzero(passes_B)
    if len(places) >= n_wanted:
        end = int(places[n_wanted - 1]) + 1
        return min(end, LONGEST * batch_size)
    return LONGEST * batch_size if len(passes_B) >= LONGEST * batch_size else None


def _joined(held: Sequence[_Piece]) -> _Piece:
    parts = [np.concatenate(rows) for rows in zip(*(piece.parts for piece in held), strict=True)]
    return _Piece(parts, *(np.concatenate([piece[field] for piece in held]) for field in (1, 2)))


def _divided(held: Sequence[_Piece], cut: int) -> tuple[_Piece, list[_Piece]]:
    whole = _joined(held)
    before = _Piece([rows[:cut] for rows in whole.parts], whole.numbers[:cut], whole.passes_B[:cut])
    return before, [_Piece([rows[cut:] for rows in whole.parts], whole.numbers[cut:], whole.passes_B[cut:])]


def _span(piece: _Piece, stores: Together, route: Route, wanted: Wanted, device: torch.device) -> Span:
    store, (first, last) = stores.at(route.sites[0]), piece.numbers[[0, -1]]
    fields = {
        name: store.token_map(name, int(first), int(last) + 1)[piece.numbers - first]
        for name in ("document", "position", "flags")
    }
    flags_B = fields["flags"]
    special_B = ~NO_SPECIAL.passes(flags_B, None, 0.0)
    template_B = ~Filters(drop_template=True).passes(flags_B, None, 0.0)

    def part(places: np.ndarray) -> Part:
        of_site = dict(zip(route.sites, (rows[places] for rows in piece.parts), strict=True))
        x_BM = side_by_side([of_site[site] for site in route.reads], None, device)
        same = route.reads == route.writes
        target_BM = x_BM if same else side_by_side([of_site[site] for site in route.writes], None, device)
        for rows_BM, sites in ((x_BM, route.reads), (target_BM, route.writes)):
            _check_finite(rows_BM, piece.numbers[places], f"{store.path}: {', '.join(sites)}")
        numbers, documents, positions = piece.numbers, fields["document"], fields["position"]
        of_tokens = (values[places] for values in (numbers, documents, positions, special_B, template_B))
        return Part(x_BM, target_BM, *of_tokens)

    passes_B = piece.passes_B
    rest_B = np.ones_like(passes_B) if wanted.includes_special else ~passes_B
    counted, special = np.flatnonzero(rest_B & ~special_B), np.flatnonzero(rest_B & special_B)
    in_first_B = (np.zeros_like(passes_B) if wanted.includes_special else passes_B)[~special_B]
    rest = part(np.concatenate([counted, special]))
    return Span(part(np.flatnonzero(passes_B)), rest, len(counted), in_first_B)


def _check_finite(rows_BM: Tensor, numbers_B: np.ndarray, where: str) -> None:
    finite_B = rows_BM.sum(dim=1).isfinite()
    if not bool(finite_B.all()) and not bool((finite_B := rows_BM.isfinite().all(dim=1)).all()):
        row = int(numbers_B[int(finite_B.int().argmin())])
        raise StoreError(f"{where}: row {row} holds a number that is not finite, so nothing is scored there; "
                         "extract the store again (SAEs of other sites keep their scores)")  # fmt: skip
