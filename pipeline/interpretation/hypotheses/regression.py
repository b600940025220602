"""Regression of a target on concepts, with its p-values: least squares, and logistic regression for a yes or no.

Concepts enter as they are, 0 or 1, not standardised, beside a constant: as HypotheSAEs 2.0.1 has statsmodels do it.
"""

from typing import Literal, NamedTuple

import numpy as np

Model = Literal["OLS", "logit"]
_MOST_STEPS = 50
_CLOSE = 1e-10
"""Of a Newton step, beside the size of the coefficients."""
_SEPARATED = 30.0
"""Logit beyond which a document counts as separated perfectly: its chance of the other answer is below 1e-13."""
_CONDITION = 1e12
"""Of a Hessian; above it a concept is a sum of others, and coefficients are rounding."""


class Fitted(NamedTuple):
    """A regression of n documents on L concepts."""

    model: Model
    coefficient_L: np.ndarray
    """Change of the target, or of its log odds, where the concept is there. NaN: not in the regression."""
    p_L: np.ndarray
    """Two-sided: of Student's t (OLS) or of the normal distribution (logit). NaN: there is none."""
    predicted: np.ndarray
    """float64 [n]."""
    r2: float | None
    """Squared correlation of target and prediction (OLS), or McFadden's 1 - log likelihood / that of the constant."""


def regression(concepts_DL: np.ndarray, target_D: np.ndarray, is_binary: bool) -> Fitted:
    """The regression of a target on concepts; of a yes or no logistic, and OLS where that has no finite answer.

    Concepts that are equal on all documents are left out: a constant cannot be told from the constant, and
    HypotheSAEs would then give each concept the coefficient of the one after it.
    concepts_DL: 0 or 1, float64, of one document or more; a column of NaN takes no part.
    target_D: 0 or 1 where is_binary.
    """
    varies_L = np.isfinite(concepts_DL).all(axis=0) & (concepts_DL != concepts_DL[:1]).any(axis=0)
    x_DC = np.column_stack([np.ones(len(target_D)), concepts_DL[:, varies_L]])
    found = _logit(x_DC, target_D) if is_binary else None
    model: Model = "logit" if found is not None else "OLS"
    coefficient_C, p_C, predicted, r2 = found if found is not None else _least_squares(x_DC, target_D)
    coefficient_L, p_L = (np.full(len(varies_L), np.nan) for _ in range(2))
    coefficient_L[varies_L], p_L[varies_L] = coefficient_C[1:], p_C[1:]
    return Fitted(model, coefficient_L, p_L, predicted, r2)


_Found = tuple[np.ndarray, np.ndarray, np.ndarray, float | None]


def _least_squares(x_DC: np.ndarray, y_D: np.ndarray) -> _Found:
    """By the pseudoinverse, as statsmodels: of concepts that cannot be told apart, each gets a share."""
    import scipy.stats

    inverse_CD = np.linalg.pinv(x_DC, rcond=1e-15)
    coefficient_C = inverse_CD @ y_D
    predicted_D = x_DC @ coefficient_C
    freedom = len(y_D) - int(np.linalg.matrix_rank(x_DC))
    p_C = np.full(len(coefficient_C), np.nan)
    if freedom > 0:
        variance = float(((y_D - predicted_D) ** 2).sum()) / freedom
        error_C = np.sqrt(variance * (inverse_CD**2).sum(axis=1))
        known = error_C > 0
        p_C[known] = 2 * scipy.stats.t.sf(np.abs(coefficient_C[known]) / error_C[known], freedom)
    return coefficient_C, p_C, predicted_D, _squared_correlation(y_D, predicted_D)


def _squared_correlation(y_D: np.ndarray, predicted_D: np.ndarray) -> float | None:
    y, predicted = y_D - y_D.mean(), predicted_D - predicted_D.mean()
    of_y, of_predicted = float(y @ y), float(predicted @ predicted)
    # A constant prediction varies by its rounding alone, which is as large as the target is.
    is_constant = of_predicted <= 1e-24 * max(of_y, float(y_D @ y_D))
    return None if is_constant else float((y @ predicted) ** 2 / (of_y * of_predicted))


def _logit(x_DC: np.ndarray, y_D: np.ndarray) -> _Found | None:
    """Maximum likelihood by Newton's steps; None where it has no finite maximum, or concepts cannot be told apart."""
    import scipy.stats

    coefficient_C, likelihood = np.zeros(x_DC.shape[1]), -np.inf
    for _ in range(_MOST_STEPS):
        logit_D = x_DC @ coefficient_C
        if np.abs(logit_D).max() > _SEPARATED:
            return None
        chance_D = 1 / (1 + np.exp(-logit_D))
        hessian_CC = (x_DC * (chance_D * (1 - chance_D))[:, None]).T @ x_DC
        if not np.linalg.cond(hessian_CC) < _CONDITION:
            return None
        step_C = np.linalg.solve(hessian_CC, x_DC.T @ (y_D - chance_D))
        likelihood = float((y_D * logit_D - np.logaddexp(0, logit_D)).sum())
        if np.abs(step_C).max() <= _CLOSE * (1 + np.abs(coefficient_C).max()):
            break
        coefficient_C = coefficient_C + step_C
    else:
        return None
    error_C = np.sqrt(np.diag(np.linalg.inv(hessian_CC)))
    p_C = 2 * scipy.stats.norm.sf(np.abs(coefficient_C / error_C))
    share = float(y_D.mean())
    alone = len(y_D) * (share * np.log(share) + (1 - share) * np.log(1 - share)) if 0 < share < 1 else 0.0
    return coefficient_C, p_C, chance_D, 1 - likelihood / alone if alone else None
