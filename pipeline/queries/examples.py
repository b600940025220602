"""Rows that show what a latent is about: where it is most active, somewhat, barely, and where it is silent."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Literal, NamedTuple, get_args

import numpy as np

from strata_sae.pipeline.queries.labels import tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE, Text
from strata_sae.pipeline.queries.populations import Population
from strata_sae.pipeline.queries.windows import check_latent
from strata_sae.stores import permutation, random_words
from strata_sae.stores.files.canonical import Json

Kind = Literal["top", "quantiles", "half", "barely", "silent", "near_miss"]
"""`top`: the largest values. `quantiles`: some of each of N_BINS bins of equally many active rows, the highest bin
first. `half`: the values nearest to half of the largest. `barely`: the smallest. `silent`: of the rows on which the
latent is silent. `near_miss`: of those among them whose token is one of the latent's own (`labels.tokens_of`)."""
KINDS: tuple[Kind, ...] = get_args(Kind)
Pool = Literal["max", "mean"]
"""What a document's value is: its rows' largest, or their mean with the silent ones as 0."""
N_BINS = 10
CONTEXT_BEFORE, CONTEXT_AFTER = 6, 2
"""Two rows with the same tokens from 6 before to 2 after them are one example."""
AT_ONCE = 1024
"""Rows whose contexts are compared at once."""


class Example(NamedTuple):
    """A row, and the latent's value: there, or of its document."""

    row: int
    value: float


class _Active(NamedTuple):
    """Rows, or documents by one row of each, on which a latent is active, rising; values float64."""

    rows: np.ndarray
    values: np.ndarray


def examples(
    run: CodedRun,
    sae: CodedSAE,
    latent: int,
    kind: Kind,
    n: int,
    *,
    population: Population = "as_trained",
    by_document: bool = False,
    pool: Pool = "max",
    seed: int = 0,
) -> list[Example]:
    """At most n rows of a kind, no two of which have the same tokens around them.

    What is drawn is drawn by sha256 of seed, latent and kind. Ties are by row, the lower first.
    by_document: of documents, each by its most active row, with the value that `pool` says.
    Raises: ConfigError if the SAE has no such latent.
    """
    check_latent(sae, latent)
    text, kept = run.text, sae.kept(population)
    rows, values = sae.codes.rows_of(latent)
    some = kept[rows]
    active = _Active(rows[some], values[some].astype(np.float64))
    draw = _Draw(seed, latent, kind)
    if kind == "silent":
        silent = kept.copy()
        silent[active.rows] = False
        return distinct(text, _silent(text, np.flatnonzero(silent), active, draw, by_document), n)
    if kind == "near_miss":
        own = text.tokens.rows_of(tokens_of(sae, text, latent))
        own = np.setdiff1d(own[kept[own]], active.rows, assume_unique=True)
        return distinct(text, _silent(text, own, active, draw, by_document), n)
    if by_document:
        active = _pooled(text, kept, active, pool)
    if kind == "quantiles":
        return _quantiles(text, active, draw, n)
    order = _ORDERS[kind](active.rows, active.values)
    return distinct(text, zip(active.rows[order].tolist(), active.values[order].tolist(), strict=True), n)


_ORDERS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "top": lambda rows, values: np.lexsort((rows, -values)),
    "half": lambda rows, values: np.lexsort((rows, np.abs(values - values.max(initial=0) / 2))),
    "barely": lambda rows, values: np.lexsort((rows, values)),
}


class _Draw(NamedTuple):
    """What is drawn depends on these alone."""

    seed: int
    latent: int
    kind: str

    def key(self, *more: int | str) -> list[Json]:
        """A name of something that is drawn."""
        return ["examples", self.seed, self.latent, self.kind, *more]

    def order(self, n: int, part: int = 0) -> Iterator[int]:
        """0..n-1 in a random order, drawn as they are asked for."""
        return random_order(self.key(part), n)


def random_order(key: list[Json], n: int) -> Iterator[int]:
    """0..n-1 in a random order named by `key`, drawn as they are asked for."""
    if n <= 2 * AT_ONCE:
        yield from permutation(key, n).tolist()
        return
    # A whole permutation of ten million silent rows takes seconds, and a page wants ten of them.
    drawn: dict[int, None] = {}
    n_words = AT_ONCE
    while n_words <= n:
        before = len(drawn)
        drawn |= dict.fromkeys((random_words(key, n_words) % np.uint64(n)).tolist())
        yield from list(drawn)[before:]
        n_words *= 2
    yield from (place for place in permutation(key, n).tolist() if place not in drawn)


def _silent(
    text: Text, rows: np.ndarray, active: _Active, draw: _Draw, by_document: bool
) -> Iterator[tuple[int, float]]:
    """Silent rows in a random order; by_document: of documents without any active row, one row of each."""
    if not by_document:
        return ((int(rows[place]), 0.0) for place in draw.order(len(rows)))
    numbers, place_N = text.documents
    is_active = np.zeros(len(numbers), bool)
    is_active[place_N[active.rows]] = True
    rows = rows[~is_active[place_N[rows]]]
    rows = rows[np.argsort(place_N[rows], kind="stable")]
    _, start, count = np.unique(place_N[rows], return_index=True, return_counts=True)
    one = start + (random_words(draw.key("row"), len(start)) % count.astype(np.uint64)).astype(np.int64)
    return ((int(rows[one[place]]), 0.0) for place in draw.order(len(one)))


def _pooled(text: Text, kept: np.ndarray, active: _Active, pool: Pool) -> _Active:
    """Of each document with an active row its most active one, the first of equals, and the document's value."""
    rows, values = active
    if not len(rows):
        return active
    place_N = text.documents[1]
    place = place_N[rows]
    order = np.lexsort((rows, -values, place))
    first = order[np.flatnonzero(np.diff(place[order], prepend=-1))]
    if pool == "max":
        return _Active(rows[first], values[first])
    sums, n_rows = np.bincount(place, values), np.bincount(place_N[kept])
    document = place[first]
    return _Active(rows[first], sums[document] / n_rows[document])


def _quantiles(text: Text, active: _Active, draw: _Draw, n: int) -> list[Example]:
    """Rows, spread as evenly as can be over the bins; in each drawn at random, then sorted by value."""
    order = _ORDERS["top"](*active)
    found: list[Example] = []
    seen: set[bytes] = set()
    for number, places in enumerate(np.array_split(order, N_BINS)):
        n_here = (number + 1) * n // N_BINS - number * n // N_BINS
        drawn = (places[place] for place in draw.order(len(places), number))
        pairs = ((int(active.rows[place]), float(active.values[place])) for place in drawn)
        some = distinct(text, pairs, n_here, seen)
        found += sorted(some, key=lambda example: (-example.value, example.row))
    return found


def distinct(text: Text, pairs: Iterable[tuple[int, float]], n: int, seen: set[bytes] | None = None) -> list[Example]:
    """The first n of these (row, value) whose contexts differ from those before them, and from those seen."""
    seen = set() if seen is None else seen
    found: list[Example] = []
    pairs = iter(pairs)
    n_more = 2 * n + 8
    while len(found) < n and (some := list(islice(pairs, n_more))):
        n_more = min(2 * n_more, AT_ONCE)
        for pair, context in zip(some, contexts(text, np.array([row for row, _ in some])), strict=True):
            if context not in seen and len(found) < n:
                seen.add(context)
                found.append(Example(*pair))
    return found


def contexts(text: Text, rows: np.ndarray) -> list[bytes]:
    """What tells the contexts of rows apart: the tokens around each, -1 beyond its document."""
    around = rows[:, None] + np.arange(-CONTEXT_BEFORE, CONTEXT_AFTER + 1)
    inside = (around >= 0) & (around < text.n_rows)
    around = around.clip(0, text.n_rows - 1)
    inside &= text.document[around] == text.document[rows][:, None]
    inside &= text.position[around] - around == (text.position[rows] - rows)[:, None]
    return [tokens.tobytes() for tokens in np.where(inside, text.token_id[around], -1)]
