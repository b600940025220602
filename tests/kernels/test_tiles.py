"""Encoding tile by tile gives what encoding at once gives, for every architecture, also where terms ask for more."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels import tiles
from strata_sae.pipeline.kernels.selection import batch_topk
from strata_sae.pipeline.kernels.tiles import Tiles, batch_topk_of_tiles, row_topk_of_tiles
from strata_sae.pipeline.objective import Objective
from strata_sae.pipeline.saes.base import SAE, TiledEncoding, Workspace
from support.dense_saes import SAE_SETTINGS
from support.gradient_parity import make_sae, settings_of

B, E, M = 24, 48, 10
DENSITY = 0.5


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(Workspace, "tile_rows", 7)
    monkeypatch.setattr(SAE, "break_even_density", DENSITY)


def rows() -> Tensor:
    return torch.randn(B, M, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.mark.parametrize("architecture", SAE_SETTINGS)
def test_the_codes_are_the_same(architecture):
    sae, x_BM = make_sae(architecture), rows()
    at_once, tiled = sae.encode(x_BM), sae.encode(x_BM, workspace=Workspace())
    torch.testing.assert_close(tiled.codes.to_dense(), at_once.codes.to_dense())
    torch.testing.assert_close(tiled.pre_BE, at_once.pre_BE)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_these_leave_no_full_buffer(architecture):
    workspace = Workspace()
    encoding = make_sae(architecture).encode(rows(), workspace=workspace)
    assert isinstance(encoding, TiledEncoding)
    assert [tuple(buffer.shape) for buffer in workspace._buffers.values()] == [(7, E)]
    latents = torch.tensor([5, 2])
    torch.testing.assert_close(encoding.pre_of(latents), encoding.pre_BE[:, latents])


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
def test_terms_that_read_pre_activations_get_them(architecture):
    sae, x_BM = make_sae(architecture), rows()
    dead_E = torch.arange(E) % 3 == 0
    settings = settings_of(["reconstruction", "aux_k"])
    results = [Objective(settings, sae).forward_backward(x_BM, dead_E, 0.5, w) for w in (None, Workspace())]
    for name, gradient in results[0].gradients.items():
        torch.testing.assert_close(results[1].gradients[name], gradient)


def make_tiles(x_BM: Tensor, W_EM: Tensor) -> Tiles:
    return Tiles(x_BM, W_EM, W_EM.new_zeros(E), W_EM.new_empty(7, E))


@pytest.mark.parametrize("margin", [0.0, 0.9, 1.0, 1.5, 100.0])
@pytest.mark.parametrize("n_entries", [1, 30, 200])
def test_no_guess_changes_which_entries_of_the_batch_are_largest(n_entries, margin, monkeypatch):
    monkeypatch.setattr(tiles, "GUESS_MARGIN", margin)
    x_BM, W_EM = rows(), torch.randn(E, M, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x_BM[:7] *= 10  # the first tile, from which the guess comes, is another than the rest
    expected, _ = batch_topk(x_BM @ W_EM.T, n_entries, DENSITY)
    found = batch_topk_of_tiles(make_tiles(x_BM, W_EM), n_entries, DENSITY)
    assert found is not None
    torch.testing.assert_close(found.to_dense(), expected.to_dense())
    assert found.n_active() == n_entries


def test_fewer_positive_than_asked_for_are_all_there():
    x_BM, W_EM = rows(), -torch.ones(E, M, dtype=torch.float64)
    x_BM[:] = x_BM.abs()
    x_BM[20] *= -1
    found = batch_topk_of_tiles(make_tiles(x_BM, W_EM), 100, DENSITY)
    assert found is not None
    assert found.n_active() == E


def test_dense_codes_are_left_to_the_other_way():
    x_BM, W_EM = rows(), torch.ones(E, M, dtype=torch.float64)
    assert row_topk_of_tiles(make_tiles(x_BM, W_EM), E // 2 + 1, DENSITY) is None
    assert batch_topk_of_tiles(make_tiles(x_BM, W_EM), B * E // 2 + 1, DENSITY) is None


@pytest.mark.parametrize("n_bad", [1, B // 2, B])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_rows_that_are_no_numbers_end(bad, n_bad):
    x_BM, W_EM = rows(), torch.randn(E, M, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x_BM[:n_bad] = bad
    codes = batch_topk_of_tiles(
        make_tiles(x_BM, W_EM), 4 * B, DENSITY
    )  # a guess that is no number was lowered for ever
    assert codes is not None
    assert not bool(codes.to_dense()[:n_bad].isnan().any())
    codes = row_topk_of_tiles(make_tiles(x_BM, W_EM), 4, DENSITY)
    assert codes is not None
    assert bool(codes.to_dense()[:n_bad].isnan().any(1).all())
