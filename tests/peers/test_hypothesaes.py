"""Hypotheses against HypotheSAEs 2.0.1 on the same annotations and activations: its own functions, its own numbers.

Its package imports clients of models that are not needed here: its modules are imported without what it runs first.
"""

import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.interpretation.hypotheses.scoring import LEVEL, score_concepts
from strata_sae.pipeline.interpretation.hypotheses.selecting import candidates, lasso_coefficients
from strata_sae.pipeline.queries.pooled import PooledBlock

pytestmark = [
    pytest.mark.peers,
    pytest.mark.skipif(find_spec("hypothesaes") is None, reason="hypothesaes is not installed; run: make peers"),
]

N, N_CONCEPTS, N_LATENTS = 500, 8, 60


def module(name: str) -> Any:
    """A module of theirs."""
    if "hypothesaes" not in sys.modules:
        package, spec = ModuleType("hypothesaes"), find_spec("hypothesaes")
        assert spec is not None
        package.__path__ = list(spec.submodule_search_locations or [])
        sys.modules["hypothesaes"] = package
    return import_module(f"hypothesaes.{name}")


def test_the_version_is_the_one_that_is_named() -> None:
    assert metadata.version("hypothesaes") == "2.0.1"


@pytest.mark.parametrize("is_binary", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_scores_of_equal_annotations(seed: int, is_binary: bool) -> None:
    rng = np.random.default_rng(seed)
    concepts_DL = (rng.random((N, N_CONCEPTS)) < rng.random(N_CONCEPTS)).astype(np.float64)
    target_D = concepts_DL @ rng.standard_normal(N_CONCEPTS) + rng.standard_normal(N)
    target_D = (target_D > np.median(target_D)).astype(np.float64) if is_binary else target_D
    names = [f"concept {number}" for number in range(N_CONCEPTS)]
    metrics, table = module("evaluation").score_hypotheses(
        dict(zip(names, concepts_DL.T, strict=True)), target_D, is_binary, corrected_pval_threshold=LEVEL
    )
    found, rows = score_concepts(concepts_DL, target_D, is_binary), table.set_index("hypothesis")
    assert found.n_significant == metrics.pop("Significant")[0]
    assert {name: float(value) for name, value in metrics.items()} == pytest.approx(found.metrics, rel=1e-9)
    for name, one in zip(names, found.scores, strict=True):
        theirs = rows.loc[name]
        assert one.separation.score == pytest.approx(theirs.separation_score, rel=1e-12)
        assert one.separation.p_student == pytest.approx(theirs.separation_pval, rel=1e-9)
        assert one.coefficient == pytest.approx(theirs.regression_coef, rel=1e-6)
        assert one.coefficient_p == pytest.approx(theirs.regression_pval, rel=1e-6)
        assert one.prevalence == pytest.approx(theirs.feature_prevalence, rel=1e-12)


def test_a_concept_of_all_documents_shifts_their_coefficients_and_not_ours() -> None:
    """Their constant is left out where a concept is constant, and the first concept is then taken for it."""
    rng = np.random.default_rng(3)
    varying_D, target_D = (rng.random(N) < 0.5).astype(np.float64), rng.standard_normal(N)
    concepts_DL = np.column_stack([np.ones(N), varying_D])
    _, theirs = module("evaluation").compute_ols_metrics({"all": concepts_DL[:, 0], "some": varying_D}, target_D)
    found = score_concepts(concepts_DL, target_D, is_binary=False).scores
    alone = score_concepts(concepts_DL[:, 1:], target_D, is_binary=False).scores[0]
    assert theirs["all"][0] == pytest.approx(alone.coefficient)
    assert "some" not in theirs
    assert (found[0].coefficient, found[1].coefficient) == (None, alone.coefficient)


class Dense:
    """Activations by document as `PooledCodes` gives them."""

    def __init__(self, pooled_DE: np.ndarray) -> None:
        self.pooled_DE = pooled_DE

    def blocks(self) -> Any:
        latent, place = np.nonzero(self.pooled_DE.T)
        counts = np.bincount(latent, minlength=self.pooled_DE.shape[1])
        yield PooledBlock(0, np.concatenate([[0], np.cumsum(counts)]), place, self.pooled_DE.T[latent, place])


def activations(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Every latent is active on more than 100 documents and silent on others; the target hangs on two of them."""
    rng = np.random.default_rng(seed)
    pooled_DE = np.abs(rng.standard_normal((N, N_LATENTS))) * (rng.random((N, N_LATENTS)) < 0.5)
    return pooled_DE, 2 * pooled_DE[:, 3] - pooled_DE[:, 9] + rng.standard_normal(N)


@pytest.mark.parametrize("way", ["correlation", "separation_score"])
def test_selections_of_equal_activations(way: str) -> None:
    pooled_DE, target_D = activations(0)
    latents, scores = module("select_neurons").select_neurons(pooled_DE, target_D, 12, way)
    found: Any = candidates(Dense(pooled_DE), target_D)  # type: ignore[arg-type]
    score_C = found.correlation_C if way == "correlation" else found.separation_C
    order = np.argsort(-np.abs(score_C), kind="stable")[:12]
    assert order.tolist() == latents
    assert score_C[order] == pytest.approx(scores, rel=1e-9)


@pytest.mark.parametrize("is_binary", [False, True])
def test_lasso_of_equal_activations(is_binary: bool) -> None:
    pooled_DE, target_D = activations(1)
    target_D = (target_D > np.median(target_D)).astype(np.float64) if is_binary else target_D
    latents, coefficients = module("select_neurons").select_neurons(pooled_DE, target_D, 10, "lasso", is_binary)
    found = lasso_coefficients(pooled_DE, target_D, 10, is_binary)
    order = np.argsort(-np.abs(found))[:10]
    assert order.tolist() == latents
    # Liblinear takes the columns in an order of chance, theirs in another one at each call.
    assert found[order] == pytest.approx(coefficients, abs=1e-3 if is_binary else 1e-12)
