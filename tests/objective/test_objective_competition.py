"""Competing pairs against a loop over all pairs, in any chunks; the rows' squares against the pairs one by one."""

import pytest
import torch

from pipeline.kernels.codes import DenseCodes, SparseCodes
from pipeline.objective import competition, pair_penalty, row_blocks
from pipeline.objective.competition import NORMALISATIONS, SHAPES, active_sorted, between, co_active, competing
from pipeline.objective.pair_penalty import PENALTIES, by_pairs, by_rows, of_decoder
from pipeline.saes.base import Workspace

B, E, M = 20, 15, 6


def planted_codes() -> SparseCodes:
    """Random masks, with values of 0 among the pairs, a latent never on and two always on."""
    generator = torch.Generator().manual_seed(0)
    on_BE = torch.rand(B, E, generator=generator) < 0.3
    on_BE[:, 3], on_BE[:, 7], on_BE[:, 8] = False, True, True
    codes = DenseCodes(on_BE.double()).to_sparse()
    values_P = codes.values_P.clone()
    values_P[::5] = 0.0
    return codes.with_values(values_P)


def counts_by_loop(codes: SparseCodes) -> dict[tuple[int, int], tuple[int, int, int]]:
    on_BE = codes.to_dense() != 0
    counts = {}
    for i in range(E):
        for j in range(i + 1, E):
            both = int((on_BE[:, i] & on_BE[:, j]).sum())
            if both:
                counts[i, j] = (both, int(on_BE[:, i].sum()), int(on_BE[:, j].sum()))
    return counts


def found_competition(codes: SparseCodes, *form) -> torch.Tensor:
    """c_ij + c_ji as a matrix, zero on and below the diagonal."""
    pairs = competing(active_sorted(codes)[0], *form)
    found_EE = torch.zeros(E, E, dtype=torch.float64)
    first, second = pairs.latents()
    found_EE[first.long(), second.long()] = pairs.c
    assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == pairs.c.numel()
    return found_EE


def test_sorting_keeps_values_and_rows_and_says_where_they_came_from():
    codes = planted_codes()
    shuffled_P = torch.cat([torch.arange(int(s), int(t)).flip(0) for s, t in codes.offsets.unfold(0, 2, 1)])
    shuffled = SparseCodes(codes.values_P[shuffled_P], codes.indices_P[shuffled_P], codes.offsets, E)
    done, places_P = active_sorted(shuffled)
    assert torch.equal(done.to_dense(), codes.to_dense())
    assert torch.equal(done.values_P, shuffled.values_P[places_P])
    assert torch.equal(done.indices_P, shuffled.indices_P[places_P])
    assert all((done.indices_P[s:t].diff() > 0).all() for s, t in done.offsets.unfold(0, 2, 1))


@pytest.mark.parametrize("pairs_per_chunk", [1, 7, 50, 10**6])
def test_co_active_pairs_equal_the_loop_in_any_chunks(pairs_per_chunk, monkeypatch):
    monkeypatch.setattr(competition, "PAIRS_PER_CHUNK", pairs_per_chunk)
    codes = active_sorted(planted_codes())[0]
    found, order = {}, []
    for pairs, where in co_active(codes):
        columns = (pairs.first, pairs.second, pairs.n_both, pairs.n_first, pairs.n_second)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        places = where.by_pair.split(pairs.n_both.long().tolist())
        for (i, j, *counts), numbers in zip(rows, places, strict=True):
            assert (i, j) not in found
            found[i, j] = tuple(counts)
            order.append((i, j))
            first, second = where.first_place[numbers], where.second_place[numbers]
            assert codes.indices_P[first].eq(i).all()
            assert codes.indices_P[second].eq(j).all()
            assert torch.equal(codes.rows_P[first], codes.rows_P[second])
    assert found == counts_by_loop(planted_codes())
    assert order == sorted(order)


@pytest.mark.parametrize("threshold", [1e-8, 0.05, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_competition_equals_the_loop(normalisation, shape, threshold):
    codes = planted_codes()
    density = float((codes.to_dense() != 0).double().mean())
    expected_EE = torch.zeros(E, E, dtype=torch.float64)
    for (i, j), (both, n_i, n_j) in counts_by_loop(codes).items():
        smaller, either = min(n_i, n_j), n_i + n_j - both
        there = {"min": both / smaller, "batch": both / B, "jaccard": both / either, "conditional": both / n_i}
        there["lift"] = min(max(both / n_i, both / n_j) / density, 10)
        back = {**there, "conditional": both / n_j}
        for n in (there[normalisation], back[normalisation]):
            if shape == "linear":
                expected_EE[i, j] += min(max((n - threshold) / threshold, 0.0), 1.0)
            elif shape == "proportional":
                expected_EE[i, j] += n
            else:
                expected_EE[i, j] += torch.tensor((n - threshold) / 0.05, dtype=torch.float64).sigmoid()
    found_EE = found_competition(codes, normalisation, shape, threshold, 0.05)
    torch.testing.assert_close(found_EE, expected_EE, rtol=1e-12, atol=0)


def test_lift_is_one_by_chance_and_ends_at_ten():
    ones = torch.ones(2, dtype=torch.float64)
    few = torch.tensor([50.0, 1.0], dtype=torch.float64)
    pairs = competition.CoActive(ones, ones, ones, ones, few * 2, few, 100, 0.02)
    assert [n.tolist() for n in NORMALISATIONS["lift"](pairs)] == [[1.0, 10.0]] * 2


def test_at_threshold_zero_every_pair_ever_on_together_competes_fully():
    pairs = competing(active_sorted(planted_codes())[0], "min", "linear", 1e-8, 0.05)
    assert pairs.c.numel() == len(counts_by_loop(planted_codes()))
    assert torch.equal(pairs.c, torch.full_like(pairs.c, 2.0))


def test_codes_that_are_all_zero_have_no_pairs():
    nothing = planted_codes().with_values(torch.zeros_like(planted_codes().values_P))
    assert not found_competition(nothing, "jaccard", "linear", 0.1, 0.05).any()


def test_counts_of_chosen_pairs_equal_the_loop():
    first, second = torch.triu_indices(E, E, 1)
    chosen = between(planted_codes(), first, second)
    expected = counts_by_loop(planted_codes())
    n_both = dict(zip(zip(first.tolist(), second.tolist(), strict=True), chosen.n_both.tolist(), strict=True))
    assert {pair: counts[0] for pair, counts in expected.items()} == {p: n for p, n in n_both.items() if n}


# -- both ways to sum over pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize("rows_per_block", [1, 3, 64])
@pytest.mark.parametrize("scratch_bytes", [1, 20 * M * 8, 2**20])
def test_rows_and_pairs_give_the_same(penalty, rows_per_block, scratch_bytes, monkeypatch):
    monkeypatch.setattr(row_blocks, "ROWS_PER_BLOCK", rows_per_block)
    monkeypatch.setattr(pair_penalty, "SCRATCH_BYTES", scratch_bytes)
    codes = active_sorted(planted_codes())[0]
    assert len(set(codes.offsets.diff().tolist())) > 3  # rows of many lengths
    W_EM = torch.randn(E, M, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    pairs = competing(codes, "conditional", "linear", 0.2, 0.05)
    scratch = Workspace()
    for _ in range(2):  # the second time in a used buffer
        one, other = by_rows(W_EM, codes, pairs, penalty, scratch), by_pairs(W_EM, pairs, penalty)
        for found, expected in zip(one, other, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)
    wrong = by_pairs(W_EM, competing(codes, "conditional", "linear", 0.21, 0.05), penalty)
    assert (one.gradient - wrong.gradient).abs().max() > 1e-3


def test_the_number_of_pairs_decides_which(monkeypatch):
    codes = active_sorted(planted_codes())[0]
    W_EM = torch.randn(E, M, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    monkeypatch.setattr(pair_penalty, "by_rows", lambda *_: "rows")
    monkeypatch.setattr(pair_penalty, "by_pairs", lambda *_: "pairs")
    for threshold, expected in ((1e-8, "rows"), (0.97, "pairs")):
        pairs = competing(codes, "min", "linear", threshold, 0.05)
        assert of_decoder(W_EM, codes, pairs, "absolute", Workspace()) == expected
