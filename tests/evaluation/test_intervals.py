"""Intervals by document: coverage on simulated corpora, against errors by row; Holm; what has no interval."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from strata_sae.pipeline.reading.intervals import (
    MIN_DOCUMENTS,
    Noisy,
    difference_of_ratios,
    difference_of_seeds,
    holm,
    mean_of_seeds,
    ratio,
)

N_CORPORA = 500
ROWS = (40, 800)
"""Of the shortest and the longest document; lengths are log-uniform between."""


class Corpus:
    """Rows of documents whose errors hang together: each document has its own variance and its own error."""

    def __init__(self, n_documents: int, seed: int) -> None:
        draw = np.random.default_rng([n_documents, seed])
        self.n_D = np.exp(draw.uniform(*np.log(ROWS), n_documents)).astype(int)
        variance_D = np.exp(draw.normal(0, 0.3, n_documents))
        error_D = 0.2 * np.exp(draw.normal(0, 0.3, n_documents))
        worse_D = 1.03 + 0.05 * draw.normal(size=n_documents)
        active_D = 32 * np.exp(draw.normal(0, 0.15, n_documents))
        self.document_N = np.repeat(np.arange(n_documents), self.n_D)
        noise_N = draw.gamma(4.0, 0.25, len(self.document_N))
        self.centred_N = variance_D[self.document_N] * draw.gamma(4.0, 0.25, len(self.document_N))
        self.first_N = (variance_D * error_D)[self.document_N] * noise_N
        self.second_N = (variance_D * error_D * worse_D)[self.document_N] * noise_N
        self.active_N = draw.poisson(active_D[self.document_N]).astype(float)

    def sums(self, values_N: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.bincount(self.document_N, values_N)


E_ERROR = 0.2 * math.exp(0.3**2 / 2)
TRUE = {"r2": 1 - E_ERROR, "difference": E_ERROR * 0.03, "l0": 32 * math.exp(0.15**2 / 2)}
"""Means over documents of a length, which does not depend on anything else."""


def by_document(corpus: Corpus) -> dict[str, Noisy]:
    first_D, second_D, centred_D = map(corpus.sums, (corpus.first_N, corpus.second_N, corpus.centred_N))
    return {
        "r2": ratio(first_D, centred_D, minus_from=1.0),
        "difference": difference_of_ratios(first_D, second_D, centred_D, of_what_is_left=True),
        "l0": ratio(corpus.sums(corpus.active_N), corpus.n_D.astype(float)),
    }


def by_row(corpus: Corpus) -> dict[str, Noisy]:
    """Negative control: every row a document of its own."""
    return {
        "r2": ratio(corpus.first_N, corpus.centred_N, minus_from=1.0),
        "difference": difference_of_ratios(corpus.first_N, corpus.second_N, corpus.centred_N, of_what_is_left=True),
        "l0": ratio(corpus.active_N, np.ones(len(corpus.active_N))),
    }


def covered(found: dict[str, Noisy]) -> dict[str, bool]:
    held = {}
    for name, tested in found.items():
        interval = tested.estimate.interval
        assert interval is not None
        held[name] = interval.low <= TRUE[name] <= interval.high
    return held


@pytest.mark.parametrize("n_documents", [8, 13, 50])
def test_intervals_by_document_cover_and_those_by_row_do_not(n_documents: int) -> None:
    corpora = [Corpus(n_documents, seed) for seed in range(N_CORPORA)]
    clustered = [covered(by_document(corpus)) for corpus in corpora]
    careless = [covered(by_row(corpus)) for corpus in corpora[:200]]
    for name in TRUE:
        share = sum(held[name] for held in clustered) / N_CORPORA
        assert 0.90 <= share <= 0.98, (name, share)
        assert sum(held[name] for held in careless) / 200 < 0.60, name


def test_the_influence_of_a_document_is_as_worked_out_by_hand() -> None:
    error_D = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    weight_D = np.array([10.0, 10.0, 20.0, 20.0, 20.0, 20.0, 50.0, 50.0])
    found = 36 / 200
    influence = [(e - found * w) / 200 for e, w in zip(error_D, weight_D, strict=True)]
    variance = sum((u / (1 - w / 200)) ** 2 for u, w in zip(influence, weight_D, strict=True))
    freedom = 1 / sum((w / 200) ** 2 for w in weight_D) - 1
    tested = ratio(error_D, weight_D, minus_from=1.0)
    interval = tested.estimate.interval
    assert interval is not None
    assert tested.estimate.value == pytest.approx(1 - found)
    t = (interval.high - interval.low) / 2 / math.sqrt(variance)
    # Student's t at 4.882 degrees of freedom lies between its tabled 2.776 (4) and 2.571 (5).
    assert freedom == pytest.approx(4.882, abs=1e-3)
    assert 2.571 < t < 2.776
    assert t == pytest.approx(2.589, abs=2e-3)


@pytest.mark.parametrize("n_documents", [1, 2, MIN_DOCUMENTS - 1])
def test_too_few_documents_have_no_interval(n_documents: int) -> None:
    tested = ratio(np.arange(1.0, n_documents + 1), np.full(n_documents, 10.0))
    assert tested.estimate.value == pytest.approx((n_documents + 1) / 20)
    assert (tested.estimate.interval, tested.p) == (None, None)


def test_one_document_that_outweighs_all_others_has_none_either() -> None:
    assert ratio(np.ones(9), np.array([1000.0] + [1.0] * 8)).estimate.interval is None


def test_no_weight_is_no_number() -> None:
    assert ratio(np.zeros(9), np.zeros(9)).estimate.value is None


def test_equal_sums_differ_by_nothing() -> None:
    sums_D = np.arange(1.0, 10.0)
    tested = difference_of_ratios(sums_D, sums_D.copy(), np.full(9, 10.0))
    assert (tested.estimate.value, tested.p) == (0.0, 1.0)


def test_holm_adjusts_as_its_paper_does() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_seeds_paired_and_unpaired() -> None:
    paired = mean_of_seeds([0.011, 0.010, 0.012])
    assert paired.p is not None
    assert paired.p < 0.05
    far = difference_of_seeds([0.80, 0.81, 0.82], [0.799, 0.809, 0.819])  # the same differences drown in the spread
    assert far.p is not None
    assert far.p > 0.5
    assert mean_of_seeds([0.1, 0.2]).p is None
    assert difference_of_seeds([0.1, 0.2, 0.3], [0.1, 0.2]).p is None
