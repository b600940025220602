"""One update of a matrix is PyTorch's AdamW, with projection, clip and rows of norm 1, in float64 and in float32."""

from types import ModuleType

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.kernels.machine import cpu, reference
from strata_sae.pipeline.kernels.machine.reference import AdamStep

E, M = 300, 18


@pytest.fixture(params=[cpu, reference], ids=["cpu", "reference"])
def backend(request) -> ModuleType:
    return request.param


def random(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_of_rows_equal_the_reference(backend, dtype):
    gradient, W = random(E, M, seed=7, dtype=dtype), random(E, M, seed=8, dtype=dtype)
    gradient[3], W[4] = 0.0, 0.0
    for one, other in zip(backend.row_products(gradient, W), reference.row_products(gradient, W), strict=True):
        torch.testing.assert_close(one, other)
    whole = (gradient.mul(9).round(), W.mul(9).round())
    for one, other in zip(backend.row_products(*whole), reference.row_products(*whole), strict=True):
        assert torch.equal(one, other)


def adam_by_torch(
    W: Tensor, gradients: list[Tensor], along: list[Tensor] | None, coefficient: float, decay: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """PyTorch's AdamW in float64, one update a gradient. Returns: the weights and both memories."""
    W = W.double().clone().requires_grad_()
    adam = torch.optim.AdamW([W], lr=0.01, betas=(0.8, 0.999), eps=1e-3, weight_decay=decay, foreach=False)
    for number, gradient in enumerate(gradients):
        W.grad = gradient.double().clone()
        if along is not None:
            W.grad -= along[number].double()[:, None] * W.detach()
        W.grad *= coefficient
        adam.step()
        if along is not None:
            W.data /= torch.linalg.vector_norm(W.data, dim=1, keepdim=True)
    return W.detach(), adam.state[W]["exp_avg"], adam.state[W]["exp_avg_sq"]


def adam_by_backend(
    backend: ModuleType,
    W: Tensor,
    gradients: list[Tensor],
    along: list[Tensor] | None,
    coefficient: float,
    decay: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same by a backend, in W's dtype."""
    W, mean, square = W.clone(), torch.zeros_like(W), torch.zeros_like(W)
    for number, gradient in enumerate(gradients):
        step = AdamStep(number + 1, 0.01, 0.8, 0.999, 1e-3, coefficient, 1 - 0.01 * decay)
        backend.adam(W, gradient.clone(), mean, square, step, None if along is None else along[number])
    return W, mean, square


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("along", [False, True])
@pytest.mark.parametrize("coefficient", [1.0, 0.3])
@pytest.mark.parametrize("decay", [0.0, 0.3])
@pytest.mark.parametrize("shape", [(E, M), (1, 1), (M,)])
def test_adam_equals_torch(backend, dtype, along, coefficient, decay, shape):
    W, gradients = random(*shape, seed=9, dtype=dtype), [random(*shape, seed=10 + n, dtype=dtype) for n in range(5)]
    if along and len(shape) == 1:
        pytest.skip("only a matrix has rows")
    parts = [random(shape[0], seed=20 + n, dtype=dtype) for n in range(5)] if along else None
    found = adam_by_backend(backend, W, gradients, parts, coefficient, decay)
    expected = adam_by_torch(W, gradients, parts, coefficient, decay)
    tolerance = {torch.float32: 2e-6, torch.float64: 1e-13}[dtype]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, rtol=tolerance, atol=tolerance * float(other.abs().max()))
    if along:
        norms = torch.linalg.vector_norm(found[0], dim=1)
        torch.testing.assert_close(norms, torch.ones_like(norms))


@pytest.mark.parametrize("wrong", ["coefficient", "along", "update", "row", "decay"])
def test_a_wrong_update_is_seen(backend, wrong):
    W, gradients = random(E, M, seed=9), [random(E, M, seed=10 + n) for n in range(2)]
    parts = [random(E, seed=20 + n) for n in range(2)]
    expected = adam_by_torch(W, gradients, parts, 0.3)[0]
    if wrong == "along":
        parts[1][7] += 1e-6
    if wrong == "row":
        gradients[1][7] = gradients[1][8]
    given = gradients[:1] if wrong == "update" else gradients
    found = adam_by_backend(backend, W, given, parts, 0.3 + 1e-6 * (wrong == "coefficient"), 1e-6 * (wrong == "decay"))[
        0
    ]
    assert float((found - expected).abs().max()) > 1e-10
