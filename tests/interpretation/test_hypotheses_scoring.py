"""Regressions, separations and corrected p-values are those of closed forms, of scipy and of brute force."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from strata_sae.pipeline.interpretation.hypotheses.regression import regression
from strata_sae.pipeline.interpretation.hypotheses.scoring import (
    benjamini_hochberg,
    bonferroni,
    correlation,
    score_concepts,
    separation,
)

N = 200


def made(seed: int, n_concepts: int = 3, is_binary: bool = False) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    concepts_DL = (rng.random((N, n_concepts)) < 0.4).astype(np.float64)
    target_D = concepts_DL @ np.array([1.5, -1.0, *np.zeros(n_concepts - 2)]) + rng.standard_normal(N)
    return concepts_DL, (target_D > 0.3).astype(np.float64) if is_binary else target_D


def test_one_concept_is_the_separation_and_students_test() -> None:
    concepts_DL, target_D = made(0)
    found = regression(concepts_DL[:, :1], target_D, is_binary=False)
    has_D = concepts_DL[:, 0] == 1
    assert found.coefficient_L[0] == pytest.approx(target_D[has_D].mean() - target_D[~has_D].mean(), rel=1e-12)
    assert found.p_L[0] == pytest.approx(scipy.stats.ttest_ind(target_D[has_D], target_D[~has_D]).pvalue, rel=1e-9)
    assert found.r2 == pytest.approx(np.corrcoef(target_D, concepts_DL[:, 0])[0, 1] ** 2, rel=1e-12)


def test_least_squares_has_the_normal_equations_and_their_errors() -> None:
    concepts_DL, target_D = made(1)
    found = regression(concepts_DL, target_D, is_binary=False)
    x_DC = np.column_stack([np.ones(N), concepts_DL])
    inverse_CC = np.linalg.inv(x_DC.T @ x_DC)
    coefficient_C = inverse_CC @ x_DC.T @ target_D
    variance = ((target_D - x_DC @ coefficient_C) ** 2).sum() / (N - 4)
    t_C = coefficient_C / np.sqrt(variance * np.diag(inverse_CC))
    assert np.allclose(found.coefficient_L, coefficient_C[1:], rtol=1e-10)
    assert np.allclose(found.p_L, 2 * scipy.stats.t.sf(np.abs(t_C), N - 4)[1:], rtol=1e-8)
    assert found.model == "OLS"


def test_logit_is_the_maximum_of_the_likelihood() -> None:
    concepts_DL, target_D = made(2, is_binary=True)
    found = regression(concepts_DL, target_D, is_binary=True)
    x_DC = np.column_stack([np.ones(N), concepts_DL])

    def loss(coefficient_C: np.ndarray) -> float:
        logit_D = x_DC @ coefficient_C
        return float(np.logaddexp(0, logit_D).sum() - target_D @ logit_D)

    best = scipy.optimize.minimize(loss, np.zeros(4), method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12})
    assert found.model == "logit"
    assert np.allclose(found.coefficient_L, best.x[1:], atol=1e-5)
    share = target_D.mean()
    alone = -N * (share * math.log(share) + (1 - share) * math.log(1 - share))
    assert found.r2 == pytest.approx(1 - best.fun / alone, rel=1e-9)
    # One concept: the log odds ratio of the table of two by two, and Wald's test with its well-known error.
    found = regression(concepts_DL[:, :1], target_D, is_binary=True)
    cells = [[((concepts_DL[:, 0] == x) & (target_D == y)).sum() for y in (0, 1)] for x in (0, 1)]
    odds = math.log(cells[1][1] * cells[0][0] / cells[1][0] / cells[0][1])
    error = math.sqrt(sum(1 / cell for row in cells for cell in row))
    assert found.coefficient_L[0] == pytest.approx(odds, rel=1e-9)
    assert found.p_L[0] == pytest.approx(2 * scipy.stats.norm.sf(abs(odds) / error), rel=1e-6)


def test_a_constant_concept_takes_no_part() -> None:
    """HypotheSAEs gives the concept after it its own coefficient: `add_constant` adds none where there is one."""
    concepts_DL, target_D = made(3)
    alone = regression(concepts_DL, target_D, is_binary=False)
    for constant in (0.0, 1.0, np.nan):
        beside = regression(np.insert(concepts_DL, 1, constant, axis=1), target_D, is_binary=False)
        assert np.isnan(beside.coefficient_L[1])
        assert np.isnan(beside.p_L[1])
        assert np.array_equal(np.delete(beside.coefficient_L, 1), alone.coefficient_L)


@pytest.mark.parametrize("case", ["separated", "twice"])
def test_where_the_likelihood_has_no_single_maximum_least_squares_answers(case: str) -> None:
    concepts_DL, target_D = made(4, is_binary=True)
    concepts_DL[:, 1] = target_D if case == "separated" else concepts_DL[:, 0]
    found = regression(concepts_DL, target_D, is_binary=True)
    assert found.model == "OLS"
    assert np.isfinite(found.coefficient_L).all()
    if case == "twice":
        assert found.coefficient_L[0] == pytest.approx(found.coefficient_L[1])
    assert score_concepts(concepts_DL, target_D, is_binary=True).metrics["r2"] is None
    assert regression(made(4, is_binary=True)[0], target_D, is_binary=True).model == "logit"


def test_more_concepts_than_documents_have_no_p_values() -> None:
    concepts_DL, target_D = made(5, n_concepts=12)
    found = regression(concepts_DL[:10], target_D[:10], is_binary=False)
    assert np.isnan(found.p_L).all()


@pytest.mark.parametrize("seed", range(4))
def test_separation_is_welchs_and_students_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.standard_normal(5 + seed) * 3 + 1, rng.standard_normal(40)
    found, welch = separation(one, other, is_binary=False), scipy.stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.95)
    assert found.score == pytest.approx(one.mean() - other.mean(), rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    assert found.p == pytest.approx(welch.pvalue, rel=1e-9)
    assert found.p_student == pytest.approx(scipy.stats.ttest_ind(one, other).pvalue, rel=1e-9)
    assert found.p != pytest.approx(found.p_student, rel=1e-3)


def test_separations_that_have_no_test() -> None:
    two, same = np.array([1.0, 2.0]), np.array([1.0, 1.0])
    assert separation(two[:0], two, is_binary=False) == (None,) * 6
    assert separation(two, two[:0], is_binary=False) == (None,) * 6
    assert separation(two[:1], two, is_binary=False) == (-0.5, *(None,) * 5)
    assert separation(same, np.zeros(3), is_binary=False) == (1.0, *(None,) * 5)
    assert separation(same, two, is_binary=False).p is not None


def test_of_a_yes_or_no_the_test_is_exact() -> None:
    """Two of two against none of three: of the ten ways to choose two of five, one is as extreme."""
    found = separation(np.ones(2), np.zeros(3), is_binary=True)
    assert found == (1.0, None, None, None, None, pytest.approx(0.1))
    assert separation(np.array([1.0, 0.0]), np.array([1.0, 0.0]), is_binary=True).p_exact == pytest.approx(1)


def test_corrections() -> None:
    p_values = [0.01, None, 0.04, 0.03, 0.5]
    assert bonferroni(p_values) == [0.04, None, 0.16, 0.12, 1.0]
    known = [p for p in p_values if p is not None]
    by_hand = [
        min(other * len(known) / sum(p <= other for p in known) for other in known if other >= one) for one in known
    ]
    assert [p for p in benjamini_hochberg(p_values) if p is not None] == pytest.approx(by_hand)
    assert benjamini_hochberg(p_values)[1] is None
    assert bonferroni([]) == benjamini_hochberg([]) == []


def test_correlation() -> None:
    concepts_DL, target_D = made(6)
    r, p = correlation(concepts_DL[:, 0], target_D)
    assert r == pytest.approx(np.corrcoef(concepts_DL[:, 0], target_D)[0, 1])
    assert p == pytest.approx(regression(concepts_DL[:, :1], target_D, is_binary=False).p_L[0], rel=1e-8)
    assert correlation(np.ones(N), target_D) == (None, None)


@pytest.mark.parametrize("is_binary", [False, True])
def test_documents_without_an_answer_count_nowhere(is_binary: bool) -> None:
    concepts_DL, target_D = made(7, is_binary=is_binary)
    holes_DL = concepts_DL.copy()
    holes_DL[:30, 0] = np.nan
    found, without = (
        score_concepts(c, t, is_binary) for c, t in ((holes_DL, target_D), (concepts_DL[30:], target_D[30:]))
    )
    assert found.n_documents == without.n_documents == N - 30
    assert found.metrics == without.metrics
    assert [one.coefficient for one in found.scores] == [one.coefficient for one in without.scores]
    assert found.scores[0] == without.scores[0]
    assert found.scores[1].n_documents == N
    assert found.scores[1].separation == score_concepts(concepts_DL, target_D, is_binary).scores[1].separation
    # A concept without any answer changes nothing of the others.
    beside = score_concepts(np.column_stack([holes_DL, np.full(N, np.nan)]), target_D, is_binary)
    assert beside.metrics == found.metrics
    assert beside.scores[:3] == found.scores
    assert beside.scores[3].prevalence is beside.scores[3].coefficient is beside.scores[3].separation.score is None
    nothing = score_concepts(np.full((N, 1), np.nan), target_D, is_binary)
    assert (nothing.metrics, nothing.n_documents) == ({}, 0)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    concepts_DL, target_D = made(8, is_binary=True)
    found = score_concepts(concepts_DL, target_D, is_binary=True)
    predicted_D = regression(concepts_DL, target_D, is_binary=True).predicted
    pairs = list(itertools.product(predicted_D[target_D == 1].tolist(), predicted_D[target_D == 0].tolist()))
    by_hand = sum((one > other) + 0.5 * (one == other) for one, other in pairs) / len(pairs)
    assert found.metrics["auroc"] == pytest.approx(by_hand, rel=1e-12)
    assert found.n_significant == sum((one.coefficient_p or 1) < 0.1 / 3 for one in found.scores) == 2


def test_the_unit_of_a_target_changes_no_r2() -> None:
    rng = np.random.default_rng(2)
    concepts_DL = rng.integers(0, 2, (200, 3)).astype(np.float64)
    target_D = concepts_DL @ [1.0, -2.0, 0.5] + rng.standard_normal(200)
    plain, small, large = (score_concepts(concepts_DL, scale * target_D, False).metrics for scale in (1, 1e-9, 1e9))
    assert plain["r2"] == pytest.approx(small["r2"]) == pytest.approx(large["r2"])
    assert score_concepts(np.ones((200, 1)), 1e9 * target_D, False).metrics == {"r2": None}
