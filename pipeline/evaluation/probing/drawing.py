"""Which rows train a probe and which test it, for each seed of what is drawn."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.evaluation.probing.classifier import LEAST_TRAINING_ROWS

FIRST_SEED = 42
"""sae-probes' own; the others follow it."""
UNLABELLED = -1
_TRAIN_SHARE = 2 / 3
"""Of rows, of documents' rows and of token ids."""


class Draw(NamedTuple):
    """Rows by number, as many of each class, in a drawn order."""

    train: np.ndarray
    test: np.ndarray


def drawn(y_N: np.ndarray, n_train: int, n_test: int, seed: int) -> Draw:
    """Rows of both classes alike, none of them in both: sae-probes' `get_train_test_indices` at `pos_ratio` 0.5."""
    rng = np.random.RandomState(seed)
    positive, negative = np.where(y_N == 1)[0], np.where(y_N == 0)[0]
    sizes = [((n + 1) // 2, n - (n + 1) // 2) for n in (n_train, n_test)]
    train = [rng.choice(positive, sizes[0][0], replace=False), rng.choice(negative, sizes[0][1], replace=False)]
    rest = [np.setdiff1d(positive, train[0]), np.setdiff1d(negative, train[1])]
    test = [rng.choice(rest[0], sizes[1][0], replace=False), rng.choice(rest[1], sizes[1][1], replace=False)]
    return Draw(rng.permutation(np.concatenate(train)), rng.permutation(np.concatenate(test)))


def of_texts(y_N: np.ndarray, seed: int) -> Draw:
    """Two thirds of the texts to train and a third to test. Raises: ConfigError where there are too few of a class."""
    n_each = min(int(np.sum(y_N == label)) for label in (0, 1))
    n_train = int(2 * n_each * _TRAIN_SHARE) // 2 * 2
    n_test = 2 * n_each - n_train
    _check(n_test, n_train, "texts")
    return drawn(y_N, n_train, n_test, seed)


def of_tokens(y_N: np.ndarray, token_id_N: np.ndarray, document_N: np.ndarray, n_rows: int, seed: int) -> Draw:
    """At most `n_rows` rows whose documents and token ids differ between training and testing.

    Rows of a training document and a testing token, or the other way round, are in neither.
    Raises: ConfigError where that leaves too few rows.
    """
    rng = np.random.RandomState(seed)
    labelled = y_N != UNLABELLED
    if not labelled.any():
        raise ConfigError("no held-out row has a label: the vocabulary holds no token of that kind")
    n_each = min(int(np.sum(y_N == label)) for label in (0, 1))
    if n_each == 0:
        raise ConfigError("all labelled rows are of one class")
    of_train = _documents(document_N[labelled], rng)
    if of_train is None:
        raise ConfigError("the held-out rows are of one document, and a test needs another one than training")
    document_trains_N = np.isin(document_N, of_train)
    token_trains_N = np.isin(token_id_N, _tokens(y_N[labelled], token_id_N[labelled], rng))
    train_N = np.where(labelled & document_trains_N & token_trains_N)[0]
    test_N = np.where(labelled & ~document_trains_N & ~token_trains_N)[0]
    n_train, n_test = int(n_rows * _TRAIN_SHARE) // 2 * 2, int(n_rows * (1 - _TRAIN_SHARE)) // 2 * 2
    train, test = _balanced(train_N, y_N, n_train, rng), _balanced(test_N, y_N, n_test, rng)
    _check(len(test), len(train), "rows that share neither document nor token id")
    return Draw(train, test)


_LEAST_TEST_ROWS = 32


def _check(n_test: int, n_train: int, what: str) -> None:
    if n_train < LEAST_TRAINING_ROWS or n_test < _LEAST_TEST_ROWS:
        raise ConfigError(
            f"too few {what}: {n_train} to train and {n_test} to test, both classes alike; a probe needs "
            f"{LEAST_TRAINING_ROWS} and {_LEAST_TEST_ROWS}"
        )


def _documents(document_N: np.ndarray, rng: np.random.RandomState) -> np.ndarray | None:
    """Documents with about two thirds of the rows, and not all of them; None where there is only one."""
    documents, counts = np.unique(document_N, return_counts=True)
    if len(documents) < 2:
        return None
    order = rng.permutation(len(documents))
    before = np.cumsum(counts[order]) - counts[order]
    n = int(np.sum(before < _TRAIN_SHARE * len(document_N)))
    return documents[order[: min(n, len(documents) - 1)]]


def _tokens(y_N: np.ndarray, token_id_N: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Two thirds of the token ids, of those that are mostly of class 0 and mostly of class 1 alike."""
    tokens, place_N = np.unique(token_id_N, return_inverse=True)
    positive = np.bincount(place_N, y_N, minlength=len(tokens)) * 2 > np.bincount(place_N, minlength=len(tokens))
    kept = [rng.permutation(tokens[positive == label]) for label in (False, True)]
    return np.concatenate([ids[: int(np.ceil(len(ids) * _TRAIN_SHARE))] for ids in kept])


def _balanced(rows: np.ndarray, y_N: np.ndarray, n: int, rng: np.random.RandomState) -> np.ndarray:
    """At most `n` of the rows, as many of each class, in a drawn order."""
    of_class = [rng.permutation(rows[y_N[rows] == label]) for label in (0, 1)]
    size = min(n // 2, *(len(some) for some in of_class))
    return rng.permutation(np.concatenate([some[:size] for some in of_class]))
