"""Counts of rows that two latents share are those of a plain loop, whatever the tiles, the threads and the rows."""

from pathlib import Path

import numpy as np
import pytest
import torch

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import cofiring, row_pieces
from strata_sae.pipeline.queries.cofiring import (
    cofiring_pairs,
    n_partners,
    partners_of,
    rows_in,
    together_of,
    top_partners,
)
from strata_sae.pipeline.queries.row_pieces import KeptCodes
from strata_sae.stores import StoreError
from support.coded_run import make, opened
from support.planted_codes import PlantedSAE, random_codes, together_by_loops

N_ROWS, D_SAE = 400, 200
KEPT_N = np.random.default_rng(5).random(N_ROWS) < 0.7
NOBODY = 2**32 - 1
TILES = {
    "whole": {},
    "tiled": {"BLOCK_BYTES": 4 * D_SAE * 33, "PAIRS_AT_ONCE": 700, "HELD_BYTES": 0, "LATENTS_AT_ONCE": 2},
}


@pytest.fixture(params=list(TILES))
def tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in TILES[request.param].items():
        monkeypatch.setattr(row_pieces, name, value)


@pytest.fixture(scope="module")
def sae() -> PlantedSAE:
    return PlantedSAE(random_codes(N_ROWS, D_SAE, 0.04, seed=1), kept_N=KEPT_N)


@pytest.fixture(scope="module")
def counted(sae: PlantedSAE) -> dict[str, np.ndarray]:
    return {name: together_by_loops(sae.active(name), sae.active(name)) for name in ("as_trained", "all")}


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("population", ["as_trained", "all"])
def test_pairs_are_those_of_a_loop(sae: PlantedSAE, counted: dict[str, np.ndarray], population: str) -> None:
    together_EE = counted[population]
    for least in (1, 4):
        first, second, count = cofiring_pairs(sae, least, population)
        expected = np.argwhere(np.triu(together_EE >= least, 1))
        assert np.stack([first, second], axis=1).tolist() == expected.tolist()
        assert count.tolist() == together_EE[first, second].tolist()
        assert {array.dtype.name for array in (first, second, count)} == {"uint32"}
        own_E = np.diag(together_EE) >= least
        assert n_partners(sae, least, population).tolist() == ((together_EE >= least).sum(axis=1) - own_E).tolist()


def test_populations_differ(counted: dict[str, np.ndarray]) -> None:
    assert (counted["all"] != counted["as_trained"]).sum() > 1000  # so a test that passes on both looks at the mask


@pytest.mark.usefixtures("tiles")
@pytest.mark.parametrize("n", [0, 1, 5, D_SAE + 3])
def test_best_partners_are_those_of_a_full_sort(sae: PlantedSAE, counted: dict[str, np.ndarray], n: int) -> None:
    together_EE, (partner_EK, count_EK) = counted["as_trained"], top_partners(sae.codes, KEPT_N, n)
    assert partner_EK.shape == count_EK.shape == (D_SAE, n)
    for latent in range(D_SAE):
        others = [other for other in range(D_SAE) if other != latent and together_EE[latent, other]]
        best = sorted(others, key=lambda other: (-together_EE[latent, other], other))[:n]
        assert partner_EK[latent].tolist() == best + [NOBODY] * (n - len(best))
        assert count_EK[latent].tolist() == together_EE[latent, best].tolist() + [0] * (n - len(best))


@pytest.mark.parametrize("pairs_at_once", [2**23, 100])
def test_row_of_one_latent(
    sae: PlantedSAE, counted: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch, pairs_at_once: int
) -> None:
    monkeypatch.setattr(cofiring, "PAIRS_AT_ONCE", pairs_at_once)
    for population, together_EE in counted.items():
        for latent in range(D_SAE):
            assert partners_of(sae, latent, population).tolist() == together_EE[latent].tolist()
            assert len(rows_in(sae, latent, population)) == together_EE[latent, latent]


@pytest.mark.usefixtures("tiles")
def test_counts_of_some_pairs(sae: PlantedSAE, counted: dict[str, np.ndarray]) -> None:
    first, second = np.random.default_rng(2).integers(0, D_SAE, (2, 500))
    for population, together_EE in counted.items():
        assert together_of(sae, first, second, population).tolist() == together_EE[first, second].tolist()
    assert len(together_of(sae, first[:0], second[:0])) == 0


def test_threads_change_nothing(sae: PlantedSAE, counted: dict[str, np.ndarray]) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        first, second, count = cofiring_pairs(sae, 1)
    finally:
        torch.set_num_threads(before)
    assert count.tolist() == counted["as_trained"][first, second].tolist()
    assert len(count) == np.count_nonzero(np.triu(counted["as_trained"], 1))


@pytest.mark.usefixtures("tiles")
def test_progress_ends_with_all_latents(sae: PlantedSAE) -> None:
    told: list[tuple[int, int]] = []
    cofiring_pairs(sae, 1, told=lambda done, total: told.append((done, total)))
    assert told[-1] == (D_SAE, D_SAE)
    assert told == sorted(set(told))


def test_real_codes_as_a_dense_product_counts_them(tmp_path: Path) -> None:
    make(tmp_path)
    for sae in opened(tmp_path).saes.values():
        dense_NE = np.zeros((sae.codes.plan.n_rows, sae.d_sae), np.float64)
        for latent in range(sae.d_sae):
            dense_NE[sae.codes.rows_of(latent)[0], latent] = 1
        dense_NE[~sae.kept()] = 0
        together_EE = (dense_NE.T @ dense_NE).astype(np.int64)
        assert np.triu(together_EE, 1).sum() > 1000
        first, second, count = cofiring_pairs(sae, 1)
        assert np.stack([first, second], axis=1).tolist() == np.argwhere(np.triu(together_EE, 1)).tolist()
        assert count.tolist() == together_EE[first, second].tolist()
        assert partners_of(sae, 3).tolist() == together_EE[3].tolist()


def test_what_cannot_be_asked(sae: PlantedSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        cofiring_pairs(sae, 0)
    for latent in (-1, D_SAE):
        with pytest.raises(ConfigError, match=f"latents 0 to {D_SAE - 1}"):
            partners_of(sae, latent)
    monkeypatch.setattr(cofiring, "MOST_PAIRS", 50)
    with pytest.raises(ConfigError, match="more than 50 pairs"):
        cofiring_pairs(sae, 1)


def test_latents_beyond_the_plan_are_refused_before_a_loop_writes_there() -> None:
    sae = PlantedSAE(np.ones((4, 8), np.float32))
    sae.codes.plan.d_sae = 7
    with pytest.raises(StoreError, match="latent 7 of 7"):
        KeptCodes(sae.codes, np.ones(4, bool)).counts()
    with pytest.raises(StoreError, match="latent 7 of 7"):
        partners_of(sae, 2)
