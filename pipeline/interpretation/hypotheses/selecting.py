"""Which latents tell a target best, on the documents of even number: by correlation, by LASSO, by separation.

Definitions of HypotheSAEs 2.0.1, `select_neurons.py`, on codes pooled by document. Correlation and separation are exact
from sums over the documents where a latent is active; no dense array of documents and latents is made for them.
"""

import logging
import warnings
from typing import Literal, NamedTuple, get_args

import numpy as np

from strata_sae.pipeline.queries.pooled import PooledCodes

log = logging.getLogger(__name__)

Selection = Literal["correlation", "lasso", "separation"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)
LEAST_DOCUMENTS = 5
"""With fewer active documents among those that select, a latent is not looked at."""
N_TOP = 100
"""Documents whose mean target is compared with that of the silent ones, at most: the most active."""
LASSO_BYTES = 2**29
"""Of the standardised codes that LASSO is fitted on; sklearn copies them once."""
_ALPHAS = (1e-6, 1e4)
_SEARCHES, _MOST_STEPS = 20, 1000


class Selected(NamedTuple):
    """A latent that was chosen."""

    latent: int
    score: float
    """Pearson's correlation; coefficient of the standardised latent; difference of mean targets."""


class Candidates(NamedTuple):
    """Every latent that is active on enough of the documents; C of them."""

    latent_C: np.ndarray
    """int64, rising."""
    correlation_C: np.ndarray
    """NaN: the latent or the target has no variance."""
    separation_C: np.ndarray
    """Mean target of its N_TOP most active documents minus that of the silent ones. NaN: it is silent nowhere."""


def candidates(pooled: PooledCodes, target_D: np.ndarray) -> Candidates:
    """Both scores of all latents, in one pass over the codes.

    target_D: float64, by `pooled.documents`; NaN where a document does not select.
    """
    known_D = np.isfinite(target_D)
    n_known = int(known_D.sum())
    mean = float(target_D[known_D].mean())
    y_D = np.where(known_D, target_D - mean, 0)
    size_y = float(np.sqrt(y_D @ y_D))
    found: list[tuple[int, float, float]] = []
    for block in pooled.blocks():
        is_known_P = known_D[block.place]
        for number in range(len(block.offset) - 1):
            here = slice(block.offset[number], block.offset[number + 1])
            place, value = block.place[here][is_known_P[here]], block.value[here][is_known_P[here]]
            if len(place) >= LEAST_DOCUMENTS:
                y = y_D[place]
                top = np.argsort(-value, kind="stable")[:N_TOP]
                n_silent = n_known - len(place)
                # Centred targets sum to 0, so those of the silent documents are minus those of the active ones.
                apart = float(y[top].mean() + y.sum() / n_silent) if n_silent else np.nan
                size_x = float(np.sqrt(max(0.0, value @ value - value.sum() ** 2 / n_known)))
                is_constant = size_x <= 1e-9 * float(np.sqrt(value @ value)) or size_y == 0
                correlation = np.nan if is_constant else float(value @ y) / (size_x * size_y)
                found.append((block.first + number, correlation, apart))
    table = np.array(found, np.float64).reshape(-1, 3)
    return Candidates(table[:, 0].astype(np.int64), table[:, 1], table[:, 2])


def select(
    pooled: PooledCodes, target_D: np.ndarray, way: Selection, n: int, is_binary: bool
) -> tuple[list[Selected], Candidates]:
    """The n latents with the largest score by its size, largest first; equal ones by their number."""
    found = candidates(pooled, target_D)
    if way == "lasso":
        latent_C, score_C = _lasso(pooled, target_D, found, n, is_binary)
    else:
        latent_C, score_C = found.latent_C, found.correlation_C if way == "correlation" else found.separation_C
    order = np.argsort(-np.abs(np.nan_to_num(score_C)), kind="stable")[:n]
    chosen = [Selected(int(latent_C[one]), float(score_C[one])) for one in order]
    return [one for one in chosen if np.isfinite(one.score) and one.score != 0], found


def _lasso(
    pooled: PooledCodes, target_D: np.ndarray, found: Candidates, n: int, is_binary: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Latents and their coefficients. Of more than fit in LASSO_BYTES, those of the largest correlation are taken."""
    known = np.flatnonzero(np.isfinite(target_D))
    most = max(n, LASSO_BYTES // (8 * len(known)))
    order = np.argsort(-np.abs(np.nan_to_num(found.correlation_C)), kind="stable")
    latent_C = np.sort(found.latent_C[order[:most]])
    if len(latent_C) < len(found.latent_C):
        log.info("lasso: of %s latents the %s of the largest correlation", f"{len(order):,}", f"{most:,}")
    x_nC = pooled.of(latent_C.tolist(), known)
    return latent_C, lasso_coefficients(x_nC, target_D[known], n, is_binary)


def lasso_coefficients(x_nC: np.ndarray, target_n: np.ndarray, n_select: int, is_binary: bool) -> np.ndarray:
    """The coefficients at the penalty that leaves n_select of them, float64 [C], by bisection of its logarithm.

    Of a yes or no those of a logistic regression. Where no penalty that was tried leaves just so many: the last one's.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import Lasso, LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaled_nC = StandardScaler().fit_transform(x_nC)
    (low, high), coefficient_C = _ALPHAS, np.zeros(x_nC.shape[1])
    for _ in range(_SEARCHES):
        alpha = float(np.sqrt(low * high))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # at penalties far below the one that is looked for
            if is_binary:
                logistic = LogisticRegression(
                    l1_ratio=1, solver="liblinear", C=1 / alpha, max_iter=_MOST_STEPS, random_state=0
                )
                coefficient_C = logistic.fit(scaled_nC, target_n).coef_[0]
            else:
                coefficient_C = Lasso(alpha=alpha, max_iter=_MOST_STEPS).fit(scaled_nC, target_n).coef_
        n_found = int((coefficient_C != 0).sum())
        if n_found == n_select:
            break
        low, high = (low, alpha) if n_found < n_select else (alpha, high)
    return coefficient_C
