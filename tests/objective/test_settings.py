"""What an objective refuses, and the tables its schedules follow."""

import pytest
import torch
from pydantic import ValidationError

from strata_sae.pipeline.objective import TERMS, Objective, check_terms
from strata_sae.pipeline.objective.partial_reconstruction import prefix_ends
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.topk import k_at
from strata_sae.pipeline.schedules import SCHEDULES, Schedule, value_at

TOPK = ARCHITECTURES["topk"].Settings(d_sae=64, k=4)
RELU = ARCHITECTURES["relu"].Settings(d_sae=64)


def terms(**options):
    return {name: TERMS[name].Settings(**values) for name, values in options.items()}


@pytest.mark.parametrize("name", TERMS)
def test_the_registered_name_is_the_settings_name(name):
    wanted = {"weight": 1.0, "ks": [4]}
    required = {key: wanted[key] for key, field in TERMS[name].Settings.model_fields.items() if field.is_required()}
    assert TERMS[name].Settings(**required).term == name


@pytest.mark.parametrize(
    "fractions", [[], [0.5], [0.5, 0.5, 1.0], [0.5, 0.25, 1.0], [0.0, 1.0], [-0.1, 1.0], [0.5, 2.0]]
)
def test_fractions_that_do_not_rise_to_one_are_refused(fractions):
    with pytest.raises(ValidationError, match="must rise from above 0 to exactly 1"):
        TERMS["prefix_reconstruction"].Settings(fractions=fractions)


def test_prefixes_that_fall_together_are_refused():
    settings = terms(prefix_reconstruction={"fractions": [0.01, 0.011, 1.0]})
    with pytest.raises(ValueError, match=r"prefixes of \[1, 1, 64\] latents"):
        check_terms(settings, TOPK)
    with pytest.raises(ValueError, match=r"prefixes of \[0, 64\] latents"):
        check_terms(terms(prefix_reconstruction={"fractions": [0.001, 1.0]}), TOPK)


def test_default_prefixes():
    assert prefix_ends(TERMS["prefix_reconstruction"].Settings(), 8192) == [256, 512, 1024, 2048, 8192]


@pytest.mark.parametrize(
    ("options", "sae_settings", "message"),
    [
        ({"reconstruction": {}, "l1": {"weight": 0.1}}, TOPK, r"term 'l1' fits .* \(relu.*\), got 'topk'"),
        ({"reconstruction": {}, "aux_k": {}}, RELU, "term 'aux_k' .* got 'relu'"),
        ({"l1": {"weight": 0.1}}, RELU, r"exactly one .* \(reconstruction, prefix_reconstruction, .*\), got none"),
        ({}, RELU, "exactly one"),
        ({"reconstruction": {}, "prefix_reconstruction": {}}, TOPK, "got reconstruction, prefix_reconstruction"),
    ],
)
def test_terms_that_do_not_fit_are_refused(options, sae_settings, message):
    weights = initial_weights(sae_settings, 8, torch.Generator())
    sae = ARCHITECTURES[sae_settings.architecture](sae_settings, 8, weights)
    with pytest.raises(ValueError, match=message):
        check_terms(terms(**options), sae_settings)
    with pytest.raises(ValueError, match=message):
        Objective(terms(**options), sae)


def test_an_unknown_term_is_refused():
    with pytest.raises(ValueError, match="term 'l2' is unknown; known: reconstruction, "):
        check_terms({"l2": TERMS["l1"].Settings(weight=0.1)}, RELU)


@pytest.mark.parametrize(
    ("term", "options"),
    [
        ("l1", {}),
        ("l1", {"weight": "0.1"}),
        ("orthogonality", {"weight": 0.1, "normalisation": "max"}),
        ("orthogonality", {"weight": 0.1, "threshold_momentum": 1.0}),
        ("orthogonality", {"weight": 0.1, "floor": 0.0}),
        ("aux_k", {"k": 3}),
    ],
)
def test_wrong_settings_are_refused(term, options):
    with pytest.raises(ValidationError):
        TERMS[term].Settings(**options)


CLOSED_FORMS = {
    "constant": lambda p: 0.8,
    "linear": lambda p: 0.8 + (0.2 - 0.8) * p,
    "power": lambda p: 0.2 + 0.6 * (1 - p) ** 0.5,
}


@pytest.mark.parametrize("shape", SCHEDULES)
@pytest.mark.parametrize("fraction_done", [0.0, 0.1, 0.5, 0.999, 1.0])
def test_schedules_equal_their_closed_forms(shape, fraction_done):
    schedule = Schedule(shape=shape, start=0.8, end=0.2, exponent=0.5)
    assert value_at(schedule, fraction_done) == pytest.approx(CLOSED_FORMS[shape](fraction_done), abs=1e-15)


@pytest.mark.parametrize("shape", ["linear", "power"])
def test_a_stretch_of_the_run(shape):
    schedule = Schedule(shape=shape, start=1.0, end=0.0, begin=0.25, finish=0.75)
    table = [schedule.at(fraction_done) for fraction_done in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert table == [1.0, 1.0, 0.5 if shape == "linear" else 0.25, 0.0, 0.0]


N_STEPS, D_SAE, K = 40, 256, 8


def test_k_falls_as_in_sparsify_at_every_step():
    """k(t) = round(widest * (1 - t / n) + k * t / n) over the first n steps, then k."""
    widest, n = min(D_SAE, 10 * K), 30
    schedule = Schedule(start=widest, end=K, finish=n / N_STEPS)
    for t in range(N_STEPS + 1):
        share = min(t / n, 1.0)
        assert k_at(schedule, t / N_STEPS) == round(widest * (1 - share) + K * share)
    assert [k_at(schedule, t / N_STEPS) for t in (0, n - 1, n, N_STEPS - 1)] == [80, 10, 8, 8]


def test_k_falls_a_step_earlier_than_in_dictionary_learning_and_without_its_false_start():
    """It takes int(d (1 - t / n) + k t / n) after update t: update 0 still has the final k, update t the k of t - 1."""
    n = 32
    schedule = Schedule(start=D_SAE, end=K, finish=n / N_STEPS)
    theirs = [K] + [int(D_SAE * (1 - min(t / n, 1.0)) + K * min(t / n, 1.0)) for t in range(N_STEPS - 1)]
    ours = [k_at(schedule, t / N_STEPS) for t in range(N_STEPS)]
    assert theirs[:3] == [K, D_SAE, 248]
    assert ours[:3] == [D_SAE, 248, 240]
    assert all(abs(here - there) <= 1 for here, there in zip(ours, theirs[1:], strict=False))
    assert ours != theirs


def test_a_weight_warms_up_as_in_dictionary_learning():
    """min(t / warm-up, 1) at update t: nothing at the first, all from the warm-up's end on."""
    schedule = Schedule(start=0.0, end=0.06, finish=5 / N_STEPS)
    table = [value_at(schedule, t / N_STEPS) for t in range(N_STEPS)]
    assert table == pytest.approx([0.06 * min(t / 5, 1.0) for t in range(N_STEPS)], rel=1e-12, abs=1e-17)
    assert table[0] == 0.0
    assert table[-1] == 0.06


def test_p_falls_as_in_seed_0_between_its_steps():
    """p(s) = p_start + (s - t0) / (t1 - t0) * (p_end - p_start); its steps count from 1, ours from 0."""
    first, last = int(0.2 * N_STEPS), int(0.8 * N_STEPS)
    schedule = Schedule(start=1.0, end=0.5, begin=(first - 1) / N_STEPS, finish=(last - 1) / N_STEPS)
    for s in range(1, N_STEPS + 1):
        expected = 1.0 if s < first else 0.5 if s >= last else 1.0 + (s - first) / (last - first) * (0.5 - 1.0)
        assert value_at(schedule, (s - 1) / N_STEPS) == pytest.approx(expected, abs=1e-14)


PLANTED = {
    "relu": ({}, {"l1": {"weight": 0.1}}),
    "topk": ({"k": 2}, {"aux_k": {}}),
    "batch_topk": ({"k": 2}, {"aux_k": {}}),
    "gated": ({}, {"l1": {"weight": 0.4}, "gated_auxiliary": {"detached": False}}),
    "jump_relu": ({"bandwidth": 0.2, "initial_threshold": 0.1}, {"l0": {"target": 2.0}, "l1": {"weight": 0.1}}),
}
"""Settings and terms of the architectures that look for latents which are active independently of each other."""


@pytest.mark.parametrize("architecture", PLANTED)
def test_a_planted_dictionary_is_recovered(architecture):
    """12 directions in 16 dimensions, 2 on at a time: each must get a decoder row with cosine above 0.95."""
    generator = torch.Generator().manual_seed(0)
    truth_EM = torch.linalg.qr(torch.randn(16, 16, generator=generator)).Q[:12]
    options, sparsity = PLANTED[architecture]
    sae_class = ARCHITECTURES[architecture]
    settings = sae_class.Settings(d_sae=24, **options)
    sae = sae_class(settings, 16, initial_weights(settings, 16, generator))
    objective = Objective(terms(reconstruction={}, **sparsity), sae)
    optimizer = torch.optim.Adam([p.requires_grad_(False) for p in sae.parameters().values()], lr=0.01)
    for _ in range(800):
        active_BE = torch.rand(256, 12, generator=generator) < 2 / 12
        x_BM = (active_BE * (1 + torch.rand(256, 12, generator=generator))) @ truth_EM
        result = objective.forward_backward(x_BM, ~sae.encode(x_BM).codes.active_E())
        for name, parameter in sae.parameters().items():
            parameter.grad = result.gradients[name]
        optimizer.step()
        sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        sae.constrain()
    best_E = (truth_EM @ sae.W_dec.T).amax(1)
    assert float(best_E.min()) > 0.95
