"""The rows that are scored, of each population: what they are whatever the SAE, and where they lie in a span."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.evaluation.documents import Documents, Places
from strata_sae.pipeline.evaluation.positions import PositionRows, bucket_of
from strata_sae.pipeline.evaluation.scored_rows import TargetRows
from strata_sae.pipeline.evaluation.totals import Batching, BatchTargets, Segment
from strata_sae.pipeline.reading.heldout_spans import Part, Span
from strata_sae.pipeline.runs.judging_records import POPULATIONS, PopulationName
from strata_sae.pipeline.saes.base import Workspace

Cut = tuple[tuple[slice, ...], bool]
"""Slices of the parts that belong together, and whether a batch ends with them."""


class Taken(NamedTuple):
    """Rows of a span that a population takes."""

    segments: list[Segment]
    slices: tuple[slice, ...]
    """All of them: a slice of each part."""
    documents: tuple[Places, ...]
    """Where their documents stand, for each part."""


class Batch(NamedTuple):
    """A span as SAEs score it."""

    parts: tuple[Part, ...]
    targets: tuple[TargetRows, ...]
    """Of each part."""
    buckets_B: tuple[Tensor, ...]
    """Bucket of each row's position, for each part."""
    n_counted: tuple[int, ...]
    """Rows of each part of whose codes sums are made: the others belong to no population."""
    taken: dict[PopulationName, Taken]
    workspaces: tuple[Workspace | None, ...]
    """Memory for the encoder product of each part; None where it is made anew."""
    by_columns: dict[tuple[int, int], TargetRows]
    """Of a part, from a column on: what `columns` made."""

    def columns(self, place: int, own: slice) -> TargetRows:
        """Some columns of the rows of a part."""
        key, targets = (place, own.start), self.targets[place]
        if key not in self.by_columns:
            edges = (tile.start for tile in targets.tiles)
            self.by_columns[key] = TargetRows(self.parts[place].target_BM[:, own], edges)
        return self.by_columns[key]


class PopulationRows:
    """How many rows were scored, of which documents and positions, and how much of the square few of them carry."""

    def __init__(self) -> None:
        self.n_rows = 0
        self.documents = Documents()
        self.positions = PositionRows()
        self._squares: list[Tensor] = []
        self._batching = Batching()

    def cuts(self, in_first_B: np.ndarray) -> list[Cut]:
        """The next rows, of each of which it is said whether it is in the first part."""
        first = np.concatenate([[0], np.cumsum(in_first_B)])
        found: list[Cut] = []
        for start, stop, ends in self._batching.cuts(len(in_first_B)):
            a, b = int(first[start]), int(first[stop])
            found.append(((slice(a, b), slice(start - a, stop - b)), ends))
        return found

    def take(
        self, parts: tuple[Part, ...], targets: tuple[TargetRows, ...], buckets_B: tuple[Tensor, ...], cuts: list[Cut]
    ) -> Taken:
        """Take the rows in that were cut."""
        segments = [self._batching.segment(targets, slices, ends) for slices, ends in cuts]
        whole = tuple(slice(0, ends[-1].stop if ends else 0) for ends in _by_part(cuts, len(parts)))
        places = []
        for part, rows, bucket_B, used in zip(parts, targets, buckets_B, whole, strict=True):
            places.append(self.documents.take(part.documents_B[used], part.numbers_B[used], rows))
            self.positions.take(bucket_B[used], rows, used)
            self.n_rows += used.stop
            self._squares.append(rows.square_B[used].float().cpu())
        return Taken(segments, whole, tuple(places))

    def last(self) -> BatchTargets | None:
        """The shorter batch at the end, if it is the only one."""
        return self._batching.last()

    def top_percent_square_share(self) -> float | None:
        """Share of the sum of ||x||^2 in the largest 1 % of the rows; near 1, pooled numbers describe those rows alone.

        None where the sum is 0 or overflows.
        """
        squares_N = torch.cat(self._squares).double().sort(descending=True).values
        top, total = float(squares_N[: math.ceil(0.01 * self.n_rows)].sum()), float(squares_N.sum())
        return top / total if 0.0 < total < math.inf else None


class Populations:
    """Both populations, or the one alone where they are the same rows."""

    def __init__(self, *, are_one: bool) -> None:
        self.are_one = are_one
        self._workspace, self._most_rows = Workspace(), 0
        names = POPULATIONS[:1] if are_one else POPULATIONS
        self.rows: dict[PopulationName, PopulationRows] = {name: PopulationRows() for name in names}

    def last(self) -> dict[PopulationName, BatchTargets]:
        """Of the populations that have one batch alone, shorter than others are: that one. At the end, and once."""
        found = {name: rows.last() for name, rows in self.rows.items()}
        return {name: targets for name, targets in found.items() if targets is not None}

    def take(self, span: Span) -> Batch:
        """A span as SAEs score it; what is the same for all of them is computed here, once."""
        parts = (span.as_trained, span.rest)
        in_first_B = {"as_trained": np.ones(len(span.as_trained.numbers_B), bool), "all_but_special": span.in_first_B}
        cuts = {name: rows.cuts(in_first_B[name]) for name, rows in self.rows.items()}
        edges = _by_part([cut for of_population in cuts.values() for cut in of_population], len(parts))
        targets = tuple(
            TargetRows(part.target_BM, (edge for used in of_part for edge in (used.start, used.stop)))
            for part, of_part in zip(parts, edges, strict=True)
        )
        buckets_B = tuple(bucket_of(part.positions_B).to(part.target_BM.device) for part in parts)
        # All spans but the last have one size: a buffer of it is kept, since to get fresh memory takes an eighth of the
        # time that the product takes. Codes of a part are used before the next SAE's are made.
        n_rows = targets[0].n_rows
        self._most_rows = self._most_rows or n_rows
        space = self._workspace if n_rows == self._most_rows else None
        taken = {name: rows.take(parts, targets, buckets_B, cuts[name]) for name, rows in self.rows.items()}
        return Batch(parts, targets, buckets_B, (targets[0].n_rows, span.n_counted), taken, (space, None), {})


def _by_part(cuts: list[Cut], n_parts: int) -> list[list[slice]]:
    """The slices of each part."""
    return [[slices[place] for slices, _ in cuts] for place in range(n_parts)]
