"""Hand-written gradients equal autograd of a dense reference, for every architecture and term in the registries."""

import pytest
import torch

from strata_sae.pipeline.objective import TERMS, Objective
from strata_sae.pipeline.objective import pairs as pairs_of_latents
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import Workspace
from strata_sae.pipeline.schedules import Schedule
from support.dense_saes import ENCODERS, LAYOUTS, SAE_SETTINGS
from support.dense_terms import FITS, LOSSES, SAE_CHANGES, TERM_SETTINGS
from support.gradient_parity import (
    BATCH,
    D_MODEL,
    D_SAE,
    PROGRESS,
    TOLERANCE,
    assert_equal_to_reference,
    dead_latents,
    largest_difference,
    make_rows,
    make_sae,
    reference,
    settings_of,
    step,
)

# -- tests -----------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["sparse", "dense"])
def path(request, monkeypatch):
    """Both sides of the density rule, on the same state."""
    monkeypatch.setattr(
        "strata_sae.pipeline.saes.base.SAE.break_even_density", {"sparse": 2.0, "dense": -1.0}[request.param]
    )
    return request.param


def test_every_registered_name_has_a_reference():
    assert ARCHITECTURES.keys() == ENCODERS.keys() == SAE_SETTINGS.keys()
    assert TERMS.keys() == LOSSES.keys() == TERM_SETTINGS.keys() == FITS.keys()


@pytest.mark.parametrize("term", TERMS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_equal_autograd(architecture, term, path):
    sae = make_sae(architecture, **({} if architecture == "identity" else SAE_CHANGES.get(term, {})))
    settings = settings_of([term] if TERMS[term].reconstructs else ["reconstruction", term])
    if architecture not in FITS[term] or not (sae.learns or term == "reconstruction"):
        with pytest.raises(ValueError, match=f"term '{term}'"):
            Objective(settings, sae)
        return
    kind = type(sae.encode(make_rows()).codes).__name__
    assert kind == LAYOUTS.get(architecture, {"sparse": "SparseCodes", "dense": "DenseCodes"}[path])
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), 12 if sae.learns else 0))


OPTIONS = [
    ("relu", {"tied": True}, {"l1": {}}),
    ("relu", {"tied": True, "pre_bias": False, "decoder": "free"}, {"l1": {}}),
    ("relu", {"pre_bias": False}, {"l1": {}}),
    ("topk", {"pre_bias": False, "decoder": "free"}, {"aux_k": {}}),
    ("topk", {"decoder": "free", "rank_by": "contribution"}, {"aux_k": {}}),
    ("batch_topk", {"decoder": "free", "rank_by": "contribution"}, {}),
    ("gated", {"pre_bias": False}, {"l1": {}, "gated_auxiliary": {}}),
    ("gated", {"decoder": "free"}, {"l1": {}, "gated_auxiliary": {"detached": False}}),
    ("jump_relu", {"pre_bias": True}, {"l0": {}, "l1": {}}),
    ("jump_relu", {}, {"l0": {"kind": "penalty", "target": None}}),
    ("jump_relu", {}, {"l0": {"kind": "per_row"}}),
    ("jump_relu", {"decoder": "free"}, {"l0": {"kind": "tanh", "target": None}}),
    ("jump_relu", {"ste_to_input": True, "pre_bias": True}, {"l0": {}, "l1": {}}),
    ("jump_relu", {"ste_to_input": True, "bandwidth": 2.0}, {"l0": {"kind": "per_row"}}),
    ("jump_relu", {"bandwidth": 2.0}, {"l0": {}}),
    ("jump_relu", {"compat": "dictionary_learning"}, {"l0": {}}),
    ("jump_relu", {"compat": "dictionary_learning", "bandwidth": 2.0}, {"l0": {}}),
    ("jump_relu", {"pre_bias": True, "decoder": "free"}, {"pre_activation": {"latents": "all"}}),
    ("two_child_topk", {"signed": True, "pre_bias": False, "decoder": "free"}, {"two_child_cosine": {}}),
    ("two_child_topk", {"k": 16, "signed": True}, {"two_child_cosine": {}}),
]
"""Options of an architecture that change its gradients, with terms (and their options; None: without it)."""


@pytest.mark.parametrize(("architecture", "options", "terms"), OPTIONS)
def test_gradients_equal_autograd_under_every_option(architecture, options, terms, path):
    sae = make_sae(architecture, **options)
    settings = settings_of(["reconstruction"])
    for name, changes in terms.items():
        chosen = {key: value for key, value in {**TERM_SETTINGS[name], **changes}.items() if value is not None}
        settings[name] = TERMS[name].Settings(**chosen)
    assert_equal_to_reference(sae, settings, dead_latents(sae, make_rows(), 12))


@pytest.mark.parametrize("bandwidth", [0.4, 2.0])
def test_the_kernel_of_compat_sees_codes_and_only_that_of_compat(bandwidth):
    """dictionary_learning's issue 55: half the kernel, and below half a bandwidth every latent that is not active."""
    x_BM, settings = make_rows(), settings_of(["reconstruction", "l0"])
    compat = make_sae("jump_relu", compat="dictionary_learning", bandwidth=bandwidth)
    correct = make_sae("jump_relu", bandwidth=bandwidth)
    _, gradients = reference(compat, settings, x_BM, None)
    assert largest_difference(step(settings, compat, x_BM).gradients, gradients) < TOLERANCE
    assert largest_difference(step(settings, correct, x_BM).gradients, gradients) > 0.01


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
    monkeypatch.setattr(pairs_of_latents, "OCCURRENCES_PER_CHUNK", pairs_per_chunk)
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
    encoding = sae.encode(x_BM, fraction_done=PROGRESS, workspace=Workspace())
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
