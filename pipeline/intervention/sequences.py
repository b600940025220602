"""Which held-out sequences the language model runs over: whole ones, from every held-out document."""

from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.language_model.inputs import Span, unit_spans
from strata_sae.stores import ActivationStore

SPLIT = "heldout"


class Chosen(NamedTuple):
    """Whole sequences of held-out rows, in the order of the store."""

    spans: list[Span]
    documents: np.ndarray
    """The documents that these rows are of, in the order of the store: int64."""
    n_heldout_documents: int

    @property
    def n_rows(self) -> int:
        """Rows of all sequences."""
        return sum(span.length for span in self.spans)


def chosen_sequences(store: ActivationStore, max_rows: int | None) -> Chosen:
    """As many whole sequences as fit `max_rows`, one at least; documents give one each in turn, in plan order.

    A sequence that holds rows of several documents counts for each of them.
    """
    first, last = store.plan.splits[SPLIT]
    spans = unit_spans(store.plan, store.token_map, (first, last))
    document_N = store.token_map("document", spans[0].start, spans[-1].stop)
    of_span = [_in_order(document_N[span.start - spans[0].start : span.stop - spans[0].start]) for span in spans]
    taken = sorted(in_turn(of_span, [span.length for span in spans], max_rows))
    documents = _in_order(np.concatenate([of_span[number] for number in taken]))
    return Chosen([spans[number] for number in taken], documents, len(_in_order(document_N[first - spans[0].start :])))


def in_turn(of_span: Sequence[np.ndarray], lengths: Sequence[int], max_rows: int | None) -> list[int]:
    """Numbers of the sequences that are taken, in the order in which they are.

    of_span: the documents of each sequence. Round by round the first sequence that is left of every document that has
    had fewer than that many; one that no longer fits is passed over.
    """
    left: dict[int, deque[int]] = {}
    for number, documents in enumerate(of_span):
        for document in documents.tolist():
            left.setdefault(document, deque()).append(number)
    had = dict.fromkeys(left, 0)
    taken: list[int] = []
    is_taken = np.zeros(len(of_span), bool)
    n_rows, shortest = 0, min(lengths, default=0)
    for turn in range(1, 1 + max(map(len, left.values()), default=0)):
        for document, numbers in left.items():
            while numbers and is_taken[numbers[0]]:
                numbers.popleft()
            if not numbers or had[document] >= turn:
                continue
            number = numbers[0]
            if max_rows is not None and taken and n_rows + lengths[number] > max_rows:
                continue
            is_taken[number] = True
            taken.append(number)
            n_rows += lengths[number]
            for other in of_span[number].tolist():
                had[other] += 1
        if max_rows is not None and n_rows + shortest > max_rows:
            break
    return taken


def _in_order(document_N: np.ndarray) -> np.ndarray:
    """The documents of rows, each once, in the order in which they come."""
    found, at = np.unique(document_N, return_index=True)
    return found[np.argsort(at)]


def batches_of(spans: Sequence[Span], max_tokens: int) -> list[list[Span]]:
    """Sequences that run together: consecutive ones, as many as fit with padding, one at least."""
    batches: list[list[Span]] = []
    for span in spans:
        if batches:
            longest = max(span.length, *(other.length for other in batches[-1]))
            if longest * (len(batches[-1]) + 1) <= max_tokens:
                batches[-1].append(span)
                continue
        batches.append([span])
    return batches
