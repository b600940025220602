"""Pairs of latents: every backend gives what the reference gives, and the reference what dense matrices give."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.kernels.machine import cpu, cuda, reference
from strata_sae.pipeline.kernels.machine.reference import RowPairs, partner_offsets

B, E, M = 17, 30, 70


@pytest.fixture(params=["reference", "cpu", "cuda"])
def backend(request, monkeypatch) -> ModuleType:
    monkeypatch.setattr(cuda, "_has_triton", lambda: False)
    return {"reference": reference, "cpu": cpu, "cuda": cuda}[request.param]


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def codes() -> SparseCodes:
    """Rows of many lengths, one of them empty, and a latent that is never active."""
    shares_B = torch.linspace(0.1, 0.7, B)[:, None]
    active_BE = torch.rand(B, E, generator=torch.Generator().manual_seed(0)) < shares_B
    active_BE[3], active_BE[:, 7] = False, False
    return DenseCodes(active_BE.double()).to_sparse()


def together(ops: ModuleType, c: SparseCodes, least_E: Tensor, first: int = 0, stop: int = E) -> RowPairs:
    return ops.pairs_together(c.entries, partner_offsets(c.entries), least_E, first, stop)


def dense(c: SparseCodes, pairs: RowPairs, values: Tensor) -> Tensor:
    """One value per pair as a matrix, above the diagonal."""
    matrix_EE = torch.zeros(E, E, dtype=torch.float64)
    matrix_EE[c.indices_P[pairs.first_places()], c.indices_P[pairs.partners]] = values.double()
    return matrix_EE


@pytest.mark.parametrize("least", [1, 3, 4])
@pytest.mark.parametrize(("first", "stop"), [(0, E), (5, 6), (8, 21)])
def test_pairs_together_equal_the_dense_product(backend, least, first, stop):
    c, least_E = codes(), torch.full((E,), least, dtype=torch.int32)
    least_E[::4] = 2  # the smaller of two decides
    active_BE = c.to_dense()
    expected_EE = (active_BE.T @ active_BE).triu(1)
    expected_EE[expected_EE < torch.minimum(least_E[:, None], least_E)] = 0
    expected_EE[:first], expected_EE[stop:] = 0, 0
    pairs = together(backend, c, least_E, first, stop)
    assert torch.equal(dense(c, pairs, pairs.n_both), expected_EE)
    assert pairs.partners.numel() == expected_EE.count_nonzero()
    places = pairs.first_places()
    assert torch.equal(c.rows_P[places], c.rows_P[pairs.partners])
    same = together(reference, c, least_E, first, stop)
    assert torch.equal(pairs.offsets, same.offsets)
    assert torch.equal(pairs.partners, same.partners)
    assert torch.equal(pairs.n_both, same.n_both)


@pytest.mark.parametrize("n_threads", [1, 2, 5])
@pytest.mark.parametrize("least", [1, 4, 99])
def test_dots_and_sums_equal_dense_products(backend, least, n_threads):
    c, W_EM = codes(), random(E, M, seed=1)
    pairs = together(backend, c, torch.full((E,), least, dtype=torch.int32))
    weights = random(pairs.partners.numel(), seed=2)
    found_EM, start_EM = random(E, M, seed=3), random(E, M, seed=3)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(n_threads)
        dots = backend.pair_dots(W_EM, c.entries, pairs)
        backend.add_pair_sums(W_EM, c.entries, pairs, weights, found_EM)
    finally:
        torch.set_num_threads(before)
    is_pair_EE = dense(c, pairs, torch.ones_like(weights))
    torch.testing.assert_close(dense(c, pairs, dots), W_EM @ W_EM.T * is_pair_EE, rtol=1e-12, atol=1e-13)
    weights_EE = dense(c, pairs, weights)
    expected_EM = start_EM + (weights_EE + weights_EE.T) @ W_EM
    torch.testing.assert_close(found_EM, expected_EM, rtol=1e-12, atol=1e-12)
    if least < 99:
        wrong_EE = dense(c, pairs, weights.roll(1))
        assert (found_EM - start_EM - (wrong_EE + wrong_EE.T) @ W_EM).abs().max() > 1e-3
