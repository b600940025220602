"""The orthogonality term: every form against autograd, what it refuses, remembers, shows and costs."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from strata_sae.pipeline.kernels.machine.backend import using
from strata_sae.pipeline.objective import TERMS, Objective, check_terms
from strata_sae.pipeline.objective.term import Step
from strata_sae.pipeline.saes import ARCHITECTURES, initial_weights
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import Schedule
from support.gradient_parity import assert_equal_to_reference, largest_difference, settings_of, step
from support.gradient_parity import make_rows as parity_rows
from support.gradient_parity import make_sae as parity_sae

FORMS = {
    "square root": {"weight": Schedule(shape="power", start=0.5, end=0.0, exponent=0.5)},
    "rising threshold": {"threshold": Schedule(start=0.1, end=0.2)},
    "falling threshold": {"threshold": Schedule(start=0.1, end=0.0)},
    "squared": {"penalty": "squared"},
    "mean": {"reduction": "mean"},
    "lift": {"normalisation": "lift", "threshold": 2.0},
    "proportional": {"shape": "proportional", "threshold": 0.1},
    "activations": {"on": "activations"},
    "activations, conditional": {"on": "activations", "normalisation": "conditional", "threshold": 0.3},
    "activations, sigmoid, squared": {"on": "activations", "shape": "sigmoid", "penalty": "squared"},
    "sibling": {
        "weight": 0.01,
        "normalisation": "lift",
        "shape": "proportional",
        "threshold": 0.1,
        "on": "activations",
        "penalty": "squared",
        "reduction": "mean",
    },
}


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_equals_autograd(form, backend):
    for architecture, options in (
        ("topk", {}),
        ("batch_topk", {}),
        ("topk", {"k": 12}),
        ("two_child_topk", {"signed": True}),
    ):
        settings = settings_of(["reconstruction", "orthogonality"], orthogonality=FORMS[form])
        with using(backend):
            assert_equal_to_reference(parity_sae(architecture, **options), settings)


def test_the_forms_differ_from_each_other():
    sae = parity_sae("topk")
    plain = settings_of(["reconstruction", "orthogonality"])
    expected = step(plain, sae, parity_rows()).gradients
    for form, options in FORMS.items():
        found = step(
            settings_of(["reconstruction", "orthogonality"], orthogonality=options), sae, parity_rows()
        ).gradients
        assert largest_difference(found, expected) > 1e-6, form


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.1}, "temperature does nothing with shape 'linear'"),
        ({"shape": "proportional", "threshold": 0.2}, "threshold does nothing with shape 'proportional'"),
        ({"shape": "proportional", "threshold_momentum": 0.5}, "threshold_momentum does nothing"),
        ({"watch": [[1]]}, "pairs of two different latents"),
        ({"watch": [[1, 1]]}, "pairs of two different latents"),
        ({"watch": [[1, -2]]}, "pairs of two different latents"),
        ({"every_steps": 0}, "every_steps"),
        ({"on": "encoder"}, "on"),
        ({"from_progress": 1.0}, "from_progress"),
        ({"weight": Schedule(shape="power", start=1.0, end=0.0).model_dump() | {"exponent": -1.0}}, "exponent"),
    ],
)
def test_settings_that_cannot_be_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TERMS["orthogonality"].Settings(**{"weight": 0.1, **options})


def test_a_config_that_was_written_out_in_full_is_read_again():
    for shape in ("linear", "sigmoid", "sigmoid_co_active", "proportional"):
        settings = TERMS["orthogonality"].Settings(weight=0.1, shape=shape)
        assert TERMS["orthogonality"].Settings.model_validate(settings.model_dump()) == settings


def test_watching_a_latent_that_is_not_there_is_refused():
    settings = settings_of(["reconstruction", "orthogonality"], orthogonality={"watch": [[0, 40]]})
    with pytest.raises(ValueError, match=r"the pair \[0, 40\], but d_sae is 40"):
        check_terms(settings, ARCHITECTURES["topk"].Settings(d_sae=40, k=4))


# -- over steps ------------------------------------------------------------------------------------------------------


def make_sae() -> SAE:
    settings = ARCHITECTURES["topk"].Settings(d_sae=40, k=4)
    weights = initial_weights(settings, 8, torch.Generator().manual_seed(0))
    return ARCHITECTURES["topk"](settings, 8, {name: w.double() for name, w in weights.items()})


def rows() -> Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def objective(sae: SAE, **options) -> Objective:
    settings = {"reconstruction": TERMS["reconstruction"].Settings()}
    settings["orthogonality"] = TERMS["orthogonality"].Settings(**{"weight": 0.1, **options})
    return Objective(settings, sae)


def test_momentum_follows_its_recurrence_and_survives_a_checkpoint():
    sae = make_sae()
    options = {"threshold": Schedule(start=0.4, end=0.1), "threshold_momentum": 0.75}
    running, expected, seen = objective(sae, **options), None, []
    for t in range(6):
        fraction_done = t / 6
        wanted = 0.4 - 0.3 * fraction_done
        expected = wanted if expected is None else 0.75 * expected + 0.25 * wanted
        if t == 3:
            state, running = running.state(), objective(sae, **options)
            assert state["orthogonality.threshold"].dtype == torch.float64
            running.load_state(state)
        monitors = running.forward_backward(rows(), None, fraction_done, monitored=True).monitors
        seen.append(monitors["orthogonality/threshold"])
        assert seen[-1] == pytest.approx(expected, rel=1e-15)
    forgetful = objective(sae, **options).forward_backward(rows(), None, 5 / 6, monitored=True)
    assert forgetful.monitors["orthogonality/threshold"] != pytest.approx(expected, rel=1e-3)


def test_without_momentum_there_is_nothing_to_remember():
    running = objective(make_sae())
    running.forward_backward(rows(), None, 0.5)
    assert running.state() == {}


def test_the_progressive_form_with_constant_values_is_the_static_form():
    sae = make_sae()
    constant = Schedule(shape="constant", start=0.5, end=8.0)
    progressive = objective(sae, weight=constant, threshold=constant)
    static = objective(sae, weight=0.5, threshold=0.5)
    for fraction_done in (0.0, 0.5, 1.0):
        one, other = (each.forward_backward(rows(), None, fraction_done) for each in (progressive, static))
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.gradients["W_dec"], other.gradients["W_dec"])


def test_the_gradient_moves_only_the_decoder():
    sae = make_sae()
    plain = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(rows())
    pushed = objective(sae).forward_backward(rows())
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(plain.gradients[name], pushed.gradients[name])
    assert not torch.equal(plain.gradients["W_dec"], pushed.gradients["W_dec"])


@pytest.mark.parametrize("options", [{"weight": 0.0}, {"from_progress": 0.6}, {"every_steps": 2}])
def test_a_step_in_which_the_term_does_not_act_costs_nothing_and_changes_nothing(options, monkeypatch):
    sae = make_sae()
    plain = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(rows())
    monkeypatch.setattr("strata_sae.pipeline.objective.orthogonality.active_sorted", None)
    off = objective(sae, **options).forward_backward(rows(), None, 0.5)
    assert all(torch.equal(plain.gradients[name], off.gradients[name]) for name in plain.gradients)
    assert float(off.losses["orthogonality"]) == 0.0
    with pytest.raises(TypeError):  # control: where it acts, it sorts the codes
        objective(sae).forward_backward(rows(), None, 0.5)


@pytest.mark.parametrize("on", ["decoder", "activations"])
def test_with_weight_zero_everything_is_measured_and_nothing_is_moved(on):
    sae, watch = make_sae(), [[0, 1], [2, 3]]
    plain = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(rows())
    treated = objective(sae, weight=0.3, watch=watch, on=on).forward_backward(rows(), monitored=True)
    baseline = objective(sae, weight=0.0, watch=watch, on=on).forward_backward(rows(), monitored=True)
    assert all(torch.equal(plain.gradients[name], baseline.gradients[name]) for name in plain.gradients)
    assert baseline.monitors.keys() == treated.monitors.keys()
    measured = [name for name in treated.monitors if name.startswith("orthogonality/") and "share" not in name]
    assert len(measured) == 3 * len(watch) + 4
    for name in set(measured) - {"orthogonality/weight"}:
        assert torch.equal(torch.as_tensor(baseline.monitors[name]), torch.as_tensor(treated.monitors[name])), name
    assert float(baseline.monitors["gradient_norm/orthogonality"]) == 0.0
    assert float(treated.monitors["gradient_norm/orthogonality"]) > 0.0


def test_before_its_share_of_the_run_only_watched_pairs_are_measured():
    running = objective(make_sae(), from_progress=0.5, watch=[[0, 1]])
    before = running.forward_backward(rows(), None, 0.49, monitored=True)
    after = running.forward_backward(rows(), None, 0.5, monitored=True)
    assert float(before.losses["orthogonality"]) == 0.0
    assert float(after.losses["orthogonality"]) > 0.0
    pairs = {"orthogonality/competing_pairs", "orthogonality/mean_abs_cos"}
    assert after.monitors.keys() - before.monitors.keys() == pairs
    assert "orthogonality/c_0_1" in before.monitors


def test_exponent_zero_is_the_static_form_to_the_end():
    sae = make_sae()
    weight = Schedule(shape="power", start=0.3, end=0.0, exponent=0.0)
    for fraction_done in (0.0, 0.7, 1.0):
        one, other = (objective(sae, weight=w).forward_backward(rows(), None, fraction_done) for w in (weight, 0.3))
        assert torch.equal(one.gradients["W_dec"], other.gradients["W_dec"])
    falling = objective(sae, weight=Schedule(shape="power", start=0.3, end=0.0, exponent=0.5))
    assert float(falling.forward_backward(rows(), None, 1.0).losses["orthogonality"]) == 0.0


def test_monitors():
    sae = make_sae()
    result = objective(sae, threshold=0.2).forward_backward(rows(), monitored=True)
    active_BE = (result.codes.to_dense() != 0).double()
    n_E = active_BE.sum(0)
    overlap_EE = (active_BE.T @ active_BE / torch.minimum(n_E[:, None], n_E).clamp(min=1)).triu(1)
    competing_EE = overlap_EE > 0.2
    cosines_EE = (sae.W_dec @ sae.W_dec.T).abs()
    monitors = {name: float(value) for name, value in result.monitors.items()}
    assert monitors["orthogonality/competing_pairs"] == int(competing_EE.sum())
    assert monitors["orthogonality/mean_abs_cos"] == pytest.approx(float(cosines_EE[competing_EE].mean()))
    assert monitors["orthogonality/loss_share"] == pytest.approx(float(result.losses["orthogonality"] / result.loss))
    plain = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(rows())
    own = (result.gradients["W_dec"] - plain.gradients["W_dec"]).norm()
    assert monitors["gradient_norm/orthogonality"] == pytest.approx(float(own))
    assert monitors["orthogonality/gradient_share"] == pytest.approx(float(own / result.gradients["W_dec"].norm()))


def test_training_with_the_term_lowers_the_cosines_of_competing_pairs():
    torch.manual_seed(0)
    results = {}
    for weight in (0.0, 1.0):
        sae = make_sae()
        running = objective(sae, weight=weight, threshold=0.01)
        for _ in range(60):
            gradients = running.forward_backward(rows()).gradients
            for name, parameter in sae.parameters().items():
                parameter -= 0.01 * gradients[name]
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        results[weight] = float(objective(sae, threshold=0.01).forward_backward(rows()).losses["orthogonality"])
    assert results[1.0] < 0.8 * results[0.0]


def test_every_third_step_and_a_checkpoint_between():
    sae, seen = make_sae(), []
    running = objective(sae, every_steps=3)
    for _ in range(7):
        state, running = running.state(), objective(sae, every_steps=3)
        running.load_state(state)
        seen.append(float(running.forward_backward(rows()).losses["orthogonality"]) > 0)
    assert seen == [False, False, True, False, False, True, False]


def test_watched_pairs_show_their_competition_and_cosine():
    sae = make_sae()
    plain = objective(sae, threshold=0.2)
    codes_BE = plain.forward_backward(rows()).codes.to_dense()
    active_BE = (codes_BE != 0).double()
    both_EE, n_E = active_BE.T @ active_BE, active_BE.sum(0)
    together = (both_EE.triu(1) > 0).nonzero().tolist()[:3]
    apart = next([i, j] for i, j in (both_EE == 0).nonzero().tolist() if i != j and n_E[i] and n_E[j])
    watching = objective(sae, threshold=0.2, watch=[*together, apart])
    assert watching.forward_backward(rows()).monitors == {}, "only logged steps are measured"
    monitors = watching.forward_backward(rows(), monitored=True).monitors
    for i, j in [*together, apart]:
        n = float(both_EE[i, j] / torch.minimum(n_E[i], n_E[j]).clamp(min=1))
        assert float(monitors[f"orthogonality/c_{i}_{j}"]) == pytest.approx(min(max((n - 0.2) / 0.2, 0), 1))
        assert float(monitors[f"orthogonality/cos_{i}_{j}"]) == pytest.approx(float(sae.W_dec[i] @ sae.W_dec[j]))
        expected = np.corrcoef(codes_BE[:, i].numpy(), codes_BE[:, j].numpy())[0, 1]
        assert float(monitors[f"orthogonality/correlation_{i}_{j}"]) == pytest.approx(expected, rel=1e-9)


def test_on_activations_the_gradient_moves_only_the_encoder():
    sae = make_sae()
    plain = Objective({"reconstruction": TERMS["reconstruction"].Settings()}, sae).forward_backward(rows())
    pushed = objective(sae, on="activations").forward_backward(rows())
    assert torch.equal(plain.gradients["W_dec"], pushed.gradients["W_dec"])
    assert not torch.equal(plain.gradients["W_enc"], pushed.gradients["W_enc"])


@pytest.mark.parametrize("options", [{}, {"on": "activations"}])
def test_equal_inputs_give_equal_bits_with_any_number_of_threads(options):
    settings = ARCHITECTURES["topk"].Settings(d_sae=400, k=30)
    weights = initial_weights(settings, 72, torch.Generator().manual_seed(0))
    sae, n_threads = ARCHITECTURES["topk"](settings, 72, weights), torch.get_num_threads()
    x_BM = torch.randn(256, 72, generator=torch.Generator().manual_seed(1))
    encoding, found = sae.encode(x_BM), []
    try:
        for n in (1, 1, 2, 3):
            torch.set_num_threads(n)
            step = Step(sae, x_BM, encoding, x_BM, None, 0.0)
            loss = objective(sae, **options).terms["orthogonality"].add(step)
            gradient = step.values_gradient if options else step.direct[0][1]
            found.append((loss, gradient, *(torch.as_tensor(value) for value in step.monitors.values())))
    finally:
        torch.set_num_threads(n_threads)
    for other in found[1:]:
        assert all(torch.equal(one, same) for one, same in zip(found[0], other, strict=True))
