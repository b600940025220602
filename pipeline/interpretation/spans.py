"""Where the window of each row lies, and which rows' windows hold given rows: by arithmetic, nothing kept by row."""

from collections.abc import Iterator

import numpy as np

from strata_sae.pipeline.queries.opened import Text

WINDOW_TOKENS, ROW_AT = 32, 24
"""Length of a window, and the place of its row in it, as delphi has them; at the ends of a document it is elsewhere."""


class Spans:
    """The windows of all rows of a store: each is of one stretch of one document, and as long as any other there."""

    def __init__(self, text: Text) -> None:
        begins_N = np.diff(text.document) != 0
        begins_N |= np.diff(text.position) != 1
        starts = np.flatnonzero(begins_N) + 1
        self._edges = np.concatenate([np.zeros(1, np.int64), starts, np.array([text.n_rows])])

    @property
    def mean_stretch(self) -> float:
        """Rows of a stretch, on average: 1 where rows were stored in a random order."""
        return int(self._edges[-1]) / max(len(self._edges) - 1, 1)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the windows of rows (int64) begin, and where they end: the first row after each."""
        first, last = self._stretches(rows)
        start = np.maximum(np.minimum(rows - ROW_AT, last - WINDOW_TOKENS), first)
        return start, np.minimum(start + WINDOW_TOKENS, last)

    def reaching(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The rows whose windows hold each of these rows (int64, rising): from, and the first after them; both rise."""
        first, last = self._stretches(rows)
        # A window begins at most ROW_AT rows before its row, but at its stretch's ends it is moved inwards.
        begin = np.where(rows < first + WINDOW_TOKENS, first, rows - (WINDOW_TOKENS - 1 - ROW_AT))
        end = np.where(rows >= last - WINDOW_TOKENS, last, rows + ROW_AT + 1)
        return begin, np.minimum(end, last)

    def _stretches(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(self._edges, rows, "right")
        return self._edges[place - 1], self._edges[place]


class Silent:
    """Of some rows those whose windows hold none of the active rows: found by their place, no list of them is made."""

    def __init__(self, spans: Spans, some: np.ndarray, active: np.ndarray) -> None:
        """some, active: rows, int64, rising."""
        begin, end = (np.searchsorted(some, edge) for edge in spans.reaching(active))
        end = np.maximum.accumulate(np.concatenate([np.zeros(1, np.int64), end]))
        gaps = np.concatenate([np.maximum(begin, end[:-1]), np.array([len(some)])]) - end
        self._some, self._gap_starts = some, end
        self._before = np.concatenate([np.zeros(1, np.int64), np.cumsum(gaps)])

    def __len__(self) -> int:
        return int(self._before[-1])

    def row(self, place: int) -> int:
        """The row at a place among them, counted from 0."""
        gap = int(np.searchsorted(self._before, place, "right")) - 1
        return int(self._some[self._gap_starts[gap] + place - self._before[gap]])

    def among(self, rows: np.ndarray) -> np.ndarray:
        """Of some rows (int64) those whose windows hold no active row."""
        place = np.searchsorted(self._some, rows).clip(max=max(len(self._some) - 1, 0))
        if not len(self._some):
            return rows[:0]
        gap = np.searchsorted(self._gap_starts, place, "right") - 1
        inside = place < self._gap_starts[gap] + np.diff(self._before)[gap]
        return rows[inside & (self._some[place] == rows)]

    def drawn(self, order: Iterator[int]) -> Iterator[int]:
        """The rows at these places."""
        return (self.row(place) for place in order)
