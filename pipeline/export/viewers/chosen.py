"""Which rows of a latent a viewer shows, and the text around them."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.export.viewers.spelling import spelled
from strata_sae.pipeline.export.viewers.subject import LatentCodes, Subject
from strata_sae.pipeline.queries.examples import distinct
from strata_sae.pipeline.queries.windows import stretch, texts
from strata_sae.pipeline.reading.context import LONGEST_CHARACTER

_LOOKED_AT = 8
"""Rows looked at for each that is wanted, since contexts repeat."""


class Band(NamedTuple):
    """Rows whose values lie in (low, high]."""

    low: float
    high: float
    n_active: int
    """Rows of the population within."""
    rows: list[int]
    """Those that are shown."""


class Shown(NamedTuple):
    """A row and the text around it, within its document."""

    row: int
    centre: int
    """Which of the tokens is the row's."""
    tokens: list[str]
    values: list[float]
    """One a token, of five digits; 0 where the latent is silent."""


def top(subject: Subject, codes: LatentCodes, n: int) -> list[int]:
    """The rows of the n largest values, by value falling and row rising, of distinct contexts."""
    some = min(len(codes.rows), n * _LOOKED_AT)
    if not some:
        return []
    place = len(codes.values) - some
    at = np.flatnonzero(codes.values >= np.partition(codes.values, place)[place])
    at = at[np.lexsort((codes.rows[at], -codes.values[at]))][:some]
    return _distinct(subject, codes.rows[at], n)


def bands(subject: Subject, codes: LatentCodes, n_bands: int, n: int) -> list[Band]:
    """Equal intervals of (0, largest value], the highest first; the n rows of each lie evenly over the store."""
    found = []
    edges = np.linspace(0, codes.largest, n_bands + 1)
    band_P = np.searchsorted(edges[1:-1], codes.values, side="left")
    for band in range(n_bands - 1, -1, -1):
        rows = codes.rows[band_P == band]
        some = _distinct(subject, rows[_spread(len(rows), n)], n)
        found.append(Band(float(edges[band]), float(edges[band + 1]), len(rows), some))
    return found


def _spread(n_rows: int, n: int) -> np.ndarray:
    """Places among n_rows: n that lie evenly over them, then those right after, at most _LOOKED_AT * n."""
    step = max(n_rows // n, 1)
    turns = np.arange(min(step, _LOOKED_AT))[:, None] + step * np.arange(n)
    places = turns.reshape(-1)
    return places[places < n_rows]


def _distinct(subject: Subject, rows: np.ndarray, n: int) -> list[int]:
    return [example.row for example in distinct(subject.text, ((row, 0.0) for row in rows.tolist()), n)]


def shown(subject: Subject, codes: LatentCodes, row: int, before: int, after: int) -> Shown:
    """The text from `before` tokens before a row to `after` after it, as far as its document goes."""
    start, stop = stretch(subject.text, row, before, after)
    around = subject.rank_N[max(start - LONGEST_CHARACTER, 0) : stop + LONGEST_CHARACTER]
    if subject.is_whole[around].all():
        words = [subject.words[rank] for rank in subject.rank_N[start:stop].tolist()]
    else:
        words = [spelled(text) for text in texts(subject.text, start, stop)]
    return Shown(row, row - start, words, codes.on(start, stop))
