"""Where windows lie and which rows' windows hold given rows, by trying all rows of stores cut up in many ways."""

from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from strata_sae.pipeline.interpretation.spans import ROW_AT, WINDOW_TOKENS, Silent, Spans
from strata_sae.pipeline.queries.opened import Text


def text_of(lengths: list[int], first_positions: list[int] | None = None) -> Text:
    """A store of stretches, each of another document; positions begin where they are told to."""
    document_N = np.repeat(np.arange(len(lengths)), lengths)
    starts = first_positions or [0] * len(lengths)
    position_N = np.concatenate([np.arange(length) + start for length, start in zip(lengths, starts, strict=True)])
    return cast(Text, SimpleNamespace(document=document_N, position=position_N, n_rows=len(document_N)))


def windows(lengths: list[int]) -> list[range]:
    found, begin = [], 0
    for length in lengths:
        for row in range(begin, begin + length):
            start = max(begin, min(row - ROW_AT, begin + length - WINDOW_TOKENS))
            found.append(range(start, min(start + WINDOW_TOKENS, begin + length)))
        begin += length
    return found


CUTS = [
    [1] * 50,  # as a shuffled store
    [200],
    [31, 32, 33, 1, 100],
    np.random.default_rng(1).integers(1, 90, 30).tolist(),
]


@pytest.mark.parametrize("lengths", CUTS, ids=["single rows", "one", "edges", "many"])
def test_windows_and_what_reaches_them(lengths: list[int]) -> None:
    expected = windows(lengths)
    spans = Spans(text_of(lengths))
    rows = np.arange(sum(lengths))
    assert spans.mean_stretch == len(rows) / len(lengths)
    starts, stops = spans.of(rows)
    assert [range(*edges) for edges in zip(starts.tolist(), stops.tolist(), strict=True)] == expected
    assert {stop - start for start, stop in zip(starts, stops, strict=True)} <= {min(WINDOW_TOKENS, n) for n in lengths}
    firsts, lasts = spans.reaching(rows)
    for row, first, last in zip(rows.tolist(), firsts.tolist(), lasts.tolist(), strict=True):
        assert [other for other, window in enumerate(expected) if row in window] == list(range(first, last))


def test_a_document_that_goes_on_elsewhere_is_cut() -> None:
    """One document in two places: positions jump where they meet."""
    text = text_of([40, 40], [0, 100])
    text.document[:] = 5
    assert [range(*edges) for edges in zip(*map(np.ndarray.tolist, Spans(text).of(np.arange(80))), strict=True)] == (
        windows([40, 40])
    )


@pytest.mark.parametrize("lengths", CUTS, ids=["single rows", "one", "edges", "many"])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.1, 1.0])
def test_silent_rows_are_those_of_trying_all(lengths: list[int], density: float) -> None:
    rng = np.random.default_rng(2)
    n_rows = sum(lengths)
    active = np.flatnonzero(rng.random(n_rows) < density)
    some = np.flatnonzero(rng.random(n_rows) < 0.7)
    fires = set(active.tolist())
    expected = [row for row in some.tolist() if fires.isdisjoint(windows(lengths)[row])]
    silent = Silent(Spans(text_of(lengths)), some, active)
    assert len(silent) == len(expected)
    assert list(silent.drawn(iter(range(len(silent))))) == expected
    asked = np.flatnonzero(rng.random(n_rows) < 0.5)
    assert silent.among(asked).tolist() == [row for row in asked.tolist() if row in set(expected)]
    none = Silent(Spans(text_of(lengths)), some[:0], active)
    assert (len(none), none.among(asked).tolist()) == (0, [])
