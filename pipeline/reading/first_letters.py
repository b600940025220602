"""Words of one token, the prompts that ask for their first letter, as SAEBench makes them, and the rows of these words.

A prompt is ten answered examples (" cat has the first letter: C") and the question (" dog has the first letter:"), a
line each. What is kept of it is the row of the word that is asked about.
"""

import logging
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from strata_sae.pipeline.config.judging import AbsorptionSettings
from strata_sae.pipeline.config.run import RunConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.pipeline.reading.labelled import (
    LabelledRows,
    check_same_model,
    labelled_root,
    labelled_stores,
    open_labelled,
)
from strata_sae.stores import ActivationStore

log = logging.getLogger(__name__)

LETTERS = "abcdefghijklmnopqrstuvwxyz"
QUESTION = " has the first letter:"
"""What follows the word."""
EXAMPLES = 10
"""Answered examples before the question (count)."""
TRAIN_SHARE = 0.8
"""Share of the words with which probes are trained."""
LEAST_CHARACTERS = 3
"""Of a word, without the space before it (count): shorter tokens are mostly parts of words."""
TRAIN, TEST, ASKED_AGAIN = 0, 1, 2
"""Part of a row: probes are trained on it, tested on it, or it is a test word in another prompt."""


class Word(NamedTuple):
    """A token that is a space and letters."""

    token_id: int
    text: str
    """With the space."""

    @property
    def letter(self) -> int:
        """Place of its first letter in LETTERS."""
        return LETTERS.index(self.text[1].lower())


class Prompts(NamedTuple):
    """The texts of one seed: training words, test words, then the test words in other prompts, in the same order."""

    texts: list[str]
    letter_N: np.ndarray
    """Place in LETTERS: int8."""
    part_N: np.ndarray
    """TRAIN, TEST or ASKED_AGAIN: int8."""

    @property
    def n_train(self) -> int:
        """Texts of training words (count)."""
        return int((self.part_N == TRAIN).sum())


def letter_words(tokens: Mapping[int, bytes], per_letter: int | None) -> list[Word]:
    """The words of a vocabulary by letter; of each letter the `per_letter` of lowest id (None: all)."""
    found: dict[str, list[Word]] = defaultdict(list)
    for token_id in sorted(tokens):
        data = tokens[token_id]
        text = data.decode("ascii", errors="replace")
        if not (data[:1] == b" " and len(text) > LEAST_CHARACTERS and text[1:].isascii() and text[1:].isalpha()):
            continue
        of_letter = found[text[1].lower()]
        if per_letter is None or len(of_letter) < per_letter:
            of_letter.append(Word(token_id, text))
    return [word for letter in LETTERS for word in found[letter]]


def prompts_of(words: Sequence[Word], seed: int) -> Prompts:
    """The prompts of a seed: which words are for testing, and which examples stand before each.

    Training words have training words as examples, test words have test words; asked again, they have any. Python's
    generator is drawn from as SAEBench draws, so that the same seed gives its prompts.
    Raises: ConfigError if the words are too few, or all of one letter.
    """
    if len({word.letter for word in words}) < 2:
        letters = sorted({LETTERS[word.letter] for word in words}) or ["none"]
        raise ConfigError(
            f"evaluation.absorption: the vocabulary's words begin with one letter ({letters[0]}), and probes tell "
            "letters apart; leave absorption out for this model"
        )
    drawn = random.Random(seed)
    shuffled = drawn.sample(list(words), len(words))
    n_train = int(len(shuffled) * TRAIN_SHARE)
    train, test = shuffled[:n_train], shuffled[n_train:]
    if len(test) <= EXAMPLES:
        raise ConfigError(
            f"evaluation.absorption.words_per_letter: the vocabulary gives {len(words)} words, {len(test)} of them for "
            f"testing, and a prompt needs {EXAMPLES} others as examples; raise it, or leave absorption out"
        )
    parts = [(train, train, TRAIN), (test, test, TEST), (test, list(words), ASKED_AGAIN)]
    asked = [(word, examples, part) for own, examples, part in parts for word in own]
    return Prompts(
        [_prompt(word, examples, drawn) for word, examples, _ in asked],
        np.array([word.letter for word, _, _ in asked], np.int8),
        np.array([part for _, _, part in asked], np.int8),
    )


def details_of(settings: AbsorptionSettings, seed: int) -> dict[str, JsonValue]:
    """What labels.json says of the rows of a seed, beside the vocabulary that the model's record names."""
    per_letter = settings.words_per_letter
    return {"seed": seed, "words_per_letter": per_letter, "question": QUESTION, "examples": EXAMPLES}


def rows_of_seeds(
    config: RunConfig, settings: AbsorptionSettings, sites: Sequence[str], store: ActivationStore
) -> dict[int, LabelledRows]:
    """Seed -> its rows, of those that are there, at these sites, of the model that made the store.

    Raises: StoreError if they are damaged.
    """
    wanted = {seed: details_of(settings, seed) for seed in range(settings.seeds)}
    found: dict[int, LabelledRows] = {}
    for path in labelled_stores(labelled_root(config), "first_letter"):
        labelled = open_labelled(path)
        seed = next((seed for seed, details in wanted.items() if details == labelled.about.details), None)
        if seed is None or not set(sites) <= {*labelled.about.sites}:
            continue
        try:
            check_same_model(labelled, store)
        except CheckpointError as error:
            log.warning("%s: left out: %s", labelled.about.name, error)
        else:
            found[seed] = labelled
    return found


def _prompt(word: Word, examples: list[Word], drawn: random.Random) -> str:
    while word in (chosen := drawn.sample(examples, EXAMPLES)):
        pass
    answered = [f"{example.text}{QUESTION} {example.text[1].upper()}" for example in chosen]
    return "\n" + "\n".join(answered) + f"\n{word.text}{QUESTION}"
