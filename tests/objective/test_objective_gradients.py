"""Hand-written gradients equal autograd of a dense reference, for every architecture and term in the registries."""

import pytest
import torch
from dense_saes import ENCODERS, SAE_KNOBS, Parameters
from dense_terms import FITS, LOSSES, TERM_KNOBS, At
from torch import Tensor

from pipeline.objective import TERMS, Objective, StepResult
from pipeline.objective import competition as competition_module
from pipeline.objective.term import TermSettings
from pipeline.saes import ARCHITECTURES, initial_weights
from pipeline.saes.base import SAE, Workspace
from pipeline.schedules import Schedule, value_at

BATCH, D_MODEL, D_SAE = 24, 10, 48
PROGRESS = 0.3
TOLERANCE = 1e-12


# -- planted inputs --------------------------------------------------------------------------------------------------


def make_sae(architecture: str, **knobs) -> SAE:
    generator = torch.Generator().manual_seed(1)
    sae_class = ARCHITECTURES[architecture]
    settings = sae_class.Config(d_sae=D_SAE, **{**SAE_KNOBS[architecture], **knobs})
    weights = {name: w.double() for name, w in initial_weights(settings, D_MODEL, generator).items()}
    for name in ("W_enc", "b_enc", "b_dec"):
        weights[name] += 0.1 * torch.randn(weights[name].shape, generator=generator, dtype=torch.float64)
    return sae_class(settings, D_MODEL, weights)


def make_rows() -> Tensor:
    return torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def dead_latents(sae: SAE, x_BM: Tensor, n: int) -> Tensor:
    """The n latents that fire least, declared dead."""
    codes_BE = sae.encode(x_BM, progress=PROGRESS).codes.to_dense()
    dead_E = torch.zeros(D_SAE, dtype=torch.bool)
    dead_E[(codes_BE > 0).sum(0).argsort(stable=True)[:n]] = True
    return dead_E


def settings_of(terms: list[str], **changes) -> dict[str, TermSettings]:
    return {name: TERMS[name].Config(**{**TERM_KNOBS[name], **changes.get(name, {})}) for name in terms}


def reference(sae: SAE, settings, x_BM: Tensor, dead_E: Tensor | None) -> tuple[dict[str, Tensor], Parameters]:
    """Losses and gradients by autograd, every matrix dense."""
    p = {name: w.clone().requires_grad_() for name, w in sae.parameters().items()}
    at = At(x_BM, ENCODERS[sae.settings.architecture](x_BM, p, sae.settings), dead_E, p, PROGRESS)
    losses = {name: value_at(knobs.weight, PROGRESS) * LOSSES[name](at, knobs) for name, knobs in settings.items()}
    gradients = torch.autograd.grad(sum(losses.values()), list(p.values()), allow_unused=True)
    return losses, {n: torch.zeros_like(w) if g is None else g for (n, w), g in zip(p.items(), gradients, strict=True)}


def largest_difference(found: Parameters, expected: Parameters) -> float:
    """Over all parameters, the largest difference relative to the parameter's largest gradient."""
    assert found.keys() == expected.keys()
    return max(float((found[n] - expected[n]).abs().max() / expected[n].abs().max().clamp(min=1e-30)) for n in expected)


def step(settings, sae: SAE, x_BM: Tensor, dead_E: Tensor | None = None) -> StepResult:
    return Objective(settings, sae).forward_backward(x_BM, dead_E, PROGRESS)


def assert_equal_to_reference(sae: SAE, settings, dead_E: Tensor | None = None) -> None:
    x_BM = make_rows()
    result = step(settings, sae, x_BM, dead_E)
    losses, gradients = reference(sae, settings, x_BM, dead_E)
    for name, expected in losses.items():
        torch.testing.assert_close(result.losses[name], expected.detach(), rtol=TOLERANCE, atol=0)
    torch.testing.assert_close(result.loss, sum(losses.values()).detach(), rtol=TOLERANCE, atol=0)
    assert largest_difference(result.gradients, gradients) < TOLERANCE


# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both sides of the density rule, on the same state."""
    monkeypatch.setattr("pipeline.kernels.selection.BREAK_EVEN_DENSITY", {"sparse": 2.0, "dense": -1.0}[request.param])
    return request.param


def test_every_registered_name_has_a_reference():
    assert ARCHITECTURES.keys() == ENCODERS.keys() == SAE_KNOBS.keys()
    assert TERMS.keys() == LOSSES.keys() == TERM_KNOBS.keys() == FITS.keys()


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_autograd(architecture, term, path):
    sae = make_sae(architecture)
    settings = settings_of([term] if TERMS[term].reconstructs else ["reconstruction", term])
    if architecture not in FITS[term]:
        with pytest.raises(ValueError, match=f"term '{term}'"):
            Objective(settings, sae)
        return
    kind = type(sae.encode(make_rows()).codes).__name__
    assert kind == {"sparse": "SparseCodes", "dense": "DenseCodes"}[path]
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), 12) if term == "aux_k" else None)


@pytest.mark.parametrize("architecture", ["topk", "batch_topk"])
@pytest.mark.parametrize("base", ["reconstruction", "prefix_reconstruction"])
def test_all_terms_together(architecture, base, path):
    sae = make_sae(architecture)
    assert_equal_to_reference(sae, settings_of([base, "aux_k", "orthogonality"]), dead_latents(sae, make_rows(), 12))


@pytest.mark.parametrize("n_dead", [1, D_MODEL // 2, D_MODEL // 2 + 1, 20])
def test_aux_k_with_few_and_many_dead(n_dead, path):
    sae = make_sae("topk")
    assert_equal_to_reference(sae, settings_of(["reconstruction", "aux_k"]), dead_latents(sae, make_rows(), n_dead))


@pytest.mark.parametrize("dead_E", [None, torch.zeros(D_SAE, dtype=torch.bool)])
def test_aux_k_does_nothing_while_none_is_dead(dead_E):
    sae, x_BM = make_sae("topk"), make_rows()
    plain = step(settings_of(["reconstruction"]), sae, x_BM, dead_E)
    with_aux = step(settings_of(["reconstruction", "aux_k"]), sae, x_BM, dead_E)
    assert float(with_aux.losses["aux_k"]) == 0.0
    assert all(torch.equal(plain.gradients[name], with_aux.gradients[name]) for name in plain.gradients)


def test_aux_k_of_a_perfect_reconstruction_is_zero():
    sae, x_BM = make_sae("topk"), torch.zeros(BATCH, D_MODEL, dtype=torch.float64)
    sae.b_dec.zero_()
    sae.b_enc.fill_(-1.0)
    result = step(settings_of(["reconstruction", "aux_k"]), sae, x_BM, torch.ones(D_SAE, dtype=torch.bool))
    assert float(result.loss) == 0.0
    assert all(float(value) == 0.0 for value in result.monitors.values())
    assert all(torch.isfinite(gradient).all() for gradient in result.gradients.values())


@pytest.mark.parametrize("shape", ["linear", "sigmoid"])
@pytest.mark.parametrize("normalisation", ["min", "batch", "jaccard", "conditional"])
@pytest.mark.parametrize("pairs_per_chunk", [1, 2**23])
def test_orthogonality_equals_the_loop_over_all_pairs(normalisation, shape, pairs_per_chunk, monkeypatch):
    monkeypatch.setattr(competition_module, "PAIRS_PER_CHUNK", pairs_per_chunk)
    changes = {"normalisation": normalisation, "shape": shape, "threshold": 0.1}
    for architecture in ("topk", "batch_topk"):
        assert_equal_to_reference(
            make_sae(architecture), settings_of(["reconstruction", "orthogonality"], orthogonality=changes)
        )


@pytest.mark.parametrize("threshold", [0.0, 1.5, Schedule(start=0.1, end=0.2), Schedule(start=0.1, end=0.0)])
def test_orthogonality_threshold_from_all_pairs_to_none(threshold):
    settings = settings_of(["reconstruction", "orthogonality"], orthogonality={"threshold": threshold})
    assert_equal_to_reference(make_sae("topk"), settings)


def test_float32_equals_float64_within_its_precision():
    sae, x_BM = make_sae("topk"), make_rows()
    single = type(sae)(sae.settings, D_MODEL, {name: w.float() for name, w in sae.parameters().items()})
    settings = settings_of(["prefix_reconstruction", "aux_k", "orthogonality"])
    dead_E = dead_latents(sae, x_BM, 12)
    found = step(settings, single, x_BM.float(), dead_E)
    expected = step(settings, sae, x_BM, dead_E)
    assert all(gradient.dtype == torch.float32 for gradient in found.gradients.values())
    assert largest_difference({n: g.double() for n, g in found.gradients.items()}, expected.gradients) < 1e-5


def test_an_encoding_made_by_the_caller_changes_nothing():
    sae, x_BM = make_sae("batch_topk"), make_rows()
    dead_E = dead_latents(sae, x_BM, 12)
    settings = settings_of(["reconstruction", "aux_k"])
    encoding = sae.encode(x_BM, progress=PROGRESS, workspace=Workspace())
    given = Objective(settings, sae).forward_backward(x_BM, dead_E, PROGRESS, encoding=encoding)
    own = Objective(settings, sae).forward_backward(x_BM, dead_E, PROGRESS, Workspace())
    assert torch.equal(given.loss, own.loss)
    assert all(torch.equal(given.gradients[name], own.gradients[name]) for name in own.gradients)


def test_equal_inputs_give_equal_bits():
    sae, x_BM = make_sae("batch_topk"), make_rows()
    dead_E = dead_latents(sae, x_BM, 12)
    settings = settings_of(["prefix_reconstruction", "aux_k", "orthogonality"])
    first, second = (step(settings, sae, x_BM, dead_E) for _ in range(2))
    assert torch.equal(first.loss, second.loss)
    assert all(torch.equal(first.gradients[name], second.gradients[name]) for name in first.gradients)


def test_a_wrong_gradient_is_seen():
    sae, x_BM = make_sae("topk"), make_rows()
    result = step(settings_of(["reconstruction"]), sae, x_BM, None)
    for name, gradient in result.gradients.items():
        wrong = {**result.gradients, name: gradient * (1 + 1e-6)}
        assert largest_difference(wrong, result.gradients) > TOLERANCE
        place = gradient.abs().flatten().argmax()
        one_wrong = gradient.clone()
        one_wrong.view(-1)[place] *= 1 + 1e-6
        assert largest_difference({**result.gradients, name: one_wrong}, result.gradients) > TOLERANCE


def test_a_reference_without_the_term_is_seen():
    sae, x_BM = make_sae("topk"), make_rows()
    dead_E = dead_latents(sae, x_BM, 12)
    for term in ("aux_k", "orthogonality"):
        result = step(settings_of(["reconstruction", term]), sae, x_BM, dead_E)
        _, gradients = reference(sae, settings_of(["reconstruction"]), x_BM, dead_E)
        assert largest_difference(result.gradients, gradients) > 1e-3
