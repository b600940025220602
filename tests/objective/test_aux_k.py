"""AuxK in every library's form, and ghost gradients, against autograd of what the library writes."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.objective import StepResult
from strata_sae.pipeline.objective.aux_k import FORMS
from support.dense_aux_forms import AUX_FORMS
from support.gradient_parity import (
    D_MODEL,
    D_SAE,
    assert_equal_to_reference,
    dead_latents,
    largest_difference,
    make_rows,
    make_sae,
    settings_of,
    step,
)


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both sides of the density rule, on the same state."""
    monkeypatch.setattr(
        "strata_sae.pipeline.saes.base.SAE.break_even_density", {"sparse": 2.0, "dense": -1.0}[request.param]
    )
    return request.param


def aux_step(form: str, n_dead: int = 12, **options) -> StepResult:
    sae = make_sae("topk")
    settings = settings_of(["reconstruction", "aux_k"], aux_k={"form": form, "weight": 1.0, **options})
    return step(settings, sae, make_rows(), dead_latents(sae, make_rows(), n_dead))


def none_dead() -> Tensor:
    return torch.zeros(D_SAE, dtype=torch.bool)


# -- AuxK ------------------------------------------------------------------------------------------------------------


def test_every_form_has_a_reference():
    assert FORMS.keys() == AUX_FORMS.keys()


@pytest.mark.parametrize("n_dead", [0, 1, D_MODEL // 2, D_MODEL // 2 + 1, 20])
@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_autograd_of_its_library(form, architecture, n_dead, path):
    sae = make_sae(architecture)
    settings = settings_of(["reconstruction", "aux_k"], aux_k={"form": form})
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), n_dead) if n_dead else none_dead())


@pytest.mark.parametrize("k_aux", [1, 3, 8, 40])
@pytest.mark.parametrize("form", FORMS)
def test_k_aux_replaces_the_forms(form, k_aux):
    sae = make_sae("topk")
    settings = settings_of(["reconstruction", "aux_k"], aux_k={"form": form, "k_aux": k_aux})
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), 9))


@pytest.mark.parametrize("form", ["openai", "hypothesaes"])
def test_without_a_count_of_the_dead_those_that_are_always_on_stay_on(form):
    settings = settings_of(["reconstruction", "aux_k"], aux_k={"form": form})
    assert_equal_to_reference(make_sae("topk"), settings, None)


def test_the_forms_differ():
    """What one of them is checked against is not what another computes."""
    results = {form: aux_step(form) for form in FORMS}
    losses = {form: float(result.losses["aux_k"]) for form, result in results.items()}
    for form in FORMS:
        for other in FORMS:
            same_loss = losses[form] == pytest.approx(losses[other], rel=1e-6)
            same_pull = largest_difference(results[form].gradients, results[other].gradients) < 1e-6
            assert (same_loss and same_pull) == (form == other), (form, other)


def test_while_none_is_dead_hypothesaes_adds_a_constant():
    """The residual's error over its variance: at least 1, so with the usual weight about 1/32, as that library logs."""
    sae = make_sae("topk")
    plain = step(settings_of(["reconstruction"]), sae, make_rows(), none_dead())
    settings = settings_of(["reconstruction", "aux_k"], aux_k={"form": "hypothesaes", "weight": 1 / 32})
    found = step(settings, sae, make_rows(), none_dead())
    assert float(found.losses["aux_k"]) >= 1 / 32
    assert all(torch.equal(plain.gradients[name], found.gradients[name]) for name in plain.gradients)


def test_few_dead_latents_weigh_less_where_the_form_says_so():
    one, all_five = (aux_step("sae_lens", n) for n in (1, D_MODEL // 2))
    full = aux_step("sae_lens", 1, k_aux=1)
    assert float(one.losses["aux_k"]) == pytest.approx(float(full.losses["aux_k"]) / 5, rel=1e-12)
    assert float(all_five.losses["aux_k"]) > float(one.losses["aux_k"])


def test_only_candidates_are_moved():
    sae = make_sae("topk")
    dead_E = dead_latents(sae, make_rows(), 12)
    plain = step(settings_of(["reconstruction"]), sae, make_rows(), dead_E)
    for form in FORMS:
        found = aux_step(form)
        moved_E = (found.gradients["W_dec"] != plain.gradients["W_dec"]).any(1)
        assert bool(moved_E.any())
        assert bool((moved_E & ~dead_E).any()) == (form == "overcomplete")


# -- ghost gradients -------------------------------------------------------------------------------------------------


def ghost(rescale: str, n_dead: int = 12, weight: float = 0.5) -> StepResult:
    sae = make_sae("relu")
    settings = settings_of(
        ["reconstruction", "ghost_gradients"], ghost_gradients={"rescale": rescale, "weight": weight}
    )
    return step(settings, sae, make_rows(), dead_latents(sae, make_rows(), n_dead))


@pytest.mark.parametrize("rescale", ["batch", "elements"])
@pytest.mark.parametrize("n_dead", [1, 12, D_SAE])
def test_ghost_gradients_equal_autograd(rescale, n_dead, path):
    sae = make_sae("relu")
    settings = settings_of(["reconstruction", "ghost_gradients"], ghost_gradients={"rescale": rescale})
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), n_dead))


def test_their_loss_is_as_large_as_the_reconstructions():
    plain = step(settings_of(["reconstruction"], reconstruction={"weight": 1.0}), make_sae("relu"), make_rows())
    assert float(ghost("batch", weight=1.0).losses["ghost_gradients"]) == pytest.approx(float(plain.loss), rel=1e-12)
    assert float(ghost("elements", weight=1.0).losses["ghost_gradients"]) == pytest.approx(float(plain.loss), rel=0.01)
    assert largest_difference(ghost("batch").gradients, ghost("elements").gradients) > 1e-2


def test_they_reach_latents_that_nothing_else_reaches():
    sae = make_sae("relu")
    sae.b_enc[:5] = -50.0
    dead_E = torch.arange(D_SAE) < 5
    plain, found = (
        step(settings_of(terms), sae, make_rows(), dead_E)
        for terms in (["reconstruction"], ["reconstruction", "ghost_gradients"])
    )
    assert not plain.gradients["W_enc"][:5].any()
    assert bool(found.gradients["W_enc"][:5].any(1).all())
    assert torch.equal(plain.gradients["W_enc"][5:], found.gradients["W_enc"][5:])
    assert torch.equal(plain.gradients["W_dec"][5:], found.gradients["W_dec"][5:])


@pytest.mark.parametrize("dead_E", [None, none_dead()])
def test_while_none_is_dead_they_cost_nothing(dead_E):
    sae = make_sae("relu")
    plain = step(settings_of(["reconstruction"]), sae, make_rows(), dead_E)
    found = step(settings_of(["reconstruction", "ghost_gradients"]), sae, make_rows(), dead_E)
    assert torch.equal(plain.loss, found.loss)
    assert all(torch.equal(plain.gradients[name], found.gradients[name]) for name in plain.gradients)


def test_a_tied_encoder_is_refused():
    with pytest.raises(ValueError, match=r"set sae\.tied to false"):
        step(settings_of(["reconstruction", "ghost_gradients"]), make_sae("relu", tied=True), make_rows())
