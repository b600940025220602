from collections.abc import Iterator
from functools import cache

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.kernels.machine.backend import using
from strata_sae.pipeline.trainer.optimiser import Adam, clip_coefficient, gradient_norm, radial_part

SHAPES = {"W_dec": (40, 8), "W_enc": (40, 8), "b_enc": (40,)}
STEPS, RATE = 1000, 1e-3


@pytest.fixture(params=["cpu", "reference"], autouse=True)
def backend(request) -> Iterator[None]:
    with using(request.param):
        yield


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def unit_rows(matrix: Tensor) -> Tensor:
    return matrix / torch.linalg.vector_norm(matrix, dim=1, keepdim=True)


def start() -> dict[str, Tensor]:
    weights = {name: normal(*shape, seed=number) for number, (name, shape) in enumerate(SHAPES.items())}
    return weights | {"W_dec": unit_rows(weights["W_dec"])}


@cache
def random_gradients(step: int) -> dict[str, Tensor]:
    """Large in two steps of three, so that the clip comes and goes; 0 in every fifth row."""
    scale = 10.0 if step % 3 else 0.01
    gradients = {name: scale * normal(*shape, seed=1000 * step + len(name)) for name, shape in SHAPES.items()}
    for gradient in gradients.values():
        gradient[::5] = 0.0
    return gradients


def without_radial_part(gradient: Tensor, W_dec: Tensor, epsilon: float) -> Tensor:
    directions = W_dec / (torch.linalg.vector_norm(W_dec, dim=1, keepdim=True) + epsilon)
    return gradient - (gradient * directions).sum(1, keepdim=True) * directions


@cache
def by_torch(limit: float | None, beta1: float, order: str | None, epsilon: float = 1e-6) -> dict[str, Tensor]:
    """Its Adam and its clip, in float64. order: of projecting and clipping; None for a free decoder."""
    p = {name: weight.requires_grad_() for name, weight in start().items()}
    adam = torch.optim.Adam(p.values(), lr=RATE, betas=(beta1, 0.999), eps=1e-8, fused=False, foreach=False)
    for step in range(STEPS):
        for name, gradient in random_gradients(step).items():
            p[name].grad = gradient.clone()
        for work in {"project_clip": "pc", "clip_project": "cp", None: "c"}[order]:
            if work == "c" and limit is not None:
                torch.nn.utils.clip_grad_norm_(p.values(), limit)
            if work == "p":
                p["W_dec"].grad = without_radial_part(p["W_dec"].grad, p["W_dec"].detach(), epsilon)
        adam.step()
        if order is not None:
            p["W_dec"].data = unit_rows(p["W_dec"].data)
    return {name: q.detach() for name, q in p.items()}


def ours(limit: float | None, beta1: float, order: str | None, epsilon: float = 1e-6) -> tuple[dict[str, Tensor], int]:
    """As `Trainee.update` goes about it. Returns: the weights, and in how many steps the clip cut."""
    settings = TrainingSettings(n_steps=STEPS, clip_norm=limit, beta1=beta1)
    weights, clipped = start(), 0
    adam = Adam.start(settings, weights)
    for step in range(STEPS):
        gradients = {name: gradient.clone() for name, gradient in random_gradients(step).items()}
        radial, square = None, None
        if order is not None:
            radial = radial_part(gradients["W_dec"], weights["W_dec"], epsilon)
            square = radial.square_without if order == "project_clip" else radial.square
        coefficient = clip_coefficient(float(gradient_norm(gradients, square)), limit)
        clipped += coefficient < 1
        adam.update(weights, gradients, step=step, rate=RATE, coefficient=coefficient, radial=radial)
    return weights, clipped


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in SHAPES)


@pytest.mark.parametrize(("limit", "beta1"), [(1.0, 0.9), (1.0, 0.0), (None, 0.9)])
@pytest.mark.parametrize("order", ["project_clip", "clip_project", None])
def test_1000_updates_equal_torch(limit, beta1, order):
    """Clip on and off, in either order, with and without unit norms, with rows that get no gradient."""
    found, clipped = ours(limit, beta1, order)
    assert (0 < clipped < STEPS) if limit else clipped == 0
    assert largest_difference(found, by_torch(limit, beta1, order)) < 1e-11
    assert torch.equal(found["W_enc"][::5], start()["W_enc"][::5])
    if order is not None:
        torch.testing.assert_close(found["W_dec"], unit_rows(found["W_dec"]), rtol=0, atol=1e-15)


@pytest.mark.parametrize(
    ("limit", "order", "epsilon"),
    [(1.001, "project_clip", 1e-6), (1.0, "clip_project", 1e-6), (1.0, None, 1e-6), (1.0, "project_clip", 0.0)],
)
def test_another_limit_order_or_epsilon_is_seen(limit, order, epsilon):
    assert largest_difference(ours(limit, 0.9, order, epsilon)[0], by_torch(1.0, 0.9, "project_clip")) > 1e-9


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-14)])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_the_radial_part_is_all_that_changes_norms(dtype, tolerance, epsilon):
    W_dec, gradient = unit_rows(normal(30, 8, seed=1, dtype=dtype)), normal(30, 8, seed=2, dtype=dtype)
    gradient[3] = 0.0
    radial = radial_part(gradient, W_dec, epsilon)
    assert radial.along_E.dtype == dtype
    left = gradient - radial.along_E[:, None] * W_dec
    assert float(torch.linalg.vecdot(left, W_dec).abs().max()) < tolerance + 10 * epsilon
    exact = without_radial_part(gradient.double(), W_dec.double(), epsilon)
    torch.testing.assert_close(left.double(), exact, rtol=0, atol=tolerance)
    for square, of in ((radial.square, gradient), (radial.square_without, exact)):
        torch.testing.assert_close(square, of.double().square().sum(), rtol=tolerance, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_norm_of_all_gradients_takes_the_decoders_as_known(dtype):
    gradients = {name: normal(*shape, seed=5, dtype=dtype) for name, shape in SHAPES.items()}
    radial = radial_part(gradients["W_dec"], unit_rows(normal(40, 8, seed=1, dtype=dtype)))
    whole = torch.cat([gradient.double().flatten() for gradient in gradients.values()]).norm()
    torch.testing.assert_close(gradient_norm(gradients), whole, rtol=1e-6, atol=0.0)
    torch.testing.assert_close(gradient_norm(gradients, radial.square), whole, rtol=1e-6, atol=0.0)
    smaller = (whole.square() - radial.square + radial.square_without).sqrt()
    torch.testing.assert_close(gradient_norm(gradients, radial.square_without), smaller, rtol=1e-6, atol=0.0)
    assert float(smaller) < 0.99 * float(whole)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_updated_rows_have_norm_one_and_a_zero_row_stays_finite(dtype):
    weights = {"W_dec": normal(5, 8, seed=2, dtype=dtype)}
    weights["W_dec"][3] = 0.0
    gradients = {"W_dec": normal(5, 8, seed=3, dtype=dtype)}
    gradients["W_dec"][3] = 0.0
    adam = Adam.start(TrainingSettings(n_steps=1), weights)
    radial = radial_part(gradients["W_dec"], weights["W_dec"])
    adam.update(weights, gradients, step=0, rate=RATE, coefficient=1.0, radial=radial)
    norms = torch.linalg.vector_norm(weights["W_dec"], dim=1)
    torch.testing.assert_close(norms, torch.tensor([1, 1, 1, 0, 1], dtype=dtype))


def test_clip_coefficient():
    assert clip_coefficient(0.5, 1.0) == 1.0
    assert clip_coefficient(4.0, 1.0) == 1.0 / (4.0 + 1e-6)
    assert clip_coefficient(4.0, None) == 1.0
