"""What viewers are shown of an SAE: each latent once, read from its codes, with the text of its rows."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.config import load
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.export.handing import TextSource, text_source
from strata_sae.pipeline.export.viewers.spelling import rounded, spelled
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.queries.explanations import Explanations, explanations_of
from strata_sae.pipeline.queries.labels import Labels, kept_labels
from strata_sae.pipeline.queries.logits import logit_effects, token_text
from strata_sae.pipeline.queries.opened import CodedSAE, Text
from strata_sae.pipeline.reading.feed import filters_of
from strata_sae.pipeline.reading.which_store import open_store
from strata_sae.pipeline.runs.addresses import run_of
from strata_sae.pipeline.runs.trained import TrainedSAE
from strata_sae.stores import CodesStore

_LABEL_TOKENS = 5
"""Tokens of a label that are written out; the rest is counted."""
_EFFECTS = 10
"""Tokens promoted and suppressed."""


class LatentCodes(NamedTuple):
    """A latent on the rows that pass training's filters."""

    latent: int
    rows: np.ndarray
    """Where it is active, rising, int64 [n]."""
    values: np.ndarray
    """float32 [n], none 0."""

    @property
    def largest(self) -> float:
        """Its largest value; 0 of one that is never active."""
        return float(self.values.max()) if len(self.values) else 0.0

    def on(self, start: int, stop: int) -> list[float]:
        """Its values on rows [start, stop), of five digits, 0 where it is silent."""
        values = [0.0] * (stop - start)
        first, last = np.searchsorted(self.rows, [start, stop])
        for row, value in zip(self.rows[first:last].tolist(), self.values[first:last].tolist(), strict=True):
            values[row - start] = rounded(value)
        return values


class WordEffects(NamedTuple):
    """Tokens with what a latent adds to their logits."""

    promoted: list[tuple[str, float]]
    suppressed: list[tuple[str, float]]


class Subject:
    """An SAE with codes, on its way into a viewer's files."""

    def __init__(
        self, sae: CodedSAE, text: Text, source: TextSource, run_name: str, *, show_progress: bool = False
    ) -> None:
        self.sae, self.text, self.source, self.run_name = sae, text, source, run_name
        self._show_progress = show_progress
        self.kept_N = sae.kept()
        self.n_kept = int(self.kept_N.sum())

    @property
    def n_documents(self) -> int:
        """Documents of the store (count)."""
        return int(np.count_nonzero(np.diff(self.text.document, prepend=-1)))

    @property
    def rank_N(self) -> np.ndarray:
        """Of each row's token among those that occur, int32."""
        return self.text.tokens.rank

    @cached_property
    def words(self) -> list[str]:
        """The text of each token that occurs, alone, by rank."""
        return [self.word(token) for token in self.text.tokens.ids.tolist()]

    @cached_property
    def is_whole(self) -> np.ndarray:
        """Whether each token that occurs is whole characters, by rank: bool. Its text is then the same everywhere."""
        tokens = [self.text.tokens.token(token) for token in self.text.tokens.ids.tolist()]
        return np.array([token.special or _is_text(token.data) for token in tokens])

    @cached_property
    def labels(self) -> Labels:
        """Token sets that predict firing."""
        return kept_labels(self.sae, self.text)

    @cached_property
    def explanations(self) -> Explanations:
        """What is known in words. Raises: CheckpointError as `explanations_of`."""
        return explanations_of(self.sae)

    def label(self, latent: int) -> str:
        """The tokens that predict a latent best, those it fires on most often first; empty: it has none."""
        labels = self.labels
        shown = [int(token) for token in labels.token_ids[latent, :_LABEL_TOKENS] if token >= 0]
        further = int(labels.n_tokens[latent]) - len(shown)
        words = " | ".join(self.word(token) for token in shown)
        return f"{words} (and {further} more)" if shown and further > 0 else words

    def label_score(self, latent: int) -> str:
        """How well the label predicts firing, in words."""
        f1 = float(self.labels.f1[latent])
        return "too few rows for a score" if np.isnan(f1) else f"F1 {f1:.3f} on held-out documents"

    def effects(self, latent: int) -> WordEffects:
        """The tokens that a latent makes likelier and less likely; none if the store keeps no unembedding."""
        found = logit_effects(self.sae, latent, _EFFECTS)
        if found is None:
            return WordEffects([], [])
        promoted, suppressed = (
            [(spelled(token_text(self.sae, token)), value) for token, value in side] for side in found
        )
        return WordEffects(promoted, suppressed)

    def word(self, token_id: int) -> str:
        """The text of a token alone."""
        return spelled(self.text.tokens.text(token_id))

    def latents(self, title: str) -> Iterator[LatentCodes]:
        """Every latent in order, with progress under a title."""
        with Progress(title, self.sae.d_sae, "latent", shown=self._show_progress) as progress:
            for latent in range(self.sae.d_sae):
                yield self.latent(latent)
                progress.advance(1)

    def latent(self, latent: int) -> LatentCodes:
        """One latent."""
        rows, values = self.sae.codes.rows_of(latent)
        kept = self.kept_N[rows]
        return LatentCodes(latent, rows[kept], values[kept])


def subject(trained: TrainedSAE, *, show_progress: bool = False) -> Subject:
    """The codes of an SAE, opened.

    Raises: ConfigError if there are none, or not of these weights; CheckpointError if they are of another store;
        StoreError if files are not what they should be.
    """
    run = run_of(trained.folder)
    folder = trained.folder.codes
    if not CodesStore.is_finished(folder):
        raise ConfigError(f"{trained.name}: has no codes yet, which this format is made of; {_make(run.path)}")
    config = TrainConfig.of(load(run.config, []), run.config)
    stores = open_store(config)
    codes = CodesStore.open(folder)
    sae = CodedSAE(trained.folder, stores, filters_of(config.training.filters), codes)
    if trained.training.sha256.weights != codes.plan.weights_sha256:
        raise ConfigError(f"{trained.name}: its codes are of the final weights, not of those that training kept")
    sae.W_dec = trained.sae.W_dec.detach().cpu().numpy()  # else they would be read again
    return Subject(sae, Text(stores), text_source(trained), run.path.name, show_progress=show_progress)


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _make(run: Path) -> str:
    return f"make them with: strata codes {run}"
