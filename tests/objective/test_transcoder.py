"""Gradients where what is reconstructed is not what is read: every architecture and term, against dense autograd."""

import pytest
import torch

from strata_sae.pipeline.objective import TERMS, Objective
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import value_at
from support.dense_saes import ENCODERS, SAE_SETTINGS
from support.dense_terms import FITS, LOSSES, SAE_CHANGES, At
from support.gradient_parity import BATCH, D_MODEL, D_SAE, PROGRESS, TOLERANCE, largest_difference, settings_of

D_IN = 7


def make_transcoder(architecture: str, **options) -> SAE:
    generator = torch.Generator().manual_seed(1)
    merged = {"d_sae": D_SAE, "pre_bias": False, "initial": {"encoder": "independent"}}
    settings = ARCHITECTURES[architecture].Settings.model_validate({**merged, **SAE_SETTINGS[architecture], **options})
    weights = {name: w.double() for name, w in initial_weights(settings, D_MODEL, generator, D_IN).items()}
    sae = ARCHITECTURES[architecture](settings, D_MODEL, weights, D_IN)
    for name, parameter in sae.parameters().items():
        if name != "W_dec" or settings.decoder == "free":
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    sae.constrain()
    return sae


def rows(seed: int, width: int) -> torch.Tensor:
    return torch.randn(BATCH, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(sae: SAE, settings, x_BM, target_BM, dead_E):
    p = {name: w.clone().requires_grad_() for name, w in sae.parameters().items()}
    at = At(target_BM, ENCODERS[sae.settings.architecture](x_BM, p, sae.settings), dead_E, p, PROGRESS)
    losses = {
        name: value_at(options.weight, PROGRESS) * LOSSES[name](at, options) for name, options in settings.items()
    }
    gradients = torch.autograd.grad(sum(losses.values()), list(p.values()), allow_unused=True)
    return losses, {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(p.items(), gradients, strict=True)}


@pytest.mark.parametrize(
    ("architecture", "term"), [(a, t) for a in ARCHITECTURES for t in TERMS if ARCHITECTURES[a].learns and a in FITS[t]]
)
def test_gradients_equal_autograd_with_another_target(architecture, term):
    sae = make_transcoder(architecture, **{**SAE_CHANGES.get(term, {}), "pre_bias": False})
    settings = settings_of([term] if TERMS[term].reconstructs else ["reconstruction", term])
    x_BM, target_BM = rows(2, D_IN), rows(3, D_MODEL)
    dead_E = torch.zeros(D_SAE, dtype=torch.bool)
    fires_E = (sae.encode(x_BM, fraction_done=PROGRESS).codes.to_dense() > 0).sum(0)
    dead_E[fires_E.argsort(stable=True)[:12]] = True
    result = Objective(settings, sae).forward_backward(x_BM, dead_E, PROGRESS, target_BM=target_BM)
    losses, gradients = reference(sae, settings, x_BM, target_BM, dead_E)
    for name, expected in losses.items():
        torch.testing.assert_close(result.losses[name], expected.detach(), rtol=TOLERANCE, atol=0)
    assert largest_difference(result.gradients, gradients) < TOLERANCE
    other = reference(sae, settings, x_BM, target_BM.flip(0), dead_E)[1]  # control: the target is seen
    assert largest_difference(result.gradients, other) > 1e-3


def test_the_penalty_per_site_is_the_sum_of_the_sites_norms():
    """Lindsey et al. 2024: sum of codes times the sum over sites of the norm of the row's part there."""
    sae = make_transcoder("relu", decoder="free")
    sae.blocks = [4, D_MODEL - 4]
    x_BM, target_BM = rows(2, D_IN), rows(3, D_MODEL)
    for per_site in (True, False):
        settings = settings_of(["reconstruction", "l1_decoder_norm"], l1_decoder_norm={"per_site": per_site})
        result = Objective(settings, sae).forward_backward(x_BM, None, PROGRESS, target_BM=target_BM)
        p = {name: w.clone().requires_grad_() for name, w in sae.parameters().items()}
        codes_BE = (x_BM @ p["W_enc"].T + p["b_enc"]).relu()
        parts = p["W_dec"].split(sae.blocks, dim=1) if per_site else [p["W_dec"]]
        penalty = (codes_BE * sum(part.norm(dim=1) for part in parts)).sum(1).mean()
        error = (codes_BE @ p["W_dec"] + p["b_dec"] - target_BM).square().sum(1).mean()
        weights = [value_at(options.weight, PROGRESS) for options in settings.values()]
        loss = weights[0] * error + weights[1] * penalty
        gradients = dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))
        torch.testing.assert_close(result.loss, loss.detach(), rtol=TOLERANCE, atol=0)
        assert largest_difference(result.gradients, gradients) < TOLERANCE


def test_unequal_widths_need_an_encoder_of_their_own():
    settings = ARCHITECTURES["topk"].Settings(d_sae=D_SAE, k=4)
    with pytest.raises(ValueError, match=r"set sae\.initial\.encoder to independent"):
        initial_weights(settings, D_MODEL, torch.Generator(), D_IN)
    sae = make_transcoder("topk")
    with pytest.raises(ValueError, match="set it to false"):
        type(sae)(sae.settings.model_copy(update={"pre_bias": True}), D_MODEL, sae.parameters(), D_IN)
