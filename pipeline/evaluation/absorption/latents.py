"""The latents that stand for a letter: those of the largest k-sparse probe that is still clearly better than the last.

As SAEBench 0.6.0 finds them (k_sparse_probing.py): a linear probe of all codes ranks the latents, logistic regressions
on the first k of them follow for k = 1, 2, ..., as long as F1 on the test rows rises by more than `LEAST_RISE`.
"""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from torch import Tensor

MOST_LATENTS = 10
"""Largest k (count)."""
LEAST_RISE = 0.03
"""F1 that a further latent must add."""


class LetterLatents(NamedTuple):
    """Of one letter."""

    latents: list[int]
    """The best first; empty where none may stand for the letter."""
    one_latent_f1: float
    """Of the probe of the first latent alone, on the test rows; 0 where there is none."""


def letter_latents(
    weight_E: Tensor,
    train_codes_NE: Tensor,
    train_is_letter_N: Tensor,
    test_codes_NE: Tensor,
    test_is_letter_N: Tensor,
    *,
    only_positive: bool,
) -> LetterLatents:
    """The latents of one letter, by the weights of the probe that ranks them.

    only_positive: latents of weight 0 or less never stand for the letter. SAEBench's probe is no minimum, so few of its
    weights are 0, and it takes the k largest as they are.
    """
    n_candidates = int((weight_E > 0).sum()) if only_positive else len(weight_E)
    found, best, one_latent_f1 = [], -100.0, 0.0
    for k in range(1, min(MOST_LATENTS, n_candidates) + 1):
        latents = weight_E.topk(k).indices
        says_N = _sparse_probe(train_codes_NE[:, latents], train_is_letter_N, test_codes_NE[:, latents])
        score = f1(says_N, test_is_letter_N)
        if k == 1:
            one_latent_f1 = score
        if score <= best + LEAST_RISE:
            break
        found, best = latents.tolist(), score
    return LetterLatents(found, one_latent_f1)


def f1(says_N: Tensor, is_N: Tensor) -> float:
    """Of a yes or no for each row; 0 where neither says yes."""
    hits, wrong = int((says_N & is_N).sum()), int((says_N ^ is_N).sum())
    return 2 * hits / (2 * hits + wrong) if hits else 0.0


def _sparse_probe(train_NK: Tensor, is_letter_N: Tensor, test_NK: Tensor) -> Tensor:
    """What a logistic regression on a few latents says of the test rows."""
    fit = LogisticRegression(max_iter=500, class_weight="balanced")
    with warnings.catch_warnings(category=ConvergenceWarning, action="ignore"):
        fit.fit(train_NK.float().numpy(), is_letter_N.numpy().astype(np.int64))
    weight_K, bias = torch.from_numpy(fit.coef_[0]).float(), float(fit.intercept_[0])
    return test_NK.float() @ weight_K + bias > 0
