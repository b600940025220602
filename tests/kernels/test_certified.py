"""The k largest from rounded products: rows that are said to be certain are right, and limits on rounding hold."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.bfloat16_topk import ROUNDED_UP
from strata_sae.pipeline.kernels.machine import cuda
from strata_sae.pipeline.kernels.machine.backend import BACKENDS, Backend
from strata_sae.pipeline.kernels.machine.reference import row_topk


@pytest.fixture(params=["cpu", "reference", "cuda"])
def backend(request, monkeypatch) -> Backend:
    """The GPU's operations, without Triton, on the CPU."""
    monkeypatch.setattr(cuda, "_has_triton", lambda: False)
    return BACKENDS[request.param]


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def certified(pre_BE: Tensor, slack: float, backend: Backend, k: int, most: int) -> tuple[Tensor, Tensor]:
    """Of values that are given, and products at most `slack` off: the latents found, and the rows that are certain.

    A latent's value in a row is what its weights have in the row's column.
    """
    n_rows = pre_BE.shape[0]
    off = (torch.rand(pre_BE.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1) * slack
    products = (pre_BE + off).bfloat16()
    x0_BM, slack_B, b_E = torch.eye(n_rows), torch.full((n_rows,), 2 * slack), torch.zeros(pre_BE.shape[1])
    weights = pre_BE.T.contiguous()
    values_BK, latents_BK, certain_B = backend.certified_topk(products, slack_B, x0_BM, weights, b_E, k, most)
    assert torch.equal(values_BK[certain_B], pre_BE.gather(1, latents_BK.where(certain_B[:, None], 0))[certain_B])
    return latents_BK.sort(dim=1).values, certain_B


@pytest.mark.parametrize("slack", [0.0, 0.01, 0.3])
@pytest.mark.parametrize(("n_latents", "k"), [(700, 6), (703, 1), (1603, 64), (90, 60)])
def test_rows_that_are_certain_are_right_and_others_say_so(backend, n_latents, k, slack):
    """Also those of great and of small numbers, of ties in bfloat16, and just below as many candidates as may be."""
    pre_BE = normal(150, n_latents, seed=4)
    pre_BE[50:] -= 2.0
    pre_BE[100:] = 1 + pre_BE[100:] * 2.0**-10
    expected = row_topk(pre_BE, k)[1].sort(dim=1).values
    for most in (k + 1, 2 * k, n_latents):
        latents_BK, certain_B = certified(pre_BE, slack, backend, k, most)
        assert torch.equal(latents_BK[certain_B], expected[certain_B])
        assert bool(certain_B.all()) or most < n_latents
        _, reference_B = certified(pre_BE, slack, BACKENDS["reference"], k, most)
        assert bool((reference_B | ~certain_B).all())


def test_products_further_off_than_the_slack_are_seen(backend):
    pre_BE = normal(150, 700, seed=4) - 2.0
    expected = row_topk(pre_BE, 6)[1].sort(dim=1).values
    products, W_EM = pre_BE.bfloat16(), pre_BE.T.contiguous()
    products[7, expected[7, 3]] = -1.0
    given = (torch.full((150,), 0.1), torch.eye(150), W_EM, torch.zeros(700), 6, 700)
    _, latents_BK, certain_B = backend.certified_topk(products, *given)
    wrong_B = (latents_BK.sort(dim=1).values != expected).any(1)
    assert bool(certain_B.all())
    assert torch.equal(wrong_B.nonzero().squeeze(1), torch.tensor([7]))


@pytest.mark.parametrize("n_columns", [1, 70, 4099])
def test_rows_are_rounded_to_the_nearest_and_their_norms_are_limits(backend, n_columns):
    """Also numbers half way between two, denormal ones, and ones that are too large; further columns stay."""
    rows = normal(300, n_columns, seed=6) * 10 ** torch.linspace(-12, 12, 300)[:, None]
    rows[1], rows[2], rows[3] = 1 + 2.0**-8, 1 + 3 * 2.0**-8, -1.0 - 2.0**-9
    rows[4], rows[5], rows[6], rows[7] = 1e-40, -0.0, torch.finfo(torch.float32).max, torch.inf
    rows[8, -1] = torch.nan
    rounded = torch.full((300, n_columns + 3), 5.0, dtype=torch.bfloat16)
    norm, lost = backend.round_rows(rows, rounded)
    finite = torch.arange(300) != 8
    assert torch.equal(rounded[finite, :n_columns].view(torch.int16), rows[finite].bfloat16().view(torch.int16))
    assert bool((rounded[:, n_columns:] == 5.0).all())
    assert not bool(lost[6:9].isfinite().any())
    norm, lost = (part.double() * ROUNDED_UP for part in (norm[9:], lost[9:]))
    after, before = rounded[9:, :n_columns].double(), rows[9:].double()
    for limit, exact in ((norm, after.norm(dim=1)), (lost, (before - after).norm(dim=1))):
        assert bool((limit >= exact).all())
        assert bool((limit <= exact * ROUNDED_UP**2).all())
