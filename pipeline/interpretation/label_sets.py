"""The whole set of tokens of a latent's token label, which explanations are measured against.

A label names N_NAMED tokens for people; its set has more of most latents, and tells better when the latent fires.
"""

import numpy as np

from strata_sae.pipeline.kernels.machine.compiled.labels import token_sets
from strata_sae.pipeline.queries.labels import halves
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE


class LabelSets:
    """The label sets of an SAE, each fitted as the label was: on documents of even number."""

    def __init__(self, run: CodedRun, sae: CodedSAE) -> None:
        self._sae, self._tokens = sae, run.text.tokens
        self._half_N = halves(sae, run.text)
        rank_N, n_tokens = self._tokens.rank, len(self._tokens.ids)
        self._totals_V = np.stack([np.bincount(rank_N[self._half_N == half], minlength=n_tokens) for half in (0, 1)])

    def of(self, latent: int) -> frozenset[int] | None:
        """Token ids; None: the latent has no label, since it fires on too few rows."""
        labels = self._sae.labels
        if labels is None or not np.isfinite(labels.f1[latent]):
            return None
        rows = self._sae.codes.rows_of(latent)[0]
        offset, n_tokens = np.array([0, len(rows)]), int(labels.n_tokens[latent])
        ranks = token_sets(offset, rows, self._tokens.rank, self._half_N, self._totals_V, n_tokens)[3][0]
        return frozenset(self._tokens.ids[ranks].tolist())
