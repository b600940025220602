"""Every row is computed by exactly one sequence of its unit, from the same tokens whatever the unit."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from strata_sae.pipeline.language_model.inputs import Span, batches, document_spans, groups, packed_spans


@given(st.integers(1, 500), st.integers(0, 200), st.integers(2, 64), st.integers(1, 120))
def test_packed_sequences_cover_each_unit_once(train: int, heldout: int, context_length: int, unit: int) -> None:
    n_rows = train + heldout
    splits = {"train": (0, train), "heldout": (train, n_rows)}
    whole = set(packed_spans(splits, context_length, (0, n_rows)))
    for start in range(0, n_rows, unit):
        stop = min(start + unit, n_rows)
        spans = packed_spans(splits, context_length, (start, stop))
        assert set(spans) <= whole, "a unit sees the sequences that any other sees"
        covered = np.zeros(n_rows, int)
        for span in spans:
            assert span.length <= context_length
            assert span.stop <= train or span.start >= train, "no sequence crosses the splits"
            covered[span.start : span.stop] += 1
        assert (covered[start:stop] == 1).all()


@given(st.lists(st.integers(2, 40), min_size=1, max_size=30), st.integers(1, 90))
def test_document_sequences_cover_each_unit_once(lengths: list[int], unit: int) -> None:
    position_N = np.concatenate([np.arange(length) for length in lengths])
    starts = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    documents = {Span(a, b) for a, b in itertools.pairwise(starts)}
    for start in range(0, len(position_N), unit):
        stop = min(start + unit, len(position_N))
        first = start - int(position_N[start])
        end = next(edge for edge in starts if edge >= stop)
        spans = document_spans(position_N[first:end], first, (start, stop))
        assert set(spans) <= documents
        assert spans[0].start <= start
        assert spans[-1].stop >= stop
        assert sum(min(s.stop, stop) - max(s.start, start) for s in spans) == stop - start


@given(st.lists(st.integers(2, 40), min_size=1, max_size=50), st.integers(8, 100))
def test_batches_hold_every_sequence_once_and_keep_to_the_budget(lengths: list[int], batch_tokens: int) -> None:
    edges = np.concatenate([[0], np.cumsum(lengths)]).tolist()
    spans = [Span(a, b) for a, b in itertools.pairwise(edges)]
    made = [batch for group in groups(spans, batch_tokens) for batch in batches(group, batch_tokens)]
    assert sorted(span for batch in made for span in batch) == spans
    for batch in made:
        assert len(batch) == 1 or len(batch) * max(span.length for span in batch) <= batch_tokens
    order = [span for group in groups(spans, batch_tokens) for span in group]
    assert order == spans, "groups leave in plan order"
