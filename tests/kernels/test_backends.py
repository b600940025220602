"""Every backend gives what the reference gives, on codes with empty rows, inactive latents and ties."""

import subprocess
import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.kernels.machine import cpu, cuda, reference
from strata_sae.pipeline.kernels.machine.backend import BACKENDS, backend_of, using

B, E, M = 13, 40, 18


@pytest.fixture(params=["cpu", "cuda", "triton"])
def backend(request, monkeypatch) -> ModuleType:
    """Where there is no GPU, the GPU's operations run on the CPU, and Triton's kernels in its interpreter."""
    monkeypatch.setattr(cuda, "_has_triton", lambda: request.param == "triton")
    return cpu if request.param == "cpu" else cuda


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def codes(dtype: torch.dtype, n_active: int = 90) -> SparseCodes:
    values_BE = torch.zeros(B, E, dtype=dtype)
    values_BE.view(-1)[torch.randperm(B * E, generator=torch.Generator().manual_seed(0))[:n_active]] = 1.0
    values_BE *= random(B, E, seed=1, dtype=dtype)
    values_BE[3], values_BE[:, 7] = 0.0, 0.0
    return DenseCodes(values_BE).to_sparse()


@pytest.mark.parametrize("n_active", [0, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_and_dots_equal_the_reference(backend, dtype, n_active):
    c = codes(dtype, n_active)
    W_EM, x_BM = random(E, M, seed=2, dtype=dtype), random(B, M, seed=3, dtype=dtype)
    sums, dots = (c.indices_P, W_EM, c.offsets, c.values_P), (x_BM, W_EM, c.rows_P, c.indices_P, c.offsets)
    torch.testing.assert_close(backend.weighted_sums(*sums), reference.weighted_sums(*sums))
    torch.testing.assert_close(backend.sampled_dots(*dots), reference.sampled_dots(*dots))
    by_index = (c.values_P, c.indices_P, E)
    torch.testing.assert_close(backend.index_sums(*by_index), reference.index_sums(*by_index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_of_whole_numbers_are_exact_and_may_be_written_into_a_given_matrix(backend, dtype):
    """Over stretches of every length up to 9, which no order of summing rounds; what was in the matrix is gone."""
    offsets = torch.arange(10).repeat(30).cumsum(0)
    n_entries, n_stretches = int(offsets[-1]), offsets.numel() - 1
    indices_P = torch.randint(E, (n_entries,), generator=torch.Generator().manual_seed(5))
    table, weights_P = (random(*shape, seed=6, dtype=dtype).mul(9).round() for shape in ((E, M), (n_entries,)))
    sums = (indices_P, table, offsets, weights_P)
    expected, out = reference.weighted_sums(*sums), table.new_full((n_stretches, M), torch.nan)
    assert torch.equal(backend.weighted_sums(*sums), expected)
    for _ in range(2):
        assert backend.weighted_sums(*sums, out) is out
        assert torch.equal(out, expected)


@pytest.mark.parametrize("n_active", [0, 90])
def test_entries_are_sorted_by_index_and_equal_ones_stay_in_order(backend, n_active):
    c = codes(torch.float64, n_active)
    for indices_P, rows_P in ((c.indices_P, c.rows_P), (c.indices_P.flip(0), c.rows_P.flip(0))):
        found = backend.sort_by_index(indices_P, rows_P, E)
        for one, other in zip(found, reference.sort_by_index(indices_P, rows_P, E), strict=True):
            assert torch.equal(one, other)
        order_P, sorted_rows_P, starts = found
        assert torch.equal(indices_P[order_P], indices_P.sort(stable=True).values)
        assert torch.equal(sorted_rows_P, rows_P[order_P])
        assert torch.equal(starts.diff(), torch.bincount(indices_P, minlength=E))


@pytest.mark.parametrize("k", [1, 4, 40])
def test_row_topk_equals_the_reference(backend, k):
    x_BM, W_EM, b_E = random(B, M, seed=2), random(E, M, seed=3), random(E, seed=4)
    product, pre_BE = (x_BM, W_EM, b_E, x_BM.new_empty(5, E)), torch.addmm(b_E, x_BM, W_EM.T)
    expected = reference.row_topk(pre_BE, k)
    for found in (backend.row_topk(pre_BE, k), backend.row_topk_of_product(*product, k)):
        assert torch.equal(found[1].sort(dim=1).values, expected[1].sort(dim=1).values)
        torch.testing.assert_close(found[0], pre_BE.gather(1, found[1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_largest_values_and_those_above_equal_the_reference(backend, dtype):
    tile, bias = (random(*shape, seed=4, dtype=dtype).mul(4).round() for shape in ((B, E), (E,)))
    for k in (1, 9, B * E):
        assert backend.kth_largest(tile.flatten(), k) == reference.kth_largest(tile.flatten(), k)
    for threshold in (-torch.inf, 0.0, 3.0, 100.0):
        values_P, rows_P, columns_P = backend.entries_above(tile, bias, threshold)
        order_P = (rows_P * E + columns_P).argsort()
        expected = reference.entries_above(tile, bias, threshold)
        for one, other in zip((values_P, rows_P, columns_P), expected, strict=True):
            assert torch.equal(one[order_P], other)


def test_a_wrong_sum_is_seen(backend):
    c = codes(torch.float64)
    sums = (c.indices_P, random(E, M, seed=2), c.offsets, c.values_P)
    shifted = (c.indices_P, sums[1], c.offsets, c.values_P.roll(1))
    assert not torch.allclose(backend.weighted_sums(*shifted), reference.weighted_sums(*sums))


def test_codes_run_on_the_backend_of_their_device_or_on_the_one_that_is_asked_for():
    assert backend_of(torch.zeros(1)) is BACKENDS["cpu"]
    assert backend_of(torch.zeros(1, device="meta")) is BACKENDS["reference"]
    c, W_EM = codes(torch.float64), random(E, M, seed=2)
    usual = c.decode(W_EM)
    with using("reference"):
        assert backend_of(W_EM) is BACKENDS["reference"]
        torch.testing.assert_close(c.decode(W_EM), usual)
    assert backend_of(W_EM) is BACKENDS["cpu"]


def test_reading_the_kernels_does_not_import_triton():
    code = "import sys, strata_sae.pipeline.kernels.machine.cuda; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
