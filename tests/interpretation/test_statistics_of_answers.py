"""Numbers of answers against other libraries and against counting; their intervals by exact coverage."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
from scipy.stats import binom, binomtest
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_score

from strata_sae.pipeline.interpretation.statistics import (
    LEAST_LATENTS,
    N_RESAMPLES,
    Rate,
    balanced_accuracy,
    f1,
    over_latents,
    pearson,
    population_precision,
    rate_of,
    wilson,
)
from strata_sae.pipeline.runs.judging_records import Estimate
from strata_sae.stores import random_words

N = 25
"""Windows of each truth where coverage is counted."""


def rate(n_hits: int, n: int) -> Rate:
    """Of windows that all lie in documents of their own."""
    return Rate(n_hits, n, float(n))


@pytest.mark.parametrize(("n_hits", "n"), [(0, 1), (0, 50), (3, 50), (25, 50), (50, 50), (1, 3)])
def test_the_interval_of_a_share_is_wilsons(n_hits: int, n: int) -> None:
    expected = binomtest(n_hits, n).proportion_ci(0.95, method="wilson")
    found = wilson(rate(n_hits, n))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.low <= n_hits / n <= found.high


def test_windows_of_one_document_count_as_one() -> None:
    alone = rate_of([True, False, True, False], [1, 2, 3, 4])
    paired = rate_of([True, False, True, False], [1, 1, 2, 2])
    assert (alone.n_effective, paired.n_effective) == (4, 2)
    assert alone.value == paired.value == 0.5
    assert wilson(paired).high - wilson(paired).low > wilson(alone).high - wilson(alone).low
    assert rate_of([True] * 9, [5] * 9).n_effective == 1


def answers(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.random(60) < 0.6, rng.random(60) < 0.4


@pytest.mark.parametrize("seed", range(5))
def test_rates_are_those_of_another_library(seed: int) -> None:
    truth, named = answers(seed)
    active = rate(int((truth & named).sum()), int(truth.sum()))
    silent = rate(int((~truth & named).sum()), int((~truth).sum()))
    value, interval = balanced_accuracy(active, silent)
    assert value == pytest.approx(balanced_accuracy_score(truth, named), abs=1e-15)
    assert interval is not None
    assert interval.low < value < interval.high
    found = f1(active.n_hits, silent.n_hits, active.n - active.n_hits)
    assert found == pytest.approx(f1_score(truth, named), abs=1e-15)


def test_f1_is_0_where_all_is_missed_and_undefined_of_nothing() -> None:
    assert f1(0, 0, 3) == f1_score([1, 1, 1], [0, 0, 0], zero_division=0) == 0
    assert f1(0, 0, 0) is None


def _covered(
    interval_of: Callable[[int, int], tuple[float, float]], truth: float, shares: tuple[float, float]
) -> float:
    """The exact chance that an interval of N and N windows holds the truth."""
    chances = [binom.pmf(np.arange(N + 1), N, share) for share in shares]
    found = 0.0
    for first, second in itertools.product(range(N + 1), repeat=2):
        low, high = interval_of(first, second)
        if low - 1e-12 <= truth <= high + 1e-12:
            found += float(chances[0][first] * chances[1][second])
    return found


def _balanced(first: int, second: int) -> tuple[float, float]:
    interval = balanced_accuracy(rate(first, N), rate(second, N))[1]
    assert interval is not None
    return interval.low, interval.high


def _normal(first: int, second: int) -> tuple[float, float]:
    """What a normal approximation says: nothing can go wrong where nothing went wrong yet."""
    recall, fall_out = first / N, second / N
    half = 1.96 * math.sqrt(recall * (1 - recall) / N + fall_out * (1 - fall_out) / N) / 2
    value = (recall + 1 - fall_out) / 2
    return value - half, value + half


LEAST_COVERED = 0.91
"""Wilson's own interval covers 0.911 of 25 windows at a share of 0.98, and 0.95 on average over shares."""
SHARES = [(0.5, 0.5), (0.9, 0.1), (0.98, 0.02), (0.99, 0.3), (0.7, 0.01)]


@pytest.mark.parametrize("shares", SHARES)
def test_the_interval_of_a_balanced_accuracy_covers(shares: tuple[float, float]) -> None:
    truth = (shares[0] + 1 - shares[1]) / 2
    assert _covered(_balanced, truth, shares) > LEAST_COVERED


def test_a_normal_interval_would_not_cover_near_1() -> None:
    """Control."""
    assert _covered(_normal, 0.98, (0.98, 0.02)) < 0.8


@pytest.mark.parametrize("shares", SHARES)
@pytest.mark.parametrize("prevalence", [0.001, 0.2])
def test_the_interval_of_a_populations_precision_covers(shares: tuple[float, float], prevalence: float) -> None:
    def of(first: int, second: int) -> tuple[float, float]:
        interval = population_precision(prevalence, rate(first, N), rate(second, N))[1]
        return (interval.low, interval.high) if interval else (0.0, 1.0)

    truth = prevalence * shares[0] / (prevalence * shares[0] + (1 - prevalence) * shares[1])
    assert _covered(of, truth, shares) > LEAST_COVERED


def test_a_populations_precision_is_that_of_counting_the_population() -> None:
    """1,000 windows fire of 100,000; 9 of 10 of those are named, and 1 of 10 of the others."""
    truth = np.arange(100_000) < 1_000
    named = np.arange(100_000) % 10 == 0
    named[:1_000] = ~named[:1_000]
    value, interval = population_precision(0.01, rate(45, 50), rate(5, 50))
    assert value == pytest.approx(precision_score(truth, named), abs=1e-12)
    assert interval is not None
    assert interval.low < value < interval.high
    # On a sample that is half active the same answers look ten times as good.
    assert 10 * value < 45 / 50


def test_no_false_alarm_among_few_windows_is_no_proof_of_precision() -> None:
    value, interval = population_precision(0.001, rate(25, 25), rate(0, 25))
    assert value == 1
    assert interval is not None
    assert interval.low < 0.01
    assert interval.high == 1


def test_what_is_not_defined_is_none() -> None:
    assert balanced_accuracy(rate(0, 0), rate(1, 2)) == (None, None)
    assert population_precision(0.1, rate(0, 5), rate(0, 5)) == (None, None)
    assert population_precision(0.1, rate(0, 5), rate(0, 0)) == (None, None)
    assert population_precision(1.0, rate(3, 5), rate(0, 5)) == (None, None)
    value, interval = population_precision(0.1, rate(0, 5), rate(2, 5))
    assert value == 0
    assert interval is not None
    assert interval.low == 0
    with pytest.raises(ValueError, match="no windows"):
        wilson(rate(0, 0))


def test_a_correlation_is_numpys_and_none_of_what_is_constant() -> None:
    values, named = np.random.default_rng(0).random(40).tolist(), (np.arange(40) % 3 == 0).tolist()
    assert pearson(values, named) == pytest.approx(float(np.corrcoef(values, named)[0, 1]), abs=1e-14)
    assert pearson([value * 1e300 for value in values], named) == pytest.approx(pearson(values, named))
    assert pearson([2.0] * 40, named) is None
    assert pearson(values, [True] * 40) is None
    assert pearson([1.0], [True]) is None


def test_the_noise_of_a_median_is_that_of_a_loop_over_resamples() -> None:
    values = np.random.default_rng(1).random(11).tolist()
    found = over_latents([*values, None], 5, "detection")
    words = random_words(["over latents", 5, "detection", 0], N_RESAMPLES * 11) % np.uint64(11)
    medians = [float(np.median([values[i] for i in words[at : at + 11]])) for at in range(0, len(words), 11)]
    assert found.value == float(np.median(values))
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == tuple(np.quantile(medians, [0.025, 0.975]))
    assert over_latents(values, 6, "detection").value == found.value
    few = over_latents(values[: LEAST_LATENTS - 1], 5, "detection")
    assert few.value is not None
    assert few.interval is None
    assert over_latents([None], 5, "detection").value is None


def test_a_median_over_the_few_latents_that_an_answer_picked_out_is_none() -> None:
    """A judge that names one window of two latents in a hundred, rightly: the precision of the others is undefined."""
    assert over_latents([1.0, 1.0, *[None] * 98], 0, "precision") == Estimate(value=None, interval=None)
    assert over_latents([1.0] * 50 + [None] * 50, 0, "precision").value == 1.0
