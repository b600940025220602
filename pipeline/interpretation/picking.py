"""Which rows show what a latent is about: by their values, or drawn; no two with the same text or in one window."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Literal

import numpy as np

from strata_sae.pipeline.interpretation.spans import Silent, Spans
from strata_sae.pipeline.queries.examples import N_BINS, contexts, random_order
from strata_sae.pipeline.queries.labels import tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.stores.files.canonical import Json

Kind = Literal["top", "quantiles", "zero", "near_miss", "neighbour"]
"""`top`: the largest values. `quantiles`: drawn evenly from ten bins of equally many active rows. Silent on all of
their tokens are: `zero`: drawn from all such windows; `near_miss`: drawn from those whose row holds a token of the
latent's token label; `neighbour`: drawn from those on whose row a latent fires that often fires with it."""
ACTIVE: tuple[Kind, ...] = ("top", "quantiles")
SILENT: tuple[Kind, ...] = ("zero", "near_miss", "neighbour")
N_PARTNERS = 5
"""Latents whose rows are neighbours: those that share the most rows."""
MOST_TRIED = 2**15
"""Rows of a kind that are looked at: a latent of a template may be active on a million rows with the same words."""
_AT_ONCE = 256


class Taken:
    """What was chosen already: rows that lie in a window, and contexts."""

    def __init__(self, contexts_seen: set[bytes]) -> None:
        self.rows: set[int] = set()
        self.contexts = set(contexts_seen)


class Picking:
    """The rows of one latent, from which windows are chosen."""

    def __init__(
        self, run: CodedRun, sae: CodedSAE, spans: Spans, halves: Sequence[np.ndarray], draw: tuple[int, int]
    ) -> None:
        """halves: rows of the population in documents of even and of odd number. draw: the seed and the latent."""
        self._run, self._sae, self._spans, self._draw = run, sae, spans, draw
        self._latent = draw[1]
        rows, values = sae.codes.rows_of(self._latent)
        in_population = sae.kept()[rows]
        self.rows, self.values = rows[in_population], values[in_population]
        self._silent = [Silent(spans, some, self.rows) for some in halves]

    def pick(self, half: int, wanted: Mapping[Kind, int], taken: Taken) -> list[tuple[Kind, int]]:
        """Rows of each kind of one half of the documents, as many as wanted if there are; they are added to taken."""
        picked: list[tuple[Kind, int]] = []
        for kind, n in wanted.items():
            streams, found = self._streams(kind, half), list[int]()
            for number, stream in enumerate(streams, start=1):
                found += self._some(stream, number * n // len(streams) - len(found), taken)
            picked += [(kind, row) for row in found]
        return picked

    def _streams(self, kind: Kind, half: int) -> list[Iterator[int]]:
        """Rows of a kind in the order in which they are tried; of several streams each gives its share."""
        if kind in ACTIVE:
            return self._active(kind, half)
        silent = self._silent[half]
        if kind == "zero":
            return [silent.drawn(random_order(self._key(kind, half, 0), len(silent)))]
        if kind == "near_miss":
            own = self._run.text.tokens.rows_of(tokens_of(self._sae, self._run.text, self._latent))
            return [self._drawn(silent.among(own), kind, half, 0)]
        codes = self._sae.codes
        partners = [
            int(latent) for latent in codes.table["partners"][self._latent, :N_PARTNERS] if latent < codes.plan.d_sae
        ]
        return [self._drawn(silent.among(codes.rows_of(latent)[0]), kind, half, latent) for latent in partners]

    def _active(self, kind: Kind, half: int) -> list[Iterator[int]]:
        mine = (self._run.text.document[self.rows] & 1) == half
        rows = self.rows[mine]
        rows = rows[np.lexsort((rows, -self.values[mine]))]
        if kind == "top":
            return [iter(rows.tolist())]
        return [self._drawn(some, kind, half, number) for number, some in enumerate(np.array_split(rows, N_BINS))]

    def _drawn(self, rows: np.ndarray, kind: Kind, half: int, part: int) -> Iterator[int]:
        return (int(rows[place]) for place in random_order(self._key(kind, half, part), len(rows)))

    def _key(self, kind: Kind, half: int, part: int) -> list[Json]:
        return ["interpretation", *self._draw, kind, half, part]

    def _some(self, stream: Iterator[int], n: int, taken: Taken) -> list[int]:
        """The first n rows whose windows touch none that was taken, and whose contexts are new."""
        found: list[int] = []
        tried = islice(stream, MOST_TRIED)
        while len(found) < n and (rows := np.array(list(islice(tried, _AT_ONCE)), np.int64)).size:
            starts, stops = self._spans.of(rows)
            around = contexts(self._run.text, rows)
            for row, start, stop, context in zip(rows.tolist(), starts.tolist(), stops.tolist(), around, strict=True):
                window = range(start, stop)
                if len(found) < n and context not in taken.contexts and taken.rows.isdisjoint(window):
                    taken.contexts.add(context)
                    taken.rows.update(window)
                    found.append(row)
        return found
