"""Which tokens the model sees together: a pure function of the plan, so any worker computes the same bytes."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor

from strata_sae.stores import Plan

TokenMap = Callable[[str, int, int], np.ndarray]
"""`token_id`, `document`, `position` or `flags` of rows [start, stop)."""

GROUP_BATCHES = 4
"""Batches of a sequential corpus are sorted by length within this many batches' worth of tokens, not over the whole
unit: rows then leave in plan order with little held in memory."""


class _Corpus(BaseModel):
    mode: Literal["packed", "sequential"]
    context_length: int
    isolate_documents: bool = False  # plans of before there was isolation do not say


class _Model(BaseModel):
    batch_tokens: int
    dtype: Literal["float32", "float16", "bfloat16"]


class Recorded(BaseModel):
    """The part of a plan's config that decides which tokens the model sees together."""

    corpus: _Corpus
    model: _Model

    @classmethod
    def of(cls, plan: Plan) -> "Recorded":
        """Raises: pydantic's ValidationError for a config that names no model and no corpus, as of a toy store."""
        return cls.model_validate(plan.config)


class Span(NamedTuple):
    """One sequence the model sees: rows [start, stop) of the store."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.start


def unit_spans(plan: Plan, token_map: TokenMap, rows: tuple[int, int]) -> list[Span]:
    """The sequences that touch `rows`, in plan order."""
    corpus = Recorded.of(plan).corpus
    if corpus.mode == "packed":
        return packed_spans(plan.splits, corpus.context_length, rows)
    first = rows[0] - int(token_map("position", rows[0], rows[0] + 1)[0])
    last = min(rows[1] + corpus.context_length, plan.n_rows)
    beyond = np.flatnonzero(token_map("position", rows[1], last) == 0)
    end = rows[1] + int(beyond[0]) if len(beyond) else last
    return document_spans(token_map("position", first, end), first, rows)


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


class Inputs:
    """The tokens of consecutive sequences, read once, as batches for `Capture.forward` or `WholeModel.run`."""

    def __init__(self, plan: Plan, token_map: TokenMap, spans: Sequence[Span]) -> None:
        self._first, last = min(span.start for span in spans), max(span.stop for span in spans)
        self._token_ids_N = torch.from_numpy(token_map("token_id", self._first, last).astype(np.int64))
        isolated = Recorded.of(plan).corpus.isolate_documents
        self._position_N = token_map("position", self._first, last) if isolated else None

    def batch(self, spans: Sequence[Span]) -> tuple[Tensor, Tensor | None]:
        """Token ids [B, S], padded on the right with id 0, and position ids [B, S] where documents are kept apart."""
        longest = max(span.length for span in spans)
        ids_BS = torch.zeros((len(spans), longest), dtype=torch.int64)
        for row, span in enumerate(spans):
            ids_BS[row, : span.length] = self._token_ids_N[span.start - self._first : span.stop - self._first]
        if self._position_N is None:
            return ids_BS, None
        return ids_BS, torch.stack([self._restarted(span, longest) for span in spans])

    def _restarted(self, span: Span, length: int) -> Tensor:
        assert self._position_N is not None
        # Not `position` itself: a document that began in the sequence before begins anew in this one.
        starts = np.flatnonzero(self._position_N[span.start - self._first : span.stop - self._first] == 0)
        return restarted_positions(starts.tolist(), length)


def restarted_positions(starts: Sequence[int], length: int) -> Tensor:
    """Position ids [S] of a sequence in which documents begin at `starts`; its first token begins one in any case."""
    places_S = torch.arange(length)
    begins_S = torch.zeros(length, dtype=torch.int64)
    begins_S[list(starts)] = torch.as_tensor(list(starts), dtype=torch.int64)
    return places_S - begins_S.cummax(dim=0).values
