"""The rows of first-letter prompts: made once for each seed, where they are missing."""

import logging
from collections.abc import Sequence

from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.intervention.labelled_rows import Cut, LabelledText, Labeller
from strata_sae.pipeline.intervention.probing_rows import labelling_model
from strata_sae.pipeline.language_model.tokens_text import token_bytes
from strata_sae.pipeline.once import make_each
from strata_sae.pipeline.reading.first_letters import (
    QUESTION,
    Word,
    details_of,
    letter_words,
    prompts_of,
    rows_of_seeds,
)
from strata_sae.pipeline.reading.labelled import labelled_root
from strata_sae.pipeline.reading.routes import sae_sites_of
from strata_sae.pipeline.reading.which_store import open_store

log = logging.getLogger(__name__)

_CUT = Cut(max_tokens=256, truncate="left", prepend_bos=True)
"""As transformer_lens gives texts to a model: with BOS. No prompt of words of one token is as long."""


def make_absorption_rows(config: TrainConfig, *, show_progress: bool = False) -> None:
    """A labelled store for each seed of `evaluation.absorption`; those that are there stay as they are.

    Raises: ConfigError if the vocabulary's words are too few, if the model is not there, or if it is not the model of
        the run's store.
    """
    settings, sites = config.evaluation.absorption, sae_sites_of(config)
    if settings is None:
        return
    store = open_store(config).stores[0]
    there = rows_of_seeds(config, settings, sites, store)
    missing = [seed for seed in range(settings.seeds) if seed not in there]
    if not missing:
        log.info("rows of first-letter prompts are made already")
        return
    labeller = Labeller(labelling_model(config, store), sites, labelled_root(config), show_progress=show_progress)
    at = -1 - len(labeller.sequences([LabelledText(QUESTION)], Cut(prepend_bos=False))[0])
    words = _of_one_token(labeller, at, settings.words_per_letter)
    drawn = {seed: prompts_of(words, seed) for seed in missing}  # what cannot be drawn is refused before the first row

    def make(seed: int, wait: bool) -> bool:
        prompts = drawn[seed]
        store = labeller.store(
            "first_letter",
            f"first letters, seed {seed}",
            [LabelledText(text, at) for text in prompts.texts],
            {"letter": prompts.letter_N, "part": prompts.part_N},
            n_train=prompts.n_train,
            cut=_CUT,
            details=details_of(settings, seed),
            wait=wait,
        )
        return store is not None

    make_each(missing, make)


def _of_one_token(labeller: Labeller, at: int, per_letter: int | None) -> Sequence[Word]:
    """The words that the tokenizer leaves whole before the question, where their row is looked for."""
    ids = labeller.tokenizer.get_vocab().values()
    tokens = {
        token_id: token.data for token_id, token in token_bytes(labeller.tokenizer, ids).items() if not token.special
    }
    words = letter_words(tokens, None)
    found = labeller.sequences([LabelledText(f"\n{word.text}{QUESTION}") for word in words], Cut(prepend_bos=False))
    whole = {
        word.token_id: tokens[word.token_id]
        for word, sequence in zip(words, found, strict=True)
        if len(sequence) >= -at and sequence[at] == word.token_id
    }
    return letter_words(whole, per_letter)
