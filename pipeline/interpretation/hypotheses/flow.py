"""Hypotheses of an SAE: latents chosen on one half of the documents, put into words, tested on the other half.

As HypotheSAEs (2.0.1, quickstart.py: generate_hypotheses, evaluate_hypotheses), whose tests are as honest as the user's
choice of other texts for them; here documents of even number choose and explain, those of odd number test.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.endpoint.request import Asks
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.interpretation.hypotheses.documents import token_sums
from strata_sae.pipeline.interpretation.hypotheses.scoring import Score, Scores, correlation, score_concepts
from strata_sae.pipeline.interpretation.hypotheses.selecting import SELECTIONS, Selection, select
from strata_sae.pipeline.interpretation.hypotheses.targets import Target, target_of
from strata_sae.pipeline.interpretation.hypotheses.wording import (
    Words,
    annotated,
    drawn,
    explained,
    labels_of,
    tested_once,
)
from strata_sae.pipeline.pages.text import masked
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.pooled import POOLINGS, PooledCodes, Pooling

LEAST_DOCUMENTS = 10
"""With a target, in each half."""
MOST_LATENTS = 1000
Name = TypeVar("Name", bound=str)


class Wanted(NamedTuple):
    """What was asked for on the command line."""

    target: str
    targets: Path | None = None
    select: str = "correlation"
    pool: str = "mean"
    n: int = 20
    """Latents."""


class Hypothesis(NamedTuple):
    """A latent that was chosen, its words, and what they tell of the target on documents that did not choose it."""

    latent: int
    words: str | None
    """None: no language model found any."""
    failure: str | None
    """Why there are none; `as <latent>`: they are that latent's words, too, and are tested there."""
    chosen: float
    """Its score on the documents that chose it."""
    correlation: float | None
    """Pearson, of its pooled value and the target, on the documents that test."""
    correlation_p: float | None
    score: Score
    n_failed: int
    """Documents without a readable answer."""


class Hypotheses(NamedTuple):
    """All that was found of one SAE."""

    target: Target
    select: Selection
    pool: Pooling
    n_asked: int
    """Latents (count) that were asked for."""
    is_by_model: bool
    """Whether a language model found the words; otherwise they are token labels."""
    by: str
    """Who found the words, and who looked for them in documents."""
    n_choosing: int
    """Documents (count) with a target, of even number."""
    n_testing: int
    """Documents (count) that test, of odd number."""
    n_annotated: int
    """Of these (count), those on which the words are tested: where a language model reads them, no more than it is
    shown."""
    n_copies: int
    """Documents (count) that would have tested, and have the tokens of one of even number."""
    n_candidates: int
    """Latents that were looked at (count)."""
    scores: Scores
    found: list[Hypothesis]


def hypothesise(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, settings: InterpretationSettings, asks: Asks | None
) -> str:
    """Find, test and write the hypotheses of an SAE. Returns: what to print; of a dry run, which writes none, nothing.

    asks: None: no language model is asked, and token labels name the latents.
    Raises: ConfigError for a target or an option that cannot be; EndpointError as `asks.ask`.
    """
    from strata_sae.pipeline.interpretation.hypotheses.writing import write

    found = hypotheses_of(run, sae, wanted, settings, asks)
    return "" if isinstance(asks, DryRun) else write(run, sae, found)


def hypotheses_of(
    run: CodedRun, sae: CodedSAE, wanted: Wanted, settings: InterpretationSettings, asks: Asks | None
) -> Hypotheses:
    """The hypotheses, in the order in which they were chosen. Raises: as `hypothesise`."""
    if find_spec("sklearn") is None:
        raise ConfigError("--target: needs scikit-learn: pip install 'strata-sae[interpret]'")
    way, pool = _option("--select", wanted.select, SELECTIONS), _option("--pool", wanted.pool, POOLINGS)
    if not 1 <= wanted.n <= MOST_LATENTS:
        raise ConfigError(f"--n: {wanted.n} is not allowed; give a number from 1 to {MOST_LATENTS:,}")
    target = target_of(run.text.store, wanted.target, wanted.targets)
    pooled = PooledCodes(sae, run.text, pool)
    target_D = target.of(pooled.documents)
    choosing_D, testing_D = (np.isfinite(target_D) & (pooled.documents % 2 == half) for half in (0, 1))
    tokens_D = token_sums(run.text, pooled.documents)
    # Words, and token labels, are of all documents of even number, with a target or not.
    is_copy_D = testing_D & np.isin(tokens_D, tokens_D[pooled.documents % 2 == 0])
    testing_D &= ~is_copy_D
    _check_enough(target, target_D, choosing_D, testing_D)
    chosen, candidates = select(pooled, np.where(choosing_D, target_D, np.nan), way, wanted.n, target.is_binary)
    latents = [one.latent for one in chosen]
    pooled_DL = pooled.of(latents)
    testing = np.flatnonzero(testing_D)
    correlations = [correlation(pooled_DL[testing, place], target_D[testing]) for place in range(len(latents))]
    if asks is None:
        words = [Words(text, None) for text in labels_of(run, sae, latents)]
        # A latent is in most long documents somewhere: high is what is above the middle of those that chose it.
        concepts_DL = (pooled_DL > np.median(pooled_DL[choosing_D], axis=0)).astype(np.float64)[testing]
        by = "token labels; a document has a concept where the latent's pooled value is above the choosing ones' median"
    else:
        testing = drawn(testing, pooled.documents, settings.seed)
        words = tested_once(latents, explained(run, sae, latents, settings, asks))
        concepts_DL = annotated(run, pooled.documents[testing].tolist(), words, settings, asks)
        # A local server may know a model by its path, and the page is shown.
        by = f"{masked(settings.explainer)} explained, {masked(settings.scorer)} annotated"
    scores = score_concepts(concepts_DL, target_D[testing], target.is_binary)
    n_failed_L = np.where([word.is_tested for word in words], np.isnan(concepts_DL).sum(axis=0), 0).tolist()
    parts = zip(chosen, words, correlations, scores.scores, n_failed_L, strict=True)
    found = [Hypothesis(one.latent, *word, one.score, *r, score, n) for one, word, r, score, n in parts]
    n_documents = int(choosing_D.sum()), int(testing_D.sum()), len(testing), int(is_copy_D.sum())
    sizes = *n_documents, len(candidates.latent_C)
    return Hypotheses(target, way, pool, wanted.n, asks is not None, by, *sizes, scores, found)


def _check_enough(target: Target, target_D: np.ndarray, choosing_D: np.ndarray, testing_D: np.ndarray) -> None:
    for half_D, which, does in ((choosing_D, "even", "choose"), (testing_D, "odd", "test")):
        n_known = int(half_D.sum())
        if n_known < LEAST_DOCUMENTS:
            raise ConfigError(
                f"--target: {target.name!a} is known of {n_known:,} documents of {which} number, which {does} the "
                f"latents; {LEAST_DOCUMENTS} are needed"
            )
        if np.ptp(target_D[half_D]) == 0:
            raise ConfigError(
                f"--target: {target.name!a} is the same of all {n_known:,} documents of {which} number, which {does} "
                f"the latents"
            )


def _option(option: str, given: str, allowed: Sequence[Name]) -> Name:
    for name in allowed:
        if name == given:
            return name
    raise ConfigError(f"{option}: {given!a} is not known; allowed: {', '.join(allowed)}")
