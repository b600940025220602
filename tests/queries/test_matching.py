"""The best match of every latent in another SAE is that of brute force, over the rows that both count."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import row_pieces
from strata_sae.pipeline.queries.matching import best_match, check_same_rows
from support.coded_run import SITE, make, opened
from support.planted_codes import PlantedSAE, random_codes, together_by_loops

N_ROWS = 300
RNG = np.random.default_rng(8)
KEPT, OTHER_KEPT = RNG.random((2, N_ROWS)) < 0.8


@pytest.fixture(scope="module")
def mine() -> PlantedSAE:
    dense_NE = random_codes(N_ROWS, 70, 0.05, seed=1)
    dense_NE[:, 5] = random_codes(N_ROWS, 110, 0.05, seed=2)[:, 30]
    return PlantedSAE(dense_NE, kept_N=KEPT)


@pytest.fixture(scope="module")
def other() -> PlantedSAE:
    dense_NF = random_codes(N_ROWS, 110, 0.05, seed=2)
    dense_NF[:, 100] = dense_NF[:, 30]  # of equals, the lower is the match
    return PlantedSAE(dense_NF, kept_N=OTHER_KEPT)


@pytest.mark.parametrize("block_bytes", [2**26, 4 * 110 * 13])
@pytest.mark.parametrize("held_bytes", [2**27, 0])
@pytest.mark.parametrize("population", ["as_trained", "all"])
def test_matches_are_those_of_brute_force(
    mine: PlantedSAE,
    other: PlantedSAE,
    monkeypatch: pytest.MonkeyPatch,
    block_bytes: int,
    held_bytes: int,
    population: str,
) -> None:
    monkeypatch.setattr(row_pieces, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(row_pieces, "HELD_BYTES", held_bytes)
    monkeypatch.setattr(row_pieces, "PAIRS_AT_ONCE", 100)
    kept_N = KEPT & OTHER_KEPT if population == "as_trained" else np.ones(N_ROWS, bool)
    active_NE, other_NF = mine.active("all") & kept_N[:, None], other.active("all") & kept_N[:, None]
    together_EF = together_by_loops(active_NE, other_NF)
    found = best_match(mine, other, population)
    for latent in range(mine.d_sae):
        best, jaccard = -1, 0.0
        for candidate in range(other.d_sae):
            union = int((active_NE[:, latent] | other_NF[:, candidate]).sum())
            if union and together_EF[latent, candidate] / union > jaccard:
                best, jaccard = candidate, together_EF[latent, candidate] / union
        assert found.other_latent[latent] == best
        assert found.jaccard[latent] == np.float32(jaccard)
        assert found.together[latent] == (together_EF[latent, best] if best >= 0 else 0)
    assert found.other_latent[-1] == -1  # it is never active
    assert (found.other_latent[5], found.jaccard[5]) == (30, 1)
    assert 100 not in found.other_latent.tolist()


def test_the_population_is_of_both(mine: PlantedSAE, other: PlantedSAE) -> None:
    of_both, of_all = best_match(mine, other), best_match(mine, other, "all")
    assert (of_both.together <= of_all.together.max()).all()
    assert of_both.together.sum() < of_all.together.sum()


def test_itself_is_the_best_match(tmp_path: Path) -> None:
    make(tmp_path)
    saes = opened(tmp_path).saes
    topk = saes[f"topk@{SITE}"]
    rows_E = np.array([int(topk.kept()[topk.codes.rows_of(latent)[0]].sum()) for latent in range(topk.d_sae)])
    found = best_match(topk, topk)
    assert (found.jaccard == (rows_E > 0)).all()
    assert (found.together == rows_E).all()
    assert (best_match(topk, saes[f"wide@{SITE}"]).jaccard < 1).any()


def test_other_rows_are_refused(mine: PlantedSAE) -> None:
    shorter = PlantedSAE(random_codes(N_ROWS - 1, 9, 0.05, seed=1))
    with pytest.raises(ConfigError, match="300 and 299 rows; compare SAEs of one store"):
        best_match(mine, shorter)
    dense_NE = random_codes(N_ROWS, 9, 0.05, seed=1)
    with pytest.raises(ConfigError, match="store of the one and another of the other"):
        best_match(mine, PlantedSAE(dense_NE, store_id="another"))
    plan = SimpleNamespace(order_id="a" * 64, n_rows=N_ROWS, splits=(), rows_per_chunk=10, files={})
    stores = [SimpleNamespace(stores=[SimpleNamespace(plan=plan)]) for _ in range(2)]
    here, there = (PlantedSAE(dense_NE, stores=one, site=site) for one, site in zip(stores, "ab", strict=True))
    check_same_rows(here, there)
    stores[1].stores[0].plan = SimpleNamespace(**{**vars(plan), "order_id": "b" * 64})
    with pytest.raises(ConfigError, match="batches have different orders"):
        check_same_rows(here, there)
