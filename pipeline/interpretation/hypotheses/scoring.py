"""How well concepts tell a target on documents that did not choose them, and p-values that count what was tried."""

from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.interpretation.hypotheses.regression import Fitted, regression

LEVEL = 0.1
"""Of the p-values that are counted as significant after Bonferroni's correction, as in HypotheSAEs."""


class Separation(NamedTuple):
    """Mean target of the documents that have a concept, minus that of those that do not."""

    score: float | None
    """None: no document has it, or every one."""
    low: float | None
    high: float | None
    """Welch's 95 % interval."""
    p: float | None
    """Welch's t test: the two groups may have different variances. None: fewer than two documents in one of them."""
    p_student: float | None
    """Student's t test, of one variance for both groups: what HypotheSAEs reports."""
    p_exact: float | None
    """Of a yes or no: Fisher's exact test, which also tells groups apart in which every document has one answer."""


class Score(NamedTuple):
    """One concept on the documents that test it."""

    n_documents: int
    """With an answer."""
    prevalence: float | None
    """Share of them that have the concept."""
    separation: Separation
    coefficient: float | None
    """Of the regression on all concepts at once."""
    coefficient_p: float | None


class Scores(NamedTuple):
    """All concepts, and what they tell together. L concepts."""

    scores: list[Score]
    model: str
    """Of the regression: OLS or logit."""
    n_documents: int
    """Of the regression: those with an answer for every concept."""
    metrics: dict[str, float | None]
    """r2; of a yes or no also auroc and auprc, of the regression's own documents."""
    n_tested: int
    """Concepts with an answer (count)."""
    n_significant: int
    """Coefficients whose p-value is below LEVEL / n_tested."""


def score_concepts(concepts_DL: np.ndarray, target_D: np.ndarray, is_binary: bool) -> Scores:
    """Definitions of HypotheSAEs 2.0.1, `evaluation.py: score_hypotheses`, but for Welch's test beside Student's.

    concepts_DL: 1 where a document has a concept, 0 where it does not, NaN where there is no answer, float64.
    """
    # A concept without any answer takes no part; it would leave the regression no document.
    asked_L = np.isfinite(concepts_DL).any(axis=0)
    whole_D = np.isfinite(concepts_DL[:, asked_L]).all(axis=1) & asked_L.any()
    fitted = regression(concepts_DL[whole_D], target_D[whole_D], is_binary) if whole_D.any() else None
    scores = []
    for place, concept_D in enumerate(concepts_DL.T):
        answered_D = np.isfinite(concept_D)
        has_D, y_D = concept_D[answered_D] == 1, target_D[answered_D]
        coefficient, p = (
            (None, None) if fitted is None else (_number(fitted.coefficient_L[place]), _number(fitted.p_L[place]))
        )
        prevalence = float(has_D.mean()) if len(has_D) else None
        scores.append(Score(len(has_D), prevalence, separation(y_D[has_D], y_D[~has_D], is_binary), coefficient, p))
    n_tested = int(asked_L.sum())
    n_significant = sum(s.coefficient_p is not None and s.coefficient_p < LEVEL / n_tested for s in scores)
    metrics = {} if fitted is None else _metrics(fitted, target_D[whole_D], is_binary)
    return Scores(
        scores, "OLS" if fitted is None else fitted.model, int(whole_D.sum()), metrics, n_tested, n_significant
    )


def separation(with_n: np.ndarray, without_n: np.ndarray, is_binary: bool) -> Separation:
    """The separation of two groups of documents by their targets, float64 each; 0 or 1 where is_binary."""
    import scipy.stats

    if not len(with_n) or not len(without_n):
        return Separation(None, None, None, None, None, None)
    score = float(with_n.mean() - without_n.mean())
    cells = [[int(group.sum()), int(len(group) - group.sum())] for group in (with_n, without_n)]
    p_exact = float(scipy.stats.fisher_exact(cells).pvalue) if is_binary else None
    if min(len(with_n), len(without_n)) < 2 or max(np.ptp(with_n), np.ptp(without_n)) == 0:
        return Separation(score, None, None, None, None, p_exact)
    # Written out: scipy warns where one of the groups is constant, as those of a yes or no often are.
    sizes, squares = (np.array([of(group) for group in (with_n, without_n)], np.float64) for of in (len, _squares))
    freedom, parts = float(sizes.sum() - 2), squares / (sizes - 1) / sizes
    pooled_error = float(np.sqrt(squares.sum() / freedom * (1 / sizes).sum()))
    p_student = float(2 * scipy.stats.t.sf(abs(score) / pooled_error, freedom))
    error, welch_freedom = float(np.sqrt(parts.sum())), float(parts.sum() ** 2 / (parts**2 / (sizes - 1)).sum())
    half = float(scipy.stats.t.ppf(0.975, welch_freedom)) * error
    p = float(2 * scipy.stats.t.sf(abs(score) / error, welch_freedom))
    return Separation(score, score - half, score + half, p, p_student, p_exact)


def _squares(values: np.ndarray) -> float:
    return float(((values - values.mean()) ** 2).sum())


def correlation(value_D: np.ndarray, target_D: np.ndarray) -> tuple[float | None, float | None]:
    """Pearson's correlation and its two-sided p-value; None where one of the two is constant."""
    import scipy.stats

    if len(value_D) < 3 or np.ptp(value_D) == 0 or np.ptp(target_D) == 0:
        return None, None
    found = scipy.stats.pearsonr(value_D, target_D)
    return float(found.statistic), float(found.pvalue)


def bonferroni(p_values: list[float | None]) -> list[float | None]:
    """Each p-value times the number of tests, at most 1: the chance of one so small among all, if nothing is there."""
    n_tests = sum(p is not None for p in p_values)
    return [None if p is None else min(1.0, p * n_tests) for p in p_values]


def benjamini_hochberg(p_values: list[float | None]) -> list[float | None]:
    """The smallest share of false discoveries at which each test is a discovery (Benjamini, Hochberg 1995)."""
    import scipy.stats

    known = [p for p in p_values if p is not None]
    corrected = iter(scipy.stats.false_discovery_control(known, method="bh").tolist() if known else [])
    return [None if p is None else float(next(corrected)) for p in p_values]


def _metrics(fitted: Fitted, target_D: np.ndarray, is_binary: bool) -> dict[str, float | None]:
    from sklearn.metrics import average_precision_score, roc_auc_score

    metrics: dict[str, float | None] = {}
    if is_binary:
        is_both = 0 < target_D.mean() < 1
        metrics["auroc"] = float(roc_auc_score(target_D, fitted.predicted)) if is_both else None
        metrics["auprc"] = float(average_precision_score(target_D, fitted.predicted)) if is_both else None
    # A yes or no that least squares had to fit has no McFadden's R2, and gets none of another definition.
    metrics["r2"] = fitted.r2 if fitted.model == ("logit" if is_binary else "OLS") else None
    return metrics


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
