"""Words for chosen latents, and which documents they fit: by a language model, or, without one, by token labels."""

import logging
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from strata_sae.pipeline.config.interpretation import InterpretationSettings
from strata_sae.pipeline.endpoint.dry_run import DryRun
from strata_sae.pipeline.endpoint.request import Asks
from strata_sae.pipeline.interpretation.annotating import annotate_all
from strata_sae.pipeline.interpretation.excerpts import Excerpts
from strata_sae.pipeline.interpretation.explaining import STAND_IN, explain
from strata_sae.pipeline.interpretation.hypotheses.documents import texts_of
from strata_sae.pipeline.queries.labels import tokens_of
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.windows import token_text
from strata_sae.stores.files.canonical import canonical_json
from strata_sae.stores.files.hashing import sha256

log = logging.getLogger(__name__)
Item = TypeVar("Item")

MOST_ANNOTATED = 1000
"""Documents that test the words (count); of more, these are drawn by the seed."""
LATENTS_AT_ONCE = 64
"""Latents whose windows, or whose requests about documents, are in memory together: the latter take 4 MB each."""
N_TOKENS = 5
"""Of a label, its commonest ones, which name a latent where no language model does."""


class Words(NamedTuple):
    """What a latent is said to be about."""

    text: str | None
    failure: str | None
    """Why there is no text, or why it is not tested."""

    @property
    def is_tested(self) -> bool:
        """Whether documents are asked about these words."""
        return self.text is not None and self.failure is None


def labels_of(run: CodedRun, sae: CodedSAE, latents: Sequence[int]) -> list[str]:
    """The commonest tokens of each latent's label, without space around them: `the · a · an`; empty: it has none."""
    named = [
        [token_text(run, token_id).strip(" ") for token_id in tokens_of(sae, run.text, latent)] for latent in latents
    ]
    return [" · ".join(list(dict.fromkeys(text for text in texts if text))[:N_TOKENS]) for texts in named]


def drawn(places: np.ndarray, documents: np.ndarray, seed: int) -> np.ndarray:
    """MOST_ANNOTATED of these places, or all, in an order drawn by seed and document: it tells nothing of targets."""
    keys = [sha256(canonical_json(["annotated documents", seed, number])) for number in documents[places].tolist()]
    return places[np.argsort(np.array(keys), kind="stable")[:MOST_ANNOTATED]]


def explained(
    run: CodedRun, sae: CodedSAE, latents: Sequence[int], settings: InterpretationSettings, asks: Asks
) -> list[Words]:
    """What the explainer says of each latent, from windows of documents of even number. Raises: as `annotated`."""
    explainer = settings.model_of("explainer")
    excerpts = Excerpts(run, sae, settings.seed)
    words: list[Words] = []
    for some in _blocks(latents):
        materials = [excerpts.of(latent) for latent in some]
        words += [Words(*answer) for answer in explain(asks, explainer, materials, settings.seed)]
    if n_left := sum(word.failure == "budget" for word in words):
        log.warning(
            "%s: %d of %d latents have no words, since the budget was spent; answers that came are kept: run the same "
            "again",
            sae.name,
            n_left,
            len(words),
        )
    if isinstance(asks, DryRun):
        # What stands in is the same for all latents, and equal questions are counted once: words of each are different.
        # Kept ones are what they are, and so are the requests that follow from them.
        words = [
            word._replace(text=f"{word.text} {latent}") if word.text == STAND_IN else word
            for word, latent in zip(words, latents, strict=True)
        ]
    return words


def _blocks(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[first : first + LATENTS_AT_ONCE] for first in range(0, len(items), LATENTS_AT_ONCE)]


def tested_once(latents: Sequence[int], words: Sequence[Words]) -> list[Words]:
    """Words that an earlier latent has, too, are one hypothesis and are tested for that latent alone."""
    first: dict[str, int] = {}
    for latent, word in zip(latents, words, strict=True):
        if word.text is not None:
            first.setdefault(word.text, latent)
    return [
        word if word.text is None or first[word.text] == latent else word._replace(failure=f"as {first[word.text]}")
        for latent, word in zip(latents, words, strict=True)
    ]


def annotated(
    run: CodedRun, documents: Sequence[int], words: Sequence[Words], settings: InterpretationSettings, asks: Asks
) -> np.ndarray:
    """Whether each latent's words fit each document, by the scorer: float64 [D, L]; NaN: no answer, or not asked.

    Raises: ConfigError where no scorer is named; as `asks.ask`.
    """
    scorer = settings.model_of("scorer")
    texts = texts_of(run.text, documents)
    tasks = [(word.text, texts) for word in words if word.text is not None and word.is_tested]
    answers = iter(answer for some in _blocks(tasks) for answer in annotate_all(asks, scorer, some, settings.seed))
    concepts_DL = np.full((len(documents), len(words)), np.nan)
    for column, word in enumerate(words):
        if word.is_tested:
            concepts_DL[:, column] = [np.nan if fits is None else float(fits) for fits in next(answers)]
    return concepts_DL
