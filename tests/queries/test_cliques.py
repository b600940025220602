"""Cliques, the greedy group and 4-tuples are those of brute force, and planted ones are found."""

import itertools

import numpy as np
import pytest

from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.queries import cliques as module
from strata_sae.pipeline.queries.cliques import Effects, cliques, four_tuples, greedy_group
from support.planted_codes import PlantedSAE, random_codes


def pairs_of(groups: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    edges = sorted({pair for group in groups for pair in itertools.combinations(group, 2)})
    first, second = np.array(edges).reshape(-1, 2).T
    return first, second


def cliques_by_subsets(n: int, edges: set[tuple[int, int]], least: int) -> list[list[int]]:
    def is_clique(group: tuple[int, ...]) -> bool:
        return all(pair in edges for pair in itertools.combinations(group, 2))

    all_cliques = [group for size in range(1, n + 1) for group in itertools.combinations(range(n), size)]
    all_cliques = [group for group in all_cliques if is_clique(group)]
    largest = [group for group in all_cliques if not any({*group} < {*other} for other in all_cliques)]
    return sorted((list(group) for group in largest if len(group) >= least), key=lambda group: (-len(group), group))


@pytest.mark.parametrize("seed", range(4))
def test_cliques_are_those_among_all_subsets(seed: int) -> None:
    n, rng = 11, np.random.default_rng(seed)
    edges = {pair for pair in itertools.combinations(range(n), 2) if rng.random() < 0.5}
    first, second = np.array(sorted(edges)).T
    for least in (2, 3, 4):
        found = cliques(first, second, least)
        assert found.is_whole
        assert found.groups == cliques_by_subsets(n, edges, least)


def test_planted_cliques_among_200_latents() -> None:
    planted = [[3, 50, 120, 180, 199], [4, 51, 121], [7, 50, 90, 91]]
    found = cliques(*pairs_of([*planted, [1, 2], [2, 5]]))
    assert found.groups == [planted[0], planted[2], planted[1]]
    first, second = pairs_of(planted)
    without_one = (first != 3) | (second != 199)
    assert cliques(first[without_one], second[without_one]).groups == [
        [3, 50, 120, 180],
        [7, 50, 90, 91],
        [50, 120, 180, 199],
        [4, 51, 121],
    ]


def test_a_dense_graph_is_cut_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = [(a, b) for a, b in itertools.combinations(range(30), 2) if a // 3 != b // 3]  # 3^10 cliques of 10
    first, second = np.array(edges).T
    monkeypatch.setattr(module, "MOST_CLIQUES", 100)
    found = cliques(first, second)
    assert not found.is_whole
    assert [len(group) for group in found.groups] == [10] * 100
    monkeypatch.setattr(module, "MOST_EDGES", len(edges) - 1)
    with pytest.raises(ConfigError, match=f"{len(edges)} pairs .* larger cosine"):
        cliques(first, second)
    with pytest.raises(ConfigError, match="at least 2"):
        cliques(first, second, 1)
    assert cliques(first[:0], second[:0]).groups == []


def greedy_by_loops(sae: PlantedSAE, start: int, least: float, size: int) -> list[int]:
    """seeds.md 2.3, filter_for_cluster: cosine and no row shared with all that are chosen, the largest mean cosine."""
    unit_EM = sae.W_dec / np.linalg.norm(sae.W_dec, axis=1, keepdims=True)
    active_NE, chosen = sae.active(), [start]
    while len(chosen) < size:
        best, best_mean = -1, -np.inf
        for latent in range(sae.d_sae):
            cosines = [float(unit_EM[latent] @ unit_EM[other]) for other in chosen]
            apart = all(not (active_NE[:, latent] & active_NE[:, other]).any() for other in chosen)
            if latent in chosen or not active_NE[:, latent].any() or not apart or min(cosines) < least:
                continue
            if np.mean(cosines) > best_mean + 1e-6:
                best, best_mean = latent, float(np.mean(cosines))
        if best < 0:
            return chosen
        chosen.append(best)
    return chosen


def test_greedy_group_is_that_of_loops_and_holds_what_was_planted() -> None:
    rng, planted = np.random.default_rng(0), [12, 60, 61, 150, 171]
    W_dec = rng.standard_normal((200, 32)).astype(np.float32)
    dense_NE = random_codes(300, 200, 0.01, seed=9)
    dense_NE[:, planted] = 0
    for number, latent in enumerate(planted):
        W_dec[latent] = W_dec[12] + 0.15 * (1 + number) * rng.standard_normal(32) * (latent != 12)
        dense_NE[40 * number : 40 * number + 40, latent] = 1
    W_dec[[20, 199]] = W_dec[12]
    dense_NE[:, 20] = dense_NE[:, 12]  # alike, but together
    dense_NE[:, 199] = 0  # alike, but dead
    sae = PlantedSAE(dense_NE, W_dec, np.arange(300) % 10 > 0)
    assert greedy_group(sae, 12, 0.4, 5).latents == greedy_by_loops(sae, 12, 0.4, 5)
    assert {*greedy_group(sae, 12, 0.4, 5).latents} == {*planted}
    for start, least, size in [(12, 0.1, 9), (60, 0.3, 10), (5, 0.15, 4), (5, 0.999, 4), (12, 0.4, 1)]:
        found = greedy_group(sae, start, least, size)
        assert found.latents == greedy_by_loops(sae, start, least, size)
        assert len(found.mean_cosines) == len(found.latents) <= size
    with pytest.raises(ConfigError, match="latents 0 to 199"):
        greedy_group(sae, 200)


def tuples_by_loops(effect_ER: np.ndarray, zero: float) -> set[tuple[int, int, int, int]]:
    n, m = effect_ER.shape
    return {
        (a, b, c, d)
        for a, c, b, d in itertools.product(range(n), range(n), range(m), range(m))
        if min(effect_ER[a, b], effect_ER[a, d], effect_ER[c, b]) > zero and effect_ER[c, d] < -zero
    }


@pytest.mark.parametrize("zero", [0.0, 0.5])
def test_4_tuples_are_those_of_four_loops(zero: float) -> None:
    rng = np.random.default_rng(4)
    effect_ER = rng.standard_normal((9, 12)) * (rng.random((9, 12)) < 0.6)
    found = four_tuples(Effects.of_dense(effect_ER), zero)
    assert {one[:4] for one in found} == tuples_by_loops(effect_ER, zero)
    assert len({one[:4] for one in found}) == len(found) > 5
    for one in found:
        sizes = [abs(effect_ER[x, y]) for x, y in ((one.a, one.b), (one.a, one.d), (one.c, one.b), (one.c, one.d))]
        assert one.weakest == min(sizes)
    assert [one.weakest for one in found] == sorted((one.weakest for one in found), reverse=True)


def test_a_planted_4_tuple_among_200_latents() -> None:
    effect_ER = np.zeros((200, 200))
    effect_ER[5, 100] = effect_ER[5, 140] = effect_ER[90, 100] = 2
    effect_ER[90, 140] = -1
    effect_ER[[8, 9, 30], [100, 140, 7]] = [1, 1, -3]
    assert [one[:4] for one in four_tuples(Effects.of_dense(effect_ER))] == [(5, 100, 90, 140)]
    assert four_tuples(Effects.of_dense(effect_ER), 1.0) == []
    effect_ER[90, 140] = 1
    assert four_tuples(Effects.of_dense(effect_ER)) == []


def test_too_many_4_tuples_are_refused() -> None:
    effects = Effects.of_dense(np.random.default_rng(4).standard_normal((9, 12)))
    n = len(four_tuples(effects))
    assert len(four_tuples(effects, most=n)) == n
    with pytest.raises(ConfigError, match=f"more than {n - 1:,} 4-tuples"):
        four_tuples(effects, most=n - 1)
    with pytest.raises(ConfigError, match="at least 0"):
        four_tuples(effects, -1.0)
