"""Bfloat16 products find the same latents as float32 ones: the bound holds, and rows in doubt are computed in full."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.bfloat16_topk import Bfloat16Encoder, round_rows
from strata_sae.pipeline.kernels.machine import cuda
from strata_sae.pipeline.kernels.machine.backend import using
from strata_sae.pipeline.kernels.machine.reference import row_topk
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.saes.topk import TopK

B, E, M, K = 60, 700, 70, 6


@pytest.fixture(params=["cpu", "reference", "cuda"], autouse=True)
def backend(request, monkeypatch) -> Iterator[str]:
    """The GPU's operations, without Triton, on the CPU."""
    monkeypatch.setattr(cuda, "_has_triton", lambda: False)
    with using(request.param):
        yield request.param


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(bias: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and latents of very different norms."""
    x_BM = normal(B, M, seed=0) * 10 ** torch.linspace(-4, 4, B)[:, None]
    return (
        x_BM,
        normal(E, M, seed=1) * (0.3 + torch.rand(E, 1, generator=torch.Generator().manual_seed(2))),
        bias * normal(E, seed=3),
    )


class Product:
    """The float32 product, which counts the rows it is asked for."""

    def __init__(self, W_EM: Tensor, b_E: Tensor):
        self.W_EM, self.b_E, self.n_rows = W_EM, b_E, 0

    def __call__(self, x_BM: Tensor) -> Tensor:
        self.n_rows += x_BM.shape[0]
        return torch.addmm(self.b_E, x_BM, self.W_EM.T)


def found(x_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int = K) -> tuple[Tensor, Tensor, int]:
    product = Product(W_EM, b_E)
    values_BK, latents_BK = Bfloat16Encoder(W_EM, b_E).row_topk(x_BM, k, product)
    return values_BK, latents_BK.sort(dim=1).values, product.n_rows


def exact(x_BM: Tensor, W_EM: Tensor, b_E: Tensor, k: int = K) -> Tensor:
    """In float64, by sorting."""
    return row_topk(torch.addmm(b_E.double(), x_BM.double(), W_EM.double().T), k)[1].sort(dim=1).values


@pytest.mark.parametrize("bias", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("k", [1, K, 20])
def test_the_same_latents_as_in_float64(k, bias):
    x_BM, W_EM, b_E = planted(bias)
    values_BK, latents_BK, n_full = found(x_BM, W_EM, b_E, k)
    assert torch.equal(latents_BK, exact(x_BM, W_EM, b_E, k))
    pre_BK = torch.addmm(b_E, x_BM, W_EM.T).gather(1, latents_BK)
    torch.testing.assert_close(values_BK.sort(1).values, pre_BK.sort(1).values, rtol=1e-5, atol=1e-4)
    assert n_full < B / 2 or k == 1


def test_plain_bfloat16_finds_others():
    x_BM, W_EM, b_E = planted()
    plain = torch.addmm(b_E.bfloat16(), x_BM.bfloat16(), W_EM.bfloat16().T).float()
    assert int((row_topk(plain, K)[1].sort(1).values != exact(x_BM, W_EM, b_E)).any(1).sum()) > 3


def test_order_that_bfloat16_cannot_see_is_found():
    W_EM = normal(E, M, seed=1) * 0.01
    rivals = torch.arange(0, E, E // (K + 4))[: K + 4]
    W_EM[rivals] = 1.0 + rivals[:, None] * 2.0**-20  # one and the same in bfloat16; the last are the largest
    x_BM, b_E = torch.ones(5, M), torch.zeros(E)
    _, latents_BK, n_full = found(x_BM, W_EM, b_E)
    assert torch.equal(latents_BK, rivals[4:].expand(5, K))
    assert n_full == 0


def test_rows_with_too_many_candidates_are_computed_in_full():
    x_BM, W_EM, b_E = planted(bias=0.0)
    x_BM = torch.nn.functional.normalize(x_BM, dim=1)
    W_EM[:, 0] = 100.0
    x_BM[:, 0] = 0.0
    x_BM[10:13] = torch.eye(M)[0]  # all latents the same to within the bound
    W_EM[:, 0] += torch.linspace(0, 0.01, E)
    _, latents_BK, n_full = found(x_BM, W_EM, b_E)
    assert n_full >= 3
    assert torch.equal(latents_BK[10:13], torch.arange(E - K, E).expand(3, K))


def test_rows_that_are_nan_or_0_are_computed_in_full(backend):
    x_BM, W_EM, b_E = planted(bias=0.0)
    x_BM[1], x_BM[2] = torch.nan, 0.0
    values_BK, latents_BK, n_full = found(x_BM, W_EM, b_E)
    assert n_full >= 2
    assert bool(values_BK[1].isnan().all())
    assert bool((values_BK[2] == 0).all())
    assert backend == "cuda" or torch.equal(latents_BK[2], torch.arange(K))  # there, any of equal values may stay


def errors(x_BM: Tensor, W_EM: Tensor, b_E: Tensor) -> tuple[Tensor, Tensor]:
    """Largest error of each row's products before they are rounded, and the bound."""
    encoder = Bfloat16Encoder(W_EM, b_E)
    rounded = round_rows(x_BM, [torch.ones(x_BM.shape[0], dtype=torch.bfloat16)] * 2)
    products_BE = rounded.matrix.float() @ encoder.rounded.matrix.float().T
    exact_BE = torch.addmm(b_E.double(), x_BM.double(), W_EM.double().T)
    return (products_BE - exact_BE).abs().amax(1), encoder.error(rounded)


def test_the_bound_holds_and_is_not_far():
    error_B, bound_B = errors(*planted())
    assert bool((error_B <= bound_B).all())
    assert bool((error_B > bound_B / 50).all())


def test_the_bound_is_reached_by_rows_made_for_it():
    lost = 1 + 2.0**-8  # half way between two neighbours in bfloat16
    error_B, bound_B = errors(torch.full((1, M), lost), torch.full((E, M), lost), torch.zeros(E))
    assert bool(error_B <= bound_B)
    assert float(error_B) > 0.9 * float(bound_B)


def test_without_the_bound_latents_are_missed(monkeypatch):
    """Where the k-th largest is about 0, so that the margin for rounding the product, relative to it, is nothing."""
    x_BM, W_EM = normal(1000, M, seed=0), normal(E, M, seed=1)
    b_E = torch.full((E,), -float((x_BM @ W_EM.T).topk(K, dim=1).values[:, -1].mean()))
    assert torch.equal(found(x_BM, W_EM, b_E)[1], exact(x_BM, W_EM, b_E))
    monkeypatch.setattr(Bfloat16Encoder, "error", lambda self, rounded: 0 * rounded.norm)
    assert not torch.equal(found(x_BM, W_EM, b_E)[1], exact(x_BM, W_EM, b_E))


def test_an_sae_encodes_the_same(monkeypatch):
    monkeypatch.setattr(Workspace, "tile_rows", 16)
    x_BM, W_EM, b_E = planted()
    settings = TopK.Settings(d_sae=E, k=K)
    weights = {"W_enc": W_EM, "W_dec": W_EM.clone(), "b_enc": b_E, "b_dec": torch.zeros(M)}
    sae = TopK(settings, M, weights)
    usual = sae.encode(x_BM, workspace=Workspace()).codes.to_dense()
    by_bfloat16 = sae.encode(x_BM, workspace=Workspace("certified_bfloat16")).codes.to_dense()
    assert torch.equal(by_bfloat16 > 0, usual > 0)
    torch.testing.assert_close(by_bfloat16, usual, rtol=1e-5, atol=1e-3)
