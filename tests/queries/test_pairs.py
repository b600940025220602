"""Pairs of decoder rows are those that brute force finds, and planted ones that are never active together are found."""

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import decoder_pairs
from strata_sae.pipeline.queries.decoder_pairs import Pair, cosine_pairs, exact_cosine, look_for_pairs
from support.planted_codes import PlantedSAE, random_codes

N_ROWS, D_SAE, WIDTH = 300, 200, 48
NEVER, SOMETIMES, DEAD = [(3, 90), (17, 150), (41, 42)], [(60, 61), (10, 199 - 2)], (5, D_SAE - 1)


def decoder() -> np.ndarray:
    """Random rows, of which planted pairs point almost the same way; row 7 is zero."""
    W_dec = np.random.default_rng(0).standard_normal((D_SAE, WIDTH)).astype(np.float32)
    for number, (first, second) in enumerate([*NEVER, *SOMETIMES, DEAD]):
        W_dec[second] = 3 * W_dec[first] + 0.2 * (1 + number) * np.random.default_rng(number).standard_normal(WIDTH)
    W_dec[7] = 0
    return W_dec


@pytest.fixture(scope="module")
def sae() -> PlantedSAE:
    dense_NE = random_codes(N_ROWS, D_SAE, 0.05, seed=3)
    for first, second in [*NEVER, *SOMETIMES]:
        dense_NE[:, [first, second]] = 0
        dense_NE[:100, first] = dense_NE[100:200, second] = 1
    for _, second in SOMETIMES:
        dense_NE[90:100, second] = 2
    kept_N = np.ones(N_ROWS, bool)
    kept_N[94:] = False
    kept_N[150:] = True
    return PlantedSAE(dense_NE, decoder(), kept_N)


def brute_force(W_dec: np.ndarray, least: float) -> list[tuple[float, int, int]]:
    found = []
    for first in range(len(W_dec)):
        for second in range(first + 1, len(W_dec)):
            a, b = W_dec[first].astype(np.float64), W_dec[second].astype(np.float64)
            norm = np.linalg.norm(a) * np.linalg.norm(b)
            cosine = float(a @ b / norm) if norm else 0.0
            if cosine >= least:
                found.append((-cosine, first, second))
    return sorted(found)


@pytest.mark.parametrize("tile_bytes", [2**25, 4 * D_SAE * 9])
@pytest.mark.parametrize("least", [-0.1, 0.0, 0.3, 0.9, 1.0])
def test_cosine_pairs_are_those_of_brute_force(monkeypatch: pytest.MonkeyPatch, tile_bytes: int, least: float) -> None:
    monkeypatch.setattr(decoder_pairs, "_TILE_BYTES", tile_bytes)
    W_dec = decoder()
    first, second, cosine = cosine_pairs(W_dec, least)
    expected = brute_force(W_dec, least)
    assert len(first) == len(expected)
    assert {*zip(first.tolist(), second.tolist(), strict=True)} == {(a, b) for _, a, b in expected}
    assert np.allclose(cosine, [-minus for minus, _, _ in expected], rtol=0, atol=1e-12)
    assert (np.diff(cosine) <= 0).all()


def test_equal_rows_are_a_pair_of_cosine_one() -> None:
    W_dec = np.random.default_rng(1).standard_normal((50, 7)).astype(np.float32)
    W_dec[30] = W_dec[20]
    first, second, cosine = cosine_pairs(W_dec, 1 - 1e-12)
    assert (first.tolist(), second.tolist()) == ([20], [30])
    assert cosine[0] == pytest.approx(1, abs=1e-12)
    assert exact_cosine(W_dec[20], W_dec[30]) == cosine[0]


def test_planted_pairs_are_found(sae: PlantedSAE) -> None:
    found = look_for_pairs(sae, 0.9, 0, "all")
    assert sorted((pair.first, pair.second) for pair in found) == NEVER
    assert [pair.cosine for pair in found] == sorted((pair.cosine for pair in found), reverse=True)
    assert {(pair.first, pair.second) for pair in look_for_pairs(sae, 0.9, 10, "all")} == {*NEVER, *SOMETIMES}
    assert {pair.together for pair in look_for_pairs(sae, 0.9, 10, "all")} == {0, 10}
    assert {pair.together for pair in look_for_pairs(sae, 0.9, 10)} == {0, 4}  # rows 90 to 93 are as trained


@pytest.mark.parametrize(("least", "most"), [(0.2, 0), (0.2, 3), (0.95, 100)])
def test_pairs_are_those_of_brute_force(sae: PlantedSAE, least: float, most: int) -> None:
    active_NE, expected = sae.active(), []
    for minus, first, second in brute_force(sae.W_dec, least):
        together = int((active_NE[:, first] & active_NE[:, second]).sum())
        if active_NE[:, first].any() and active_NE[:, second].any() and together <= most:
            expected.append((first, second, pytest.approx(-minus, abs=1e-12), together))
    assert look_for_pairs(sae, least, most) == expected
    assert expected
    assert DEAD in {(first, second) for _, first, second in brute_force(sae.W_dec, 0.9)}  # and is left out


def test_what_cannot_be_asked(sae: PlantedSAE, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="between -1 and 1"):
        cosine_pairs(sae.W_dec, float("nan"))
    with pytest.raises(ConfigError, match="at least 0"):
        look_for_pairs(sae, 0.5, -1)
    monkeypatch.setattr(decoder_pairs, "MOST_PAIRS", 10)
    with pytest.raises(ConfigError, match="more than 10 pairs"):
        cosine_pairs(sae.W_dec, 0.0)


def test_pair_names_what_it_holds() -> None:
    assert Pair._fields == ("first", "second", "cosine", "together")
