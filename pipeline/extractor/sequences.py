"""Which tokens the model sees together: a pure function of the plan, so any worker computes the same bytes."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

GROUP_BATCHES = 4
"""Batches of a sequential corpus are sorted by length within this many batches' worth of tokens, not over the whole
unit: rows then leave in plan order with little held in memory."""


class Span(NamedTuple):
    """One sequence the model sees: rows [start, stop) of the store."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.start


def packed_spans(splits: dict[str, tuple[int, int]], context_length: int, rows: tuple[int, int]) -> list[Span]:
    """Sequences of joined documents that touch `rows`; none crosses from one split into another."""
    spans = []
    for first, last in sorted(splits.values()):
        begin = max(rows[0], first)
        if begin >= min(rows[1], last):
            continue
        start = first + (begin - first) // context_length * context_length
        spans += [Span(at, min(at + context_length, last)) for at in range(start, min(rows[1], last), context_length)]
    return spans


def document_spans(position_N: np.ndarray, first_row: int, rows: tuple[int, int]) -> list[Span]:
    """Whole documents that touch `rows`.

    Args:
        position_N: places in their documents of the rows from `first_row` on; reaches from the beginning of the first
            document to the end of the last one.

    """
    starts = (np.append(np.flatnonzero(position_N == 0), len(position_N)) + first_row).tolist()
    spans = [Span(start, stop) for start, stop in pairwise(starts)]
    return [span for span in spans if span.start < rows[1] and span.stop > rows[0]]


def groups(spans: Sequence[Span], batch_tokens: int) -> Iterator[list[Span]]:
    """Consecutive sequences that are held in memory together: as many as fit `GROUP_BATCHES` batches, at least one."""
    group: list[Span] = []
    held = 0
    for span in spans:
        if group and held + span.length > GROUP_BATCHES * batch_tokens:
            yield group
            group, held = [], 0
        group.append(span)
        held += span.length
    if group:
        yield group


def batches(group: Sequence[Span], batch_tokens: int) -> list[list[Span]]:
    """Forward batches of a group, longest first; none exceeds `batch_tokens` with padding unless one sequence does."""
    made: list[list[Span]] = []
    for span in sorted(group, key=lambda span: -span.length):
        if made and (len(made[-1]) + 1) * made[-1][0].length <= batch_tokens:
            made[-1].append(span)
        else:
            made.append([span])
    return made
