"""Competing pairs against a loop over all pairs, in any chunks."""

import pytest
import torch

from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.objective import pairs as pairs_of_latents
from strata_sae.pipeline.objective.pairs import NORMALISATIONS, SHAPES, active_sorted, between, co_active, competing

B, E = 20, 15


def planted_codes() -> SparseCodes:
    """Random masks, with values of 0 among the entries, a latent that is never active and two that always are."""
    generator = torch.Generator().manual_seed(0)
    active_BE = torch.rand(B, E, generator=generator) < 0.3
    active_BE[:, 3], active_BE[:, 7], active_BE[:, 8] = False, True, True
    codes = DenseCodes(active_BE.double()).to_sparse()
    values_P = codes.values_P.clone()
    values_P[::5] = 0.0
    return codes.with_values(values_P)


def counts_by_loop(codes: SparseCodes) -> dict[tuple[int, int], tuple[int, int, int]]:
    active_BE = codes.to_dense() != 0
    counts = {}
    for i in range(E):
        for j in range(i + 1, E):
            both = int((active_BE[:, i] & active_BE[:, j]).sum())
            if both:
                counts[i, j] = (both, int(active_BE[:, i].sum()), int(active_BE[:, j].sum()))
    return counts


def found_competition(codes: SparseCodes, *form) -> torch.Tensor:
    """c_ij + c_ji as a matrix, zero on and below the diagonal."""
    codes = active_sorted(codes)[0]
    found_EE = torch.zeros(E, E, dtype=torch.float64)
    for pairs, c in competing(codes, *form):
        first, second = codes.indices_P[pairs.first_places()], codes.indices_P[pairs.partners]
        assert not found_EE[first, second].any()
        assert len(set(zip(first.tolist(), second.tolist(), strict=True))) == c.numel()
        found_EE[first, second] = c
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
    monkeypatch.setattr(pairs_of_latents, "OCCURRENCES_PER_CHUNK", pairs_per_chunk)
    codes = active_sorted(planted_codes())[0]
    found, order = {}, []
    for pairs, where in co_active(codes):
        counts = zip(pairs.n_both.tolist(), pairs.n_first.tolist(), pairs.n_second.tolist(), strict=True)
        first_places, second_places = (p.split(where.n_both.tolist()) for p in (where.first_place, where.second_place))
        for numbers, first, second in zip(counts, first_places, second_places, strict=True):
            i, j = int(codes.indices_P[first[0]]), int(codes.indices_P[second[0]])
            assert (i, j) not in found
            found[i, j] = numbers
            order.append((i, j))
            assert codes.indices_P[first].eq(i).all()
            assert codes.indices_P[second].eq(j).all()
            assert torch.equal(codes.rows_P[first], codes.rows_P[second])
    assert found == counts_by_loop(planted_codes())
    assert order == sorted(order)


@pytest.mark.parametrize("threshold", [1e-8, 0.05, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("pairs_per_chunk", [7, 10**6])
def test_competition_equals_the_loop(normalisation, shape, threshold, pairs_per_chunk, monkeypatch):
    monkeypatch.setattr(pairs_of_latents, "OCCURRENCES_PER_CHUNK", pairs_per_chunk)
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
    pairs = pairs_of_latents.CoActive(ones, few * 2, few, 100, 0.02)
    assert [n.tolist() for n in NORMALISATIONS["lift"](pairs)] == [[1.0, 10.0]] * 2


def test_at_threshold_zero_every_pair_ever_on_together_competes_fully():
    found_EE = found_competition(planted_codes(), "min", "linear", 1e-8, 0.05)
    assert found_EE.count_nonzero() == len(counts_by_loop(planted_codes()))
    assert found_EE[found_EE > 0].eq(2).all()


def test_pairs_that_cannot_compete_are_not_even_listed():
    """Of six rows, latents 0 and 1 share 3, all of 1's; 2 and 3 share 1 of 2: exactly at the threshold."""
    active_BE = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 1], [1, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0]])
    codes = active_sorted(DenseCodes(active_BE.double()).to_sparse())[0]
    for threshold, expected in ((0.5, 5), (0.5 - 1e-9, 6), (1.0, 0)):
        listed = [
            (pairs.partners.numel(), int((c > 0).sum()))
            for pairs, c in competing(codes, "min", "linear", threshold, 0.05)
        ]
        assert listed == [(expected, expected)]


def test_codes_that_are_all_zero_have_no_pairs():
    nothing = planted_codes().with_values(torch.zeros_like(planted_codes().values_P))
    assert not found_competition(nothing, "jaccard", "linear", 0.1, 0.05).any()


def test_counts_of_chosen_pairs_equal_the_loop():
    first, second = torch.triu_indices(E, E, 1)
    chosen = between(planted_codes(), first, second)
    expected = counts_by_loop(planted_codes())
    n_both = dict(zip(zip(first.tolist(), second.tolist(), strict=True), chosen.n_both.tolist(), strict=True))
    assert {pair: counts[0] for pair, counts in expected.items()} == {p: n for p, n in n_both.items() if n}
