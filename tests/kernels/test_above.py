"""What is above a threshold, the k-th largest of a list, and where a mask is true: against PyTorch's own."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import cpu
from strata_sae.pipeline.kernels.selection import true_places


def normal(*shape: int, steps: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rounded, so that many values are equal, and some equal to thresholds."""
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)
    return (values * steps).round() / steps


def assert_are_all_above(tile: Tensor, bias: Tensor, threshold: float, found: tuple[Tensor, Tensor, Tensor]) -> None:
    """Each entry once, in any order."""
    values_P, rows_P, columns_P = found
    values = tile + bias
    places_P, order_P = (rows_P * tile.shape[1] + columns_P).sort()
    assert torch.equal(places_P, (values > threshold).flatten().nonzero().squeeze(1))
    assert torch.equal(values_P[order_P], values.flatten()[places_P])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 7), (65, 61), (150, 64), (129, 403), (66, 1027)])
@pytest.mark.parametrize("threshold", [-torch.inf, -100.0, 0.0, 1.5, 3.0, 100.0, torch.inf])
def test_entries_above_are_those_strictly_above(shape, threshold, dtype):
    tile, bias = normal(*shape, steps=4, dtype=dtype), normal(1, shape[1], steps=2, dtype=dtype)[0]
    tile[0, 0], tile[-1, -1] = torch.inf, -torch.inf
    assert_are_all_above(tile, bias, threshold, cpu.entries_above(tile, bias, threshold))


@pytest.mark.parametrize("column", [0, 3, 64, 511, 600, 1102])
def test_nan_is_above_nothing_and_hides_nothing(column):
    tile, bias = normal(70, 1103, steps=4), torch.zeros(1103)
    tile[::2, column], bias[200] = torch.nan, torch.nan
    assert_are_all_above(tile, bias, -1.0, cpu.entries_above(tile, bias, -1.0))


@pytest.mark.parametrize("change", ["missing", "twice", "wrong value"])
def test_a_wrong_entry_would_be_seen(change):
    tile, bias = normal(70, 40, steps=4), torch.zeros(40)
    values_P, rows_P, columns_P = cpu.entries_above(tile, bias, 2.0)
    if change == "wrong value":
        values_P[5] = torch.nextafter(values_P[5], torch.tensor(torch.inf))
    else:
        kept = slice(1, None) if change == "missing" else [0, *range(values_P.numel())]
        values_P, rows_P, columns_P = values_P[kept], rows_P[kept], columns_P[kept]
    with pytest.raises(AssertionError):
        assert_are_all_above(tile, bias, 2.0, (values_P, rows_P, columns_P))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 2, 37, 5000])
@pytest.mark.parametrize("steps", [1, 1e4])
def test_the_kth_largest_is_that_of_a_sort(n, steps, dtype):
    values_P = normal(n, steps=steps, dtype=dtype)
    infinite_P = torch.where(values_P > 1, torch.inf, torch.where(values_P < -1, -torch.inf, values_P))
    wide_P = values_P * 10.0 ** torch.linspace(-30, 30, n, dtype=dtype)
    for given_P in (values_P, values_P.sort().values, infinite_P, wide_P, torch.full((n,), -2.0, dtype=dtype)):
        sorted_P = given_P.sort(descending=True).values
        for k in {1, 2, n // 3, n // 2, n - 1, n} & set(range(1, n + 1)):
            assert cpu.kth_largest(given_P, k) == float(sorted_P[k - 1])


@pytest.mark.parametrize("shape", [(3, 5), (4, 6), (1, 8), (0, 8), (16, 64)])
@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
def test_true_places_are_those_of_nonzero(shape, density):
    kept = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density
    assert torch.equal(true_places(kept), kept.flatten().nonzero().squeeze(1))
