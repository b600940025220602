"""One probe, as the package sae-probes fits it: latents by their class means, then a logistic regression on them.

Source: sae_probes 0.4.0 (run_sae_evals.py, utils_training.py), whose functions give the same latents and scores on the
same rows (tests/peers/test_probing.py). Nothing is standardised: their solver would end elsewhere.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from strata_sae.pipeline.errors import ConfigError

INVERSE_PENALTIES = tuple(float(C) for C in np.logspace(5, -5, 10))
"""C of the logistic regressions that are tried."""
LEAST_TRAINING_ROWS = 128
"""Below it sae-probes validates by folds, and numbers of so few rows say little (count)."""
_VALIDATION = (0.2, 100)
"""Share of the training rows, from their end, on which C is chosen, and how many at most."""
_MEAN = 1e-6
_TILE_NUMBERS = 2**27
"""Numbers of a dense tile of codes (count): 0.5 GB."""


class ProbeScore(NamedTuple):
    """Of one probe, on test rows."""

    auc: float
    accuracy: float
    f1: float
    """Mean of both classes' F1, weighted by their rows."""


def ranked(codes_NE: Tensor, y_N: np.ndarray) -> Tensor:
    """Latents of float32 codes [N, E], those first whose class means differ most: int64 [E].

    Only for this each latent is divided by the mean of its values other than 0.
    """
    positive_N = torch.from_numpy(y_N == 1)
    width = max(1, _TILE_NUMBERS // max(1, len(codes_NE)))
    tiles = [
        _difference(codes_NE[:, start : start + width], positive_N) for start in range(0, codes_NE.shape[1], width)
    ]
    return torch.argsort(torch.cat(tiles), descending=True)


def _difference(codes_NK: Tensor, positive_N: Tensor) -> Tensor:
    mean_K = codes_NK.abs().sum(dim=0) / ((codes_NK != 0).sum(dim=0) + _MEAN)
    scaled_NK = codes_NK / (mean_K + _MEAN)
    return (scaled_NK[positive_N].mean(dim=0) - scaled_NK[~positive_N].mean(dim=0)).abs()


def probe(x_train: np.ndarray, y_train: np.ndarray, x_test: np.ndarray, y_test: np.ndarray, seed: int) -> ProbeScore:
    """Scores of the best logistic regression: C by AUC on the last training rows, then fitted to all of them.

    Shapes: x [N, columns], y [N] of 0 and 1. Raises: ConfigError where the rows are too few or of one class.
    """
    # sae-probes hands over tensors, which scikit-learn turns into float64; in float32 fits end elsewhere.
    x_train, x_test = x_train.astype(np.float64), x_test.astype(np.float64)
    n_validation = min(int(_VALIDATION[0] * len(x_train)), _VALIDATION[1])
    fit, rest = slice(0, len(x_train) - n_validation), slice(len(x_train) - n_validation, None)
    if len(x_train) < LEAST_TRAINING_ROWS:
        raise ConfigError(f"{len(x_train)} training rows; a probe needs {LEAST_TRAINING_ROWS}")
    if any(len(np.unique(y_N)) < 2 for y_N in (y_train[fit], y_train[rest], y_test)):
        raise ConfigError("the rows that a probe is fitted, validated or tested on are of one class")
    with _one_thread():
        chosen, best = 0.0, -1.0
        for C in INVERSE_PENALTIES:  # of equal ones the first
            score = auc(y_train[rest], _fitted(C, x_train[fit], y_train[fit], x_train[rest]).positive_N)
            chosen, best = (C, score) if score > best else (chosen, best)
        order_N = np.random.RandomState(seed).permutation(len(x_train))
        found = _fitted(chosen, x_train[order_N], y_train[order_N], x_test)
    accuracy = float(np.mean(found.class_N == y_test))
    return ProbeScore(auc(y_test, found.positive_N), accuracy, weighted_f1(y_test, found.class_N))


class _Predicted(NamedTuple):
    positive_N: np.ndarray
    """Probability of class 1."""
    class_N: np.ndarray


def _fitted(C: float, x_NK: np.ndarray, y_N: np.ndarray, of_NK: np.ndarray) -> _Predicted:
    from sklearn.linear_model import LogisticRegression  # takes seconds

    model = LogisticRegression(C=C, max_iter=1000).fit(x_NK, y_N)
    return _Predicted(model.predict_proba(of_NK)[:, 1], model.predict(of_NK))


@contextmanager
def _one_thread() -> Iterator[None]:
    """On matrices this small, a second thread waits more than it works. Fits that stop early are said nothing about."""
    import sklearn
    from sklearn.exceptions import ConvergenceWarning
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1), sklearn.config_context(assume_finite=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def auc(y_N: np.ndarray, score_N: np.ndarray) -> float:
    """Chance that a row of class 1 has a higher score than one of class 0; equal scores count half.

    To the last bit that of scikit-learn's roc_auc_score, which takes longer than a fit: between equal ones of two C,
    the last bit decides which is chosen.
    """
    order_N = np.argsort(score_N, kind="stable")[::-1]
    ends = np.append(np.flatnonzero(np.diff(score_N[order_N])), len(y_N) - 1)  # of each score, the last row
    above = np.cumsum(y_N[order_N] == 1)[ends]
    below = 1 + ends - above
    if len(ends) > 2:  # points on a straight line between their neighbours are left out
        bends = np.flatnonzero((np.diff(below, 2) != 0) | (np.diff(above, 2) != 0)) + 1
        kept = np.concatenate([[0], bends, [len(ends) - 1]])
        above, below = above[kept], below[kept]
    hits, false_alarms = (np.append(0, counts) / counts[-1] for counts in (above, below))
    return float(np.trapezoid(hits, false_alarms))


def weighted_f1(y_N: np.ndarray, found_N: np.ndarray) -> float:
    """F1 of class 0 and of class 1, weighted by their rows; 0 of a class that is never found."""
    total = 0.0
    for label in (0, 1):
        hits = int(np.sum((y_N == label) & (found_N == label)))
        total += int(np.sum(y_N == label)) * 2 * hits / max(1, int(np.sum(y_N == label) + np.sum(found_N == label)))
    return total / len(y_N)
