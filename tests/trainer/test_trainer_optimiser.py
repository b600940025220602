import pytest
import torch

from pipeline.config.training import TrainingSettings
from pipeline.trainer.optimiser import (
    Adam,
    clip_coefficient,
    gradient_norm,
    project_decoder_gradient,
    renormalise_decoder,
)


@pytest.mark.parametrize("limit", [1.0, None])
@pytest.mark.parametrize("beta1", [0.9, 0.0])
def test_adam_equals_torch(limit, beta1):
    """1000 updates beside torch.optim.Adam and clip_grad_norm_, clip on and off, with rows that get no gradient."""
    settings = TrainingSettings(n_steps=1000, clip_norm=limit, beta1=beta1)
    generator = torch.Generator().manual_seed(0)
    shapes = {"W": (40, 8), "b": (40,)}
    ours = {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}
    theirs = {name: tensor.clone().requires_grad_() for name, tensor in ours.items()}
    adam = Adam.start(settings, ours)
    reference = torch.optim.Adam(theirs.values(), lr=1e-3, betas=(beta1, 0.999), eps=1e-8, fused=False, foreach=False)
    clipped = 0
    for step in range(1000):
        scale = 10.0 if step % 3 else 0.01
        gradients = {n: torch.randn(s, generator=generator, dtype=torch.float64) * scale for n, s in shapes.items()}
        gradients["W"][::5] = 0.0
        for name, tensor in theirs.items():
            tensor.grad = gradients[name].clone()
        if limit is not None:
            torch.nn.utils.clip_grad_norm_(theirs.values(), limit)
        reference.step()
        coefficient = clip_coefficient(float(gradient_norm(gradients)), limit)
        clipped += coefficient < 1
        adam.update(ours, gradients, step=step, rate=1e-3, coefficient=coefficient)
    assert (0 < clipped < 1000) if limit else clipped == 0
    for name, tensor in ours.items():
        # grad_scale is a float32 number, so float64 agrees to its precision only.
        torch.testing.assert_close(tensor, theirs[name].detach(), rtol=0, atol=2e-6 if limit else 1e-12)


def test_projected_gradient_is_orthogonal_to_each_row():
    generator = torch.Generator().manual_seed(1)
    W_dec = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    renormalise_decoder(W_dec)
    gradient = torch.randn(30, 8, generator=generator, dtype=torch.float64)
    kept = gradient.clone()
    project_decoder_gradient(gradient, W_dec)
    assert torch.linalg.vecdot(gradient, W_dec).abs().max() < 1e-5
    removed = kept - gradient
    along = removed / torch.linalg.vector_norm(removed, dim=1, keepdim=True)
    assert torch.allclose(torch.linalg.vecdot(along, W_dec).abs(), torch.ones(30, dtype=torch.float64))


def test_renormalised_rows_have_norm_one_and_a_zero_row_stays_finite():
    W_dec = torch.randn(5, 8, generator=torch.Generator().manual_seed(2))
    W_dec[3] = 0.0
    renormalise_decoder(W_dec)
    norms = torch.linalg.vector_norm(W_dec, dim=1)
    assert torch.allclose(norms, torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0]))


def test_clip_coefficient():
    assert clip_coefficient(0.5, 1.0) == 1.0
    assert clip_coefficient(4.0, 1.0) == 1.0 / (4.0 + 1e-6)
    assert clip_coefficient(4.0, None) == 1.0
