"""The k largest of rows, also of tiles one after the other, against a stable sort: ties, infinities, NaN, any width."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import cpu, reference

SIZES = [(1, 1), (7, 7), (11, 1), (100, 99), (803, 5), (1024, 64), (1541, 1), (1100, 130), (2051, 40)]
"""Latents and k: with and without whole blocks of columns, and columns left over."""
WIDTHS = [None, 16, 61, 512, 700]
"""Of tiles (columns); None: all at once."""


def normal(n_rows: int, n_latents: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n_rows, n_latents, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rounded(n_rows: int, n_latents: int, steps: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """With many equal values: those that begin with the same digits."""
    return (normal(n_rows, n_latents, dtype=dtype) * steps).round() / steps


def given(pre_BE: Tensor, width: int) -> Iterator[tuple[int, Tensor]]:
    """Tiles of pre-activations that are there already; one is overwritten once the next is asked for."""
    for first in range(0, pre_BE.shape[1], width):
        tile = pre_BE[:, first : first + width].clone(memory_format=torch.contiguous_format)
        yield first, tile
        tile.fill_(torch.nan)


def topk(pre_BE: Tensor, k: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    """Width: of tiles; ten rows at a time then."""
    if width is None:
        return cpu.row_topk(pre_BE, k)
    parts = []
    for block_BE in pre_BE.split(10):
        found = cpu.RowTopK(block_BE.shape[0], k, like=block_BE)
        for first, tile in given(block_BE, width):
            found.take(tile, tile.new_zeros(tile.shape[1]), first)
        parts.append(found.result())
    return torch.cat([values for values, _ in parts]), torch.cat([latents for _, latents in parts])


def assert_as_by_sorting(pre_BE: Tensor, k: int, found: tuple[Tensor, Tensor]) -> None:
    """The same latents and values in each row, whatever their order in it; of equal values, the first latents."""
    latents_BK, places_BK = found[1].sort(dim=1)
    expected_BK = pre_BE.sort(dim=1, descending=True, stable=True).indices[:, :k].sort(dim=1).values
    assert torch.equal(latents_BK, expected_BK)
    assert torch.equal(found[0].gather(1, places_BK), pre_BE.gather(1, expected_BK))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("n_latents", "k"), SIZES)
@pytest.mark.parametrize("width", WIDTHS)
def test_it_equals_a_stable_sort(n_latents, k, width, dtype):
    """Also where k is more than a tile's latents."""
    for pre_BE in (normal(73, n_latents, dtype=dtype), rounded(73, n_latents, 3, dtype)):
        assert_as_by_sorting(pre_BE, k, topk(pre_BE, k, width))


@pytest.mark.parametrize("steps", [1, 3, 1000])
@pytest.mark.parametrize("k", [1, 6, 64])
@pytest.mark.parametrize("width", [None, 50, 600])
def test_of_equal_values_the_first_latents_stay(k, steps, width):
    pre_BE = rounded(20, 1640, steps)
    pre_BE[3], pre_BE[4, 100:] = 0.0, pre_BE.max()
    assert_as_by_sorting(pre_BE, k, topk(pre_BE, k, width))


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("width", [None, 64, 90, 700])
def test_rows_of_one_value_in_order_and_of_infinities(k, width):
    """Rows that rise make nearly every value a candidate, more than there is room for."""
    pre_BE = normal(12, 1403)
    pre_BE[0], pre_BE[1], pre_BE[2] = -0.5, -torch.inf, torch.inf
    pre_BE[3, ::2], pre_BE[4, 5:], pre_BE[5, ::90], pre_BE[6, ::3] = torch.inf, -torch.inf, torch.inf, -torch.inf
    pre_BE[7], pre_BE[8] = pre_BE[7].sort().values, pre_BE[8].sort(descending=True).values
    pre_BE[9], pre_BE[10] = torch.arange(1403.0), torch.arange(1403).div(7, rounding_mode="floor")
    pre_BE[11, ::50] *= torch.finfo(torch.float32).max / 4
    assert_as_by_sorting(pre_BE, k, topk(pre_BE, k, width))


@pytest.mark.parametrize("n_latents", [1024, 1103])
@pytest.mark.parametrize("k", [1, 8, 200])
@pytest.mark.parametrize("width", [None, 64, 75, 600])
def test_nan_comes_out_where_it_went_in(n_latents, k, width):
    """Wherever it is in its row, also in the columns that fill no group, and whatever follows it."""
    pre_BE = normal(n_latents * 2, n_latents)
    rows = torch.arange(n_latents)
    pre_BE[rows * 2, rows] = torch.nan
    pre_BE[100, 300], pre_BE[200, 5] = torch.inf, torch.inf
    values_BK, latents_BK = topk(pre_BE, k, width)
    assert bool(values_BK[::2].isnan().any(1).all())
    assert bool(((latents_BK >= 0) & (latents_BK < n_latents)).all())
    assert_as_by_sorting(pre_BE[1::2], k, (values_BK[1::2], latents_BK[1::2]))


@pytest.mark.parametrize("width", [None, 100, 600])
def test_a_row_depends_on_itself_alone(width):
    """Alone, or among others in another order, it gives the same bits in the same order."""
    pre_BE = rounded(130, 1640, 4)
    pre_BE[5, 7] = torch.nan
    whole, mixed_B = topk(pre_BE, 9, width), torch.randperm(130, generator=torch.Generator().manual_seed(1))
    for one, of_all in zip(topk(pre_BE[mixed_B], 9, width), whole, strict=True):
        assert torch.equal(one.nan_to_num(), of_all[mixed_B].nan_to_num())
    for row in range(0, 130, 13):
        for one, of_all in zip(topk(pre_BE[row : row + 1], 9, width), whole, strict=True):
            assert torch.equal(one[0], of_all[row])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("latents_at_once", "k"), [(70, 5), (50, 1), (50, 90), (600, 12), (1301, 12)])
def test_a_product_in_tiles(latents_at_once, k, dtype, monkeypatch):
    """Of whole numbers, so that no order of summing rounds, and of which many are equal."""
    monkeypatch.setattr(reference, "LATENTS_AT_ONCE", latents_at_once)
    x_BM, W_EM, b_E = (normal(*shape, seed=1, dtype=dtype).mul(2).round() for shape in ((30, 6), (1301, 6), (1, 1301)))
    b_E, buffer = b_E[0], x_BM.new_empty(1, 1301)
    blocks = reference.row_blocks(x_BM, buffer)
    assert len(blocks) > 1
    tiles = list(reference.latent_tiles(blocks[0], x_BM, W_EM, b_E, buffer))
    assert len(tiles) == -(-1301 // latents_at_once)
    assert_as_by_sorting(x_BM @ W_EM.T + b_E, k, cpu.row_topk_of_product(x_BM, W_EM, b_E, buffer, k))


def test_too_high_a_bound_would_be_seen(monkeypatch):
    """The next number above the k-th largest, in one row, whose k largest are all still to come."""
    pre_BE, take = normal(9, 640), cpu.RowTopK.take
    pre_BE[4] = pre_BE[4].sort().values
    assert_as_by_sorting(pre_BE, 8, topk(pre_BE, 8, 320))

    def too_high(self: cpu.RowTopK, *arguments: Any) -> None:
        take(self, *arguments)
        self._bounds[4] = torch.nextafter(pre_BE[4, -8], torch.tensor(torch.inf))

    monkeypatch.setattr(cpu.RowTopK, "take", too_high)
    with pytest.raises(AssertionError):
        assert_as_by_sorting(pre_BE, 8, topk(pre_BE, 8, 320))


def test_another_of_equal_values_would_be_seen():
    pre_BE = torch.ones(3, 640)
    values_BK, latents_BK = topk(pre_BE, 8, 64)
    latents_BK[1, int(latents_BK[1].argmax())] += 1
    with pytest.raises(AssertionError):
        assert_as_by_sorting(pre_BE, 8, (values_BK, latents_BK))
