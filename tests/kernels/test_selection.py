"""Selection against full sorts, with ties, wrong guesses and both layouts."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes, SparseCodes
from strata_sae.pipeline.kernels.selection import BREAK_EVEN_DENSITY, above, batch_topk, row_topk

DENSITY = {SparseCodes: 2.0, DenseCodes: -1.0}
"""A break-even density that no density exceeds, or that every density exceeds."""


@pytest.fixture(params=[SparseCodes, DenseCodes])
def layout(request):
    return request.param


def pre_activations(n_rows: int = 9, n_latents: int = 20, tied: bool = False) -> Tensor:
    pre_BE = torch.randn(n_rows, n_latents, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return (pre_BE * 2).round() / 2 if tied else pre_BE


def batch_topk_by_sorting(pre_BE: Tensor, n_entries: int) -> Tensor:
    """Stable sort of everything, then the first n_entries: of equal values the first in row order."""
    flat = pre_BE.relu().flatten()
    chosen = flat.sort(descending=True, stable=True).indices[:n_entries]
    return torch.zeros_like(flat).index_copy(0, chosen, flat[chosen]).view_as(pre_BE)


@pytest.mark.parametrize("k", [1, 3, 20])
def test_row_topk_equals_sorting_each_row(k, layout):
    pre_BE = pre_activations()
    expected_BE = torch.zeros_like(pre_BE)
    for row, expected in zip(pre_BE, expected_BE, strict=True):
        for latent in row.argsort(descending=True)[:k]:
            expected[latent] = max(float(row[latent]), 0.0)
    codes = row_topk(pre_BE, k, DENSITY[layout])
    assert isinstance(codes, DenseCodes if k == 20 else layout)
    assert torch.equal(codes.to_dense(), expected_BE)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("n_entries", [1, 9, 40, 85, 180])
@pytest.mark.parametrize("guess", [-1.0, 0.0, 0.5, 1.0, 100.0])
def test_batch_topk_equals_sorting_everything_whatever_the_guess(n_entries, tied, guess, layout):
    pre_BE = pre_activations(tied=tied)
    codes, cut = batch_topk(pre_BE, n_entries, DENSITY[layout], guess)
    assert isinstance(codes, layout)
    expected_BE = batch_topk_by_sorting(pre_BE, n_entries)
    assert torch.equal(codes.to_dense(), expected_BE)
    assert codes.n_active() == min(n_entries, int((pre_BE > 0).sum()))
    if codes.n_active() == n_entries and cut:
        assert cut == float(expected_BE[expected_BE > 0].min())


def test_ties_at_the_cut_stay_in_row_order(layout):
    codes, cut = batch_topk(torch.ones(4, 5), 7, DENSITY[layout])
    assert torch.equal(codes.to_dense().flatten(), (torch.arange(20) < 7).float())
    assert cut == 1.0


def test_the_cut_is_the_smallest_selected_value_and_a_good_next_guess():
    pre_BE = pre_activations()
    codes, cut = batch_topk(pre_BE, 18, BREAK_EVEN_DENSITY)
    assert cut == float(codes.values[codes.values > 0].min())
    again, _ = batch_topk(
        pre_BE, 18, BREAK_EVEN_DENSITY, guess=cut
    )  # leaves one candidate too few: the guess is exclusive
    assert torch.equal(again.to_dense(), codes.to_dense())


@pytest.mark.parametrize("threshold", [0.0, 0.7, torch.tensor(0.7, dtype=torch.float64), 100.0])
def test_above_is_strict(threshold, layout):
    pre_BE = pre_activations()
    pre_BE[0, 0] = 0.7
    codes = above(pre_BE, threshold, DENSITY[layout])
    assert isinstance(codes, layout) or codes.n_active() == 0
    assert torch.equal(codes.to_dense(), torch.where(pre_BE > threshold, pre_BE, 0.0))


def test_the_layout_follows_from_the_density_alone():
    pre_BE = torch.zeros(10, 100)
    pre_BE[:, :15] = 1.0
    assert isinstance(above(pre_BE, 0.0, 0.15), SparseCodes)
    assert isinstance(batch_topk(pre_BE, 150, 0.15)[0], SparseCodes)
    assert isinstance(row_topk(pre_BE, 15, 0.15), SparseCodes)
    pre_BE[0, 15] = 1.0
    assert isinstance(above(pre_BE, 0.0, 0.15), DenseCodes)
    assert isinstance(batch_topk(pre_BE, 151, 0.15)[0], DenseCodes)
    assert isinstance(row_topk(pre_BE, 16, 0.15), DenseCodes)
