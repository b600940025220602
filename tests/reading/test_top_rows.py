"""Which latents are shown, and on which rows."""

import pytest
import torch

from strata_sae.pipeline.kernels.codes import DenseCodes
from strata_sae.pipeline.reading.top_rows import TopRows, choose_latents


def test_latents_are_spread_over_the_ranks_of_density():
    active_rows_E = torch.tensor([0, 100, 7, 50, 3, 900, 20, 1])
    assert choose_latents(active_rows_E, 3, 3) == [1, 6, 4]  # candidates, densest first: 5 1 3 6 2 4
    assert choose_latents(active_rows_E, 100, 3) == [5, 1, 3, 6, 2, 4]
    assert choose_latents(active_rows_E, 2, 1000) == []
    assert choose_latents(active_rows_E, 0, 3) == []


def test_latents_of_equal_density_rank_by_number():
    assert choose_latents(torch.full((10,), 5), 5, 1) == [1, 3, 5, 7, 9]


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("batch", [1, 13, 200])
def test_top_rows_equal_a_sort_of_the_whole_split(batch, sparse):
    generator = torch.Generator().manual_seed(0)
    values_BE = (torch.randint(-20, 20, (200, 12), generator=generator) / 8).relu()  # many ties, many zeros
    values_BE[:, 4] = 0.0
    values_BE[3, 4] = 1.0
    numbers_B = 5000 + 3 * torch.arange(200)
    top = TopRows([4, 7, 0], 6, 12, torch.device("cpu"))
    for start in range(0, 200, batch):
        codes = DenseCodes(values_BE[start : start + batch])
        top.update(codes.to_sparse() if sparse else codes, numbers_B[start : start + batch])
    for latent, found in top.found().items():
        ranked = sorted(((-value, row) for row, value in enumerate(values_BE[:, latent].tolist()) if value > 0))[:6]
        assert found == [(5000 + 3 * row, -value) for value, row in ranked]
    assert len(top.found()[4]) == 1
