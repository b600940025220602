"""Windows of text on which a latent is active or silent: what it is explained from, and what the words are tested on.

Explanations see documents of even number only, scores those of odd number, as token labels do.
"""

from itertools import islice
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.interpretation.picking import SILENT, Picking, Taken
from strata_sae.pipeline.interpretation.picking import Kind as Kind
from strata_sae.pipeline.interpretation.spans import Silent, Spans
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import check_latent, texts

N_EXPLAIN: dict[Kind, int] = {"top": 10, "quantiles": 10, "zero": 5, "near_miss": 5}
N_TEST: dict[Kind, int] = {"top": 50, "quantiles": 50, "zero": 50, "near_miss": 25, "neighbour": 25}
"""Windows of each kind (count), of a latent that has as many."""


class Excerpt(NamedTuple):
    """A window of a document, with a latent's values on it. S tokens: 32, or its whole stretch of the store."""

    row: int
    """Of the store: the one that was drawn."""
    document: int
    """Number in the corpus."""
    kind: Kind
    texts: list[str]
    """[S]: of each token, for people: leading space kept; joined they are the text."""
    values: list[float]
    """[S]: the latent's; 0 where it is silent, and on tokens that training's filters leave out."""
    token_ids: list[int]
    """[S]."""

    @property
    def text(self) -> str:
        """As it stands in its document."""
        return "".join(self.texts)

    @property
    def is_active(self) -> bool:
        """Whether the latent fires on some token of it."""
        return any(value != 0 for value in self.values)


class Material(NamedTuple):
    """What a latent is explained from and what its explanation is tested on. One row may stand under both active kinds.

    Two windows of one kind never overlap, and no two of them have the same tokens around their rows; nor has one of
    those that test the same as one of those that explain.
    """

    latent: int
    n_active_rows: int
    """Of the population."""
    density: float
    """Share of the population's rows on which the latent fires, 0 to 1, exact."""
    window_density: float
    """Share of the population's rows whose window holds a row on which it fires, 0 to 1, exact: of windows drawn at
    random, the share that would be active."""
    largest: float
    """The size of the latent's largest value on the population."""
    explain: list[Excerpt]
    """Of even documents: N_EXPLAIN of each kind."""
    active: list[Excerpt]
    """Of odd documents: N_TEST of each active kind."""
    silent: list[Excerpt]
    """Of odd documents: N_TEST of each silent kind. `zero` alone is what silent rows drawn at random are."""


class Excerpts:
    """The windows of an SAE's latents. What is drawn of a latent depends on the seed and on it alone."""

    def __init__(self, run: CodedRun, sae: CodedSAE, seed: int) -> None:
        self.run, self.sae, self.seed = run, sae, seed
        self.spans = Spans(run.text)
        kept_N, half_N = sae.kept(), run.text.document & 1
        self.kept = np.flatnonzero(kept_N)
        self.halves = [np.flatnonzero(kept_N & (half_N == half)) for half in (0, 1)]

    def of(self, latent: int) -> Material:
        """All windows of a latent. Raises: ConfigError if the SAE has no such latent."""
        check_latent(self.sae, latent)
        of_latent = Picking(self.run, self.sae, self.spans, self.halves, (self.seed, latent))
        explaining = Taken(set())
        # Both active kinds of a test are drawn from all rows, so each is what it says of a latent with few.
        parts = [
            of_latent.pick(0, N_EXPLAIN, explaining),
            of_latent.pick(1, {"top": N_TEST["top"]}, Taken(explaining.contexts)),
            of_latent.pick(1, {"quantiles": N_TEST["quantiles"]}, Taken(explaining.contexts)),
            of_latent.pick(1, {kind: N_TEST[kind] for kind in SILENT}, Taken(explaining.contexts)),
        ]
        read = iter(self._read(latent, [picked for part in parts for picked in part]))
        explain, top, quantiles, silent = (list(islice(read, len(part))) for part in parts)
        n_rows, n_kept = len(of_latent.rows), max(len(self.kept), 1)
        return Material(
            latent=latent,
            n_active_rows=n_rows,
            density=n_rows / n_kept,
            window_density=(len(self.kept) - len(Silent(self.spans, self.kept, of_latent.rows))) / n_kept,
            largest=float(np.abs(of_latent.values).max(initial=0)),
            explain=explain,
            active=top + quantiles,
            silent=silent,
        )

    def _read(self, latent: int, picked: list[tuple[Kind, int]]) -> list[Excerpt]:
        """The windows of chosen rows, for which the latent's codes are read once."""
        text = self.run.text
        starts, stops = (edges.tolist() for edges in self.spans.of(np.array([row for _, row in picked], np.int64)))
        wanted = [np.empty(0, np.int64), *(np.arange(*edges) for edges in zip(starts, stops, strict=True))]
        rows = np.concatenate(wanted)
        values = np.where(self.sae.kept()[rows], self.sae.codes.values(latent, rows), 0)
        flat = iter(values.tolist())
        return [
            Excerpt(
                row=row,
                document=int(text.document[row]),
                kind=kind,
                texts=texts(text, start, stop),
                values=list(islice(flat, stop - start)),
                token_ids=text.token_id[start:stop].tolist(),
            )
            for (kind, row), start, stop in zip(picked, starts, stops, strict=True)
        ]
