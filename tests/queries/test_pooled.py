"""Codes by document are those of a dense array, for every pooling, whichever rows are kept, and in any order."""

from pathlib import Path

import numpy as np
import pytest

from strata_sae.pipeline.queries import posting_blocks
from strata_sae.pipeline.queries.opened import CodedRun, CodedSAE
from strata_sae.pipeline.queries.pooled import POOLINGS, PooledCodes, Pooling
from strata_sae.pipeline.queries.populations import POPULATIONS, Population
from support.coded_run import SITE, make, opened


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> CodedRun:
    make(folder := tmp_path_factory.mktemp("coded"))
    return opened(folder)


@pytest.fixture
def sae(run: CodedRun) -> CodedSAE:
    return run.saes[f"topk@{SITE}"]


def dense(run: CodedRun, sae: CodedSAE) -> np.ndarray:
    """float64 [N, E]."""
    values_NE = np.zeros((run.text.n_rows, sae.d_sae))
    for latent in range(sae.d_sae):
        rows, values = sae.codes.rows_of(latent)
        values_NE[rows, latent] = values
    return values_NE


def by_hand(run: CodedRun, sae: CodedSAE, pooling: Pooling) -> dict[int, np.ndarray]:
    """Document -> [E]."""
    values_NE, kept_N, found = dense(run, sae), sae.kept(), {}
    for document in np.unique(run.text.document).tolist():
        rows = np.flatnonzero(kept_N & (run.text.document == document))
        if len(rows):
            found[document] = values_NE[rows].max(axis=0) if pooling == "max" else values_NE[rows].mean(axis=0)
    return found


def whole(pooled: PooledCodes) -> dict[int, np.ndarray]:
    pooled_DE = np.zeros((len(pooled.documents), pooled.sae.d_sae))
    for block in pooled.blocks():
        latent = block.first + np.repeat(np.arange(len(block.offset) - 1), np.diff(block.offset))
        assert (pooled_DE[block.place, latent] == 0).all()
        pooled_DE[block.place, latent] = block.value
    return dict(zip(pooled.documents.tolist(), pooled_DE, strict=True))


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("population", POPULATIONS)
def test_they_are_those_of_a_dense_array(
    run: CodedRun, sae: CodedSAE, pooling: Pooling, population: Population, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sae, "_kept", {"as_trained": sae.kept(population)})  # whichever rows training takes
    pooled, expected = PooledCodes(sae, run.text, pooling), by_hand(run, sae, pooling)
    found = whole(pooled)
    assert found.keys() == expected.keys()
    assert all(np.allclose(found[document], expected[document], rtol=1e-12, atol=0) for document in expected)
    other = by_hand(run, sae, "mean" if pooling == "max" else "max")
    assert not any(np.allclose(found[document], other[document]) for document in expected)
    for latents in ([5, 0, 11], [*range(40, 0, -1)]):
        some_DL = pooled.of(latents)
        assert np.array_equal(some_DL, np.stack([found[document][latents] for document in pooled.documents.tolist()]))


def test_blocks_and_the_order_of_rows_change_nothing(
    run: CodedRun, sae: CodedSAE, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a store is whose rows are shuffled: here the numbers of the documents are, so that rows come back to one."""
    once = whole(PooledCodes(sae, run.text))
    monkeypatch.setattr(posting_blocks, "PAIRS_AT_ONCE", 1)
    assert all(np.array_equal(once[key], value) for key, value in whole(PooledCodes(sae, run.text)).items())
    shuffled = opened(Path(run.folder.path).parents[1])
    # Every row in another document, so that no two neighbours are of one.
    numbers = np.arange(shuffled.text.n_rows) % 7 * 3
    shuffled.text.__dict__["document"] = numbers
    found, expected = whole(PooledCodes(sae, shuffled.text)), by_hand(shuffled, sae, "mean")
    assert found.keys() == expected.keys() == set(range(0, 21, 3))
    assert all(np.allclose(found[key], expected[key], rtol=1e-12, atol=0) for key in expected)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_some_documents_alone(run: CodedRun, sae: CodedSAE, monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    monkeypatch.setattr("strata_sae.pipeline.queries.pooled.READ_ALL_SHARE", share)
    pooled, latents = PooledCodes(sae, run.text), [3, 0, 7]
    places = np.arange(1, len(pooled.documents), 3)
    assert np.array_equal(pooled.of(latents, places), pooled.of(latents)[places])
    assert pooled.of(latents, places).any()
