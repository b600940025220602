"""What a logged step tells of each term, against autograd of each term alone; and that measuring changes no bit."""

from itertools import pairwise

import pytest
import torch

from strata_sae.pipeline.objective import TERMS, Objective
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.schedules import value_at
from support.dense_saes import ENCODERS
from support.dense_terms import FITS, LOSSES, At
from support.gradient_parity import PROGRESS, dead_latents, make_rows, make_sae, reference, settings_of, step

ALL_TERMS = {
    "topk": ["reconstruction", "aux_k", "multi_k", "orthogonality", "ort_sae"],
    "batch_topk": ["prefix_reconstruction", "aux_k", "orthogonality"],
    "relu": ["reconstruction", "l1", "lp", "orthogonality", "ort_sae", "ghost_gradients"],
    "gated": ["reconstruction", "gated_auxiliary", "l1", "orthogonality"],
    "jump_relu": ["reconstruction", "l0", "l1", "pre_activation", "orthogonality"],
    "two_child_topk": ["reconstruction", "two_child_cosine", "orthogonality"],
}
OPTIONS = {"topk": {"orthogonality": {"on": "activations"}}}


def case(architecture: str):
    sae = make_sae(architecture)
    return (
        sae,
        settings_of(ALL_TERMS[architecture], **OPTIONS.get(architecture, {})),
        dead_latents(sae, make_rows(), 12),
    )


@pytest.mark.parametrize("density", [2.0, -1.0])
@pytest.mark.parametrize("architecture", ALL_TERMS)
def test_norms_and_shares_equal_autograd_of_each_term_alone(architecture, density, monkeypatch):
    monkeypatch.setattr("strata_sae.pipeline.saes.base.SAE.break_even_density", density)
    sae, settings, dead_E = case(architecture)
    assert all(architecture in FITS[name] for name in settings)
    monitors = step(settings, sae, make_rows(), dead_E, monitored=True).monitors
    losses, whole = reference(sae, settings, make_rows(), dead_E)
    for name, term in settings.items():
        p = {key: w.clone().requires_grad_() for key, w in sae.parameters().items()}
        at = At(make_rows(), ENCODERS[architecture](make_rows(), p, sae.settings), dead_E, p, PROGRESS)
        loss = value_at(term.weight, PROGRESS) * LOSSES[name](at, term)
        found = torch.autograd.grad(loss, list(p.values()), allow_unused=True)
        own = {key: torch.zeros_like(w) if g is None else g for (key, w), g in zip(p.items(), found, strict=True)}
        norm = float(torch.cat([gradient.flatten() for gradient in own.values()]).norm())
        assert norm > 0
        assert float(monitors[f"gradient_norm/{name}"]) == pytest.approx(norm, rel=1e-10)
        share = float(own["W_dec"].norm() / whole["W_dec"].norm())
        assert float(monitors[f"{name}/gradient_share"]) == pytest.approx(share, rel=1e-10, abs=1e-15)
        expected = float(losses[name].detach() / sum(abs(one.detach()) for one in losses.values()))
        assert float(monitors[f"{name}/loss_share"]) == pytest.approx(expected, rel=1e-10)
        assert monitors[f"{name}/weight"] == value_at(term.weight, PROGRESS)


def test_control_no_two_terms_of_a_case_have_the_same_norm():
    """Or a norm under another term's name would not be seen."""
    for architecture in ALL_TERMS:
        sae, settings, dead_E = case(architecture)
        monitors = step(settings, sae, make_rows(), dead_E, monitored=True).monitors
        norms = sorted(float(monitors[f"gradient_norm/{name}"]) for name in settings)
        assert all(b > 1.001 * a for a, b in pairwise(norms)), architecture


@pytest.mark.parametrize("density", [2.0, -1.0])
@pytest.mark.parametrize("architecture", ALL_TERMS)
def test_measuring_changes_no_bit_of_losses_gradients_and_memory(architecture, density, monkeypatch):
    monkeypatch.setattr("strata_sae.pipeline.saes.base.SAE.break_even_density", density)
    _, settings, dead_E = case(architecture)
    found = []
    for monitored in (False, True):
        sae, workspace = make_sae(architecture), Workspace()
        objective = Objective(settings, sae)
        for _ in range(3):
            result = objective.forward_backward(make_rows(), dead_E, PROGRESS, workspace, monitored=monitored)
            for name, parameter in sae.parameters().items():
                parameter -= 0.01 * result.gradients[name]
        found.append({**sae.parameters(), **objective.state(), **result.losses, "loss": result.loss})
    assert found[0].keys() == found[1].keys()
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]), name


def test_a_step_that_is_not_logged_measures_no_term():
    for architecture in ALL_TERMS:
        sae, settings, dead_E = case(architecture)
        found = step(settings, sae, make_rows(), dead_E).monitors
        assert not [name for name in found if "norm" in name or "share" in name or name.startswith("orthogonality")]


def test_a_loss_below_zero_has_a_share_within_one():
    sae = make_sae("two_child_topk")
    settings = settings_of(["reconstruction", "two_child_cosine"], two_child_cosine={"weight": 40.0})
    result = step(settings, sae, make_rows(), monitored=True)
    assert float(result.loss) < 0
    share = float(result.monitors["two_child_cosine/loss_share"])
    assert -1 < share < 0
    assert share == pytest.approx(float(result.monitors["reconstruction/loss_share"]) - 1)


def test_every_term_is_in_a_case():
    elsewhere = {"hierarchical_topk", "l1_decoder_norm", "p_anneal", "frequency_weighted_lp"}  # as l1 or multi_k
    assert {name for names in ALL_TERMS.values() for name in names} | elsewhere == TERMS.keys()
