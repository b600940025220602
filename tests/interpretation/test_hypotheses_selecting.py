"""Chosen latents are those of a dense array of documents and latents; LASSO's are scikit-learn's own."""

import numpy as np
import pytest
import scipy.stats

from strata_sae.pipeline.interpretation.hypotheses import selecting
from strata_sae.pipeline.interpretation.hypotheses.selecting import (
    LEAST_DOCUMENTS,
    candidates,
    lasso_coefficients,
    select,
)
from strata_sae.pipeline.queries.opened import CodedRun
from strata_sae.pipeline.queries.pooled import PooledCodes
from support.coded_run import SITE, make, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.fixture
def pooled(run: CodedRun) -> PooledCodes:
    return PooledCodes(run.saes[f"wide@{SITE}"], run.text)


def target_of(pooled: PooledCodes, seed: int = 0) -> np.ndarray:
    """NaN for a quarter of the documents."""
    rng = np.random.default_rng(seed)
    target_D = rng.standard_normal(len(pooled.documents))
    return np.where(np.arange(len(target_D)) % 4 == 0, np.nan, target_D)


def dense(pooled: PooledCodes, target_D: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents that are active on enough documents, their pooled values on those that select, and the targets."""
    known_D = np.isfinite(target_D)
    pooled_nE = pooled.of(range(pooled.sae.d_sae))[known_D]
    latents = np.flatnonzero((pooled_nE != 0).sum(axis=0) >= LEAST_DOCUMENTS)
    return latents, pooled_nE[:, latents], target_D[known_D]


def test_correlations_are_exact(pooled: PooledCodes) -> None:
    target_D = target_of(pooled)
    latents, pooled_nC, target_n = dense(pooled, target_D)
    found = candidates(pooled, target_D)
    assert 0 < len(latents) < pooled.sae.d_sae
    assert np.array_equal(found.latent_C, latents)
    by_hand = [scipy.stats.pearsonr(column, target_n).statistic for column in pooled_nC.T]
    assert np.allclose(found.correlation_C, by_hand, rtol=1e-10, atol=1e-13)
    assert np.isnan(candidates(pooled, np.where(np.isfinite(target_D), 3.0, np.nan)).correlation_C).all()


@pytest.mark.parametrize("n_top", [100, 3])
def test_separations_are_exact(pooled: PooledCodes, monkeypatch: pytest.MonkeyPatch, n_top: int) -> None:
    monkeypatch.setattr(selecting, "N_TOP", n_top)
    target_D = target_of(pooled, 1)
    _, pooled_nC, target_n = dense(pooled, target_D)
    by_hand = []
    for column in pooled_nC.T:
        n_active = min(n_top, int((column > 0).sum()))
        top, silent = np.argsort(-column, kind="stable")[:n_active], column == 0
        by_hand.append(target_n[top].mean() - target_n[silent].mean() if silent.any() else np.nan)
    assert np.allclose(candidates(pooled, target_D).separation_C, by_hand, rtol=1e-10, atol=1e-13, equal_nan=True)


def test_the_largest_are_chosen_with_their_sign(pooled: PooledCodes) -> None:
    target_D = target_of(pooled, 2)
    found = candidates(pooled, target_D)
    by_size = np.argsort(-np.abs(found.correlation_C), kind="stable")
    chosen, _ = select(pooled, target_D, "correlation", 7, is_binary=False)
    assert [one.latent for one in chosen] == found.latent_C[by_size[:7]].tolist()
    assert [one.score for one in chosen] == found.correlation_C[by_size[:7]].tolist()
    assert {np.sign(one.score) for one in chosen} == {-1, 1}
    other, _ = select(pooled, target_D, "separation", 7, is_binary=False)
    assert [one.latent for one in other] != [one.latent for one in chosen]


@pytest.mark.parametrize("is_binary", [False, True])
def test_lasso_finds_what_makes_the_target(pooled: PooledCodes, is_binary: bool) -> None:
    rng = np.random.default_rng(0)
    x_nC = np.maximum(rng.standard_normal((150, 20)), 0)
    target_n = 2 * x_nC[:, 4] - 3 * x_nC[:, 11] + 0.3 * rng.standard_normal(150)
    target_n = (target_n > np.median(target_n)).astype(np.float64) if is_binary else target_n
    found = lasso_coefficients(x_nC, target_n, 2, is_binary)
    assert np.flatnonzero(found).tolist() == [4, 11]
    assert found[4] > 0 > found[11]
    assert not np.array_equal(
        np.flatnonzero(lasso_coefficients(x_nC, rng.permutation(target_n), 2, is_binary)), [4, 11]
    )


def test_lasso_is_fitted_on_pooled_codes(pooled: PooledCodes, monkeypatch: pytest.MonkeyPatch) -> None:
    target_D = target_of(pooled, 3)
    latents, pooled_nC, target_n = dense(pooled, target_D)
    coefficient_C = lasso_coefficients(pooled_nC, target_n, 3, is_binary=False)
    order = np.argsort(-np.abs(coefficient_C), kind="stable")[:3]
    chosen, _ = select(pooled, target_D, "lasso", 3, is_binary=False)
    assert [one.latent for one in chosen] == latents[order][coefficient_C[order] != 0].tolist()
    # Where they do not all fit, those of the largest correlation are fitted.
    monkeypatch.setattr(selecting, "LASSO_BYTES", 8 * len(target_n) * 5)
    found = candidates(pooled, target_D)
    best = set(found.latent_C[np.argsort(-np.abs(found.correlation_C))[:5]].tolist())
    assert {one.latent for one in select(pooled, target_D, "lasso", 3, is_binary=False)[0]} <= best


def test_lasso_makes_an_array_of_the_documents_that_select_alone(
    pooled: PooledCodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store of a million documents, of which a hundred have a target, would take terabytes otherwise."""
    target_D = target_of(pooled)
    target_D[::2] = np.nan
    sizes: list[int] = []
    whole = PooledCodes.of

    def of(self: PooledCodes, *args: np.ndarray) -> np.ndarray:
        found = whole(self, *args)
        sizes.append(len(found))
        return found

    monkeypatch.setattr(PooledCodes, "of", of)
    select(pooled, target_D, "lasso", 3, False)
    assert sizes == [int(np.isfinite(target_D).sum())]
