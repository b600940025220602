"""One step of an objective against autograd of the dense references: planted inputs and the comparison."""

import torch
from torch import Tensor

from strata_sae.pipeline.objective import TERMS, Objective, StepResult
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import value_at
from support.dense_saes import ENCODERS, SAE_SETTINGS, Parameters
from support.dense_terms import LOSSES, TERM_SETTINGS, At

BATCH, D_MODEL, D_SAE = 24, 10, 48
PROGRESS = 0.3
TOLERANCE = 1e-12


def make_sae(architecture: str, **options) -> SAE:
    generator = torch.Generator().manual_seed(1)
    sae_class = ARCHITECTURES[architecture]
    settings = sae_class.Settings(**{"d_sae": D_SAE, **SAE_SETTINGS[architecture], **options})
    weights = {name: w.double() for name, w in initial_weights(settings, D_MODEL, generator).items()}
    sae = sae_class(settings, D_MODEL, weights)
    for name, parameter in sae.parameters().items():
        if sae.learns and (name != "W_dec" or settings.decoder == "free"):
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    sae.constrain()
    return sae


def make_rows() -> Tensor:
    return torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def dead_latents(sae: SAE, x_BM: Tensor, n: int) -> Tensor:
    """The n latents that are active least often, declared dead."""
    codes_BE = sae.encode(x_BM, fraction_done=PROGRESS).codes.to_dense()
    dead_E = torch.zeros(sae.d_sae, dtype=torch.bool)
    dead_E[(codes_BE > 0).sum(0).argsort(stable=True)[:n]] = True
    return dead_E


def settings_of(terms: list[str], **changes) -> dict[str, TermSettings]:
    return {name: TERMS[name].Settings(**{**TERM_SETTINGS[name], **changes.get(name, {})}) for name in terms}


def reference(sae: SAE, settings, x_BM: Tensor, dead_E: Tensor | None) -> tuple[dict[str, Tensor], Parameters]:
    """Losses and gradients by autograd, every matrix dense."""
    p = {name: w.clone().requires_grad_() for name, w in sae.parameters().items()}
    at = At(x_BM, ENCODERS[sae.settings.architecture](x_BM, p, sae.settings), dead_E, p, PROGRESS)
    losses = {name: value_at(term.weight, PROGRESS) * LOSSES[name](at, term) for name, term in settings.items()}
    gradients = torch.autograd.grad(sum(losses.values()), list(p.values()), allow_unused=True)
    return losses, {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(p.items(), gradients, strict=True)}


def largest_difference(found: Parameters, expected: Parameters) -> float:
    """Over all parameters, the largest difference relative to the parameter's largest gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max().clamp(min=1e-30)) for n in expected)


def step(settings, sae: SAE, x_BM: Tensor, dead_E: Tensor | None = None, *, monitored: bool = False) -> StepResult:
    return Objective(settings, sae).forward_backward(x_BM, dead_E, PROGRESS, monitored=monitored)


def assert_equal_to_reference(sae: SAE, settings, dead_E: Tensor | None = None) -> None:
    x_BM = make_rows()
    result = step(settings, sae, x_BM, dead_E)
    losses, gradients = reference(sae, settings, x_BM, dead_E)
    for name, expected in losses.items():
        torch.testing.assert_close(result.losses[name], expected.detach(), rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(result.loss, sum(losses.values()).detach(), rtol=TOLERANCE, atol=0)
    assert largest_difference(result.gradients, gradients) < TOLERANCE
