"""The exact top-k of rows against a stable sort: ties, infinities, NaN, and sizes that do not divide."""

import pytest
import torch
from torch import Tensor

from pipeline.kernels import row_topk as module
from pipeline.kernels.reference import row_topk as by_sorting
from pipeline.kernels.row_topk import kth_bound, row_topk, true_places


def normal(n_rows: int, n_latents: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n_rows, n_latents, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_as_by_sorting(pre_BE: Tensor, k: int) -> None:
    values_BK, latents_BK = row_topk(pre_BE, k)
    expected_BK = by_sorting(pre_BE, k)[1].sort(dim=1).values
    assert torch.equal(latents_BK, expected_BK)
    assert torch.equal(values_BK, pre_BE.gather(1, expected_BK))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_latents", "k"), [(64, 1), (800, 5), (803, 5), (1024, 64), (100, 99), (7, 7)])
def test_it_equals_a_stable_sort(n_latents, k, dtype):
    assert_as_by_sorting(normal(33, n_latents, dtype=dtype), k)


@pytest.mark.parametrize("steps", [1, 3, 1000])
@pytest.mark.parametrize("k", [1, 6, 64])
def test_of_equal_values_the_first_latents_stay(k, steps):
    assert_as_by_sorting((normal(20, 640) * steps).round() / steps, k)


def test_rows_of_one_value_and_of_infinities():
    pre_BE = normal(6, 320)
    pre_BE[0], pre_BE[1], pre_BE[2] = 0.0, -torch.inf, torch.inf
    pre_BE[3, ::2], pre_BE[4, 5:] = torch.inf, -torch.inf
    assert_as_by_sorting(pre_BE, 8)


def test_nan_comes_out_where_it_went_in():
    pre_BE = normal(4, 320)
    pre_BE[2, 100] = torch.nan
    values_BK, latents_BK = row_topk(pre_BE, 8)
    assert torch.equal(values_BK.isnan().any(1), torch.arange(4) == 2)
    assert torch.equal(latents_BK[:2].sort(1).values, by_sorting(pre_BE, 8)[1][:2].sort(1).values)


def test_a_row_depends_on_itself_alone():
    pre_BE = normal(64, 640).mul(4).round()
    whole = row_topk(pre_BE, 9)
    for row in range(0, 64, 7):
        for one, of_all in zip(row_topk(pre_BE[row : row + 1], 9), whole, strict=True):
            assert torch.equal(one[0], of_all[row])


@pytest.mark.parametrize("k", [1, 8, 40, 300])
def test_at_least_k_reach_the_bound_and_few_more(k):
    pre_BE = normal(50, 1600)
    counts_B = (pre_BE >= kth_bound(pre_BE, k)[:, None]).sum(1)
    assert int(counts_B.min()) >= k
    assert float(counts_B.float().mean()) < 2 * k + 2


def test_too_high_a_bound_would_be_seen(monkeypatch):
    monkeypatch.setattr(module, "kth_bound", lambda pre_BE, k: pre_BE.topk(k - 1, dim=1).values.amin(1))
    pre_BE = normal(9, 640)
    pre_BE[0, 0] = torch.nan  # so that it falls back on torch.topk, whose order of latents is another
    with pytest.raises(AssertionError):
        assert_as_by_sorting(pre_BE, 8)


@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (1, 8), (0, 8), (16, 64)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_true_places_are_those_of_nonzero(shape, density):
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    assert torch.equal(true_places(kept), kept.flatten().nonzero().squeeze(1))
