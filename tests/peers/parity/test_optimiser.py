"""Project, clip, Adam and renormalise are ConstrainedAdam's and torch's Adam's, over 1000 random steps."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.trainer.optimiser import Adam, clip_coefficient, gradient_norm, radial_part

pytestmark = pytest.mark.peers

D_SAE, D_MODEL, STEPS = 48, 12, 1000
SILENT = slice(5, 9)
"""Rows whose gradient is always 0."""
RATE = 1e-3


def random_gradients(step: int, dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(step)
    size = 10.0 ** (torch.rand((), generator=generator, dtype=torch.float64) * 4 - 3)  # so that the clip comes and goes
    shapes = {"W_dec": (D_SAE, D_MODEL), "W_enc": (D_SAE, D_MODEL), "b_enc": (D_SAE,)}
    gradients = {n: size * torch.randn(s, generator=generator, dtype=torch.float64) for n, s in shapes.items()}
    for gradient in gradients.values():
        gradient[SILENT] = 0.0
        if step % 3:
            gradient[20:30] = 0.0
    return {name: gradient.to(dtype) for name, gradient in gradients.items()}


def start(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(-1)
    shapes = {"W_dec": (D_SAE, D_MODEL), "W_enc": (D_SAE, D_MODEL), "b_enc": (D_SAE,)}
    weights = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    weights["W_dec"] /= weights["W_dec"].norm(dim=1, keepdim=True)
    return {name: weight.to(dtype) for name, weight in weights.items()}


def ours(dtype: torch.dtype, **settings: float | None) -> dict[str, Tensor]:
    """The order of Trainee.update."""
    training = TrainingSettings(n_steps=STEPS, **settings)
    weights = start(dtype)
    adam = Adam.start(training, weights)
    for step in range(STEPS):
        gradients = random_gradients(step, dtype)
        radial = radial_part(gradients["W_dec"], weights["W_dec"], training.projection_epsilon)
        coefficient = clip_coefficient(float(gradient_norm(gradients, radial.square_without)), training.clip_norm)
        adam.update(weights, gradients, step=step, rate=RATE, coefficient=coefficient, radial=radial)
    return weights


def constrained_adam(dtype: torch.dtype, beta1: float) -> dict[str, Tensor]:
    """Their optimiser; its decoder is the transpose of ours."""
    from dictionary_learning.trainers.trainer import ConstrainedAdam

    weights = start(dtype)
    p = {name: torch.nn.Parameter(w.T.clone() if name == "W_dec" else w.clone()) for name, w in weights.items()}
    adam = ConstrainedAdam(p.values(), [p["W_dec"]], lr=RATE, betas=(beta1, 0.999))
    for step in range(STEPS):
        for name, gradient in random_gradients(step, dtype).items():
            p[name].grad = gradient.T.clone() if name == "W_dec" else gradient
        adam.step()
    return {name: q.detach().T if name == "W_dec" else q.detach() for name, q in p.items()}


def top_k_order(dtype: torch.dtype, beta1: float) -> dict[str, Tensor]:
    """Their TopK trainer's update, by its own functions."""
    from dictionary_learning.trainers.trainer import (
        remove_gradient_parallel_to_decoder_directions,
        set_decoder_norm_to_unit_norm,
    )

    weights = start(dtype)
    p = {name: torch.nn.Parameter(w.T.clone() if name == "W_dec" else w.clone()) for name, w in weights.items()}
    adam = torch.optim.Adam(p.values(), lr=RATE, betas=(beta1, 0.999))
    for step in range(STEPS):
        for name, gradient in random_gradients(step, dtype).items():
            p[name].grad = gradient.T.clone() if name == "W_dec" else gradient
        W_dec = p["W_dec"]
        W_dec.grad = remove_gradient_parallel_to_decoder_directions(W_dec, W_dec.grad, D_MODEL, D_SAE)
        torch.nn.utils.clip_grad_norm_(p.values(), 1.0)
        adam.step()
        W_dec.data = set_decoder_norm_to_unit_norm(W_dec, D_MODEL, D_SAE)
    return {name: q.detach().T if name == "W_dec" else q.detach() for name, q in p.items()}


def largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_constrained_adam(beta1: float) -> None:
    found = ours(torch.float64, clip_norm=None, projection_epsilon=0.0, beta1=beta1)
    gap = largest_difference(found, constrained_adam(torch.float64, beta1))
    print(f"ConstrainedAdam, beta1 {beta1}: {gap:.1e}")
    assert gap < 1e-12
    assert torch.equal(found["W_enc"][SILENT], start(torch.float64)["W_enc"][SILENT])


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_project_clip_adam_renormalise(beta1: float) -> None:
    gap = largest_difference(ours(torch.float64, beta1=beta1), top_k_order(torch.float64, beta1))
    print(f"TopK order, beta1 {beta1}: {gap:.1e}")
    assert gap < 1e-12


@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_in_float32(beta1: float) -> None:
    gap = largest_difference(ours(torch.float32, beta1=beta1), top_k_order(torch.float32, beta1))
    print(f"TopK order in float32, beta1 {beta1}: {gap:.1e}")
    assert gap < 2e-5


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize(
    ("setting", "value"),
    [("beta2", 0.998), ("epsilon", 1e-7), ("clip_norm", 1.001), ("clip_norm", None), ("projection_epsilon", 0.0)],
)
def test_another_constant_is_seen(setting: str, value: float | None) -> None:
    assert largest_difference(ours(torch.float64, **{setting: value}), top_k_order(torch.float64, 0.9)) > 1e-9
