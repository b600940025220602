"""The sparsity penalties against loops, closed forms and their sources' own recurrences."""

import math

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from strata_sae.pipeline.kernels.codes import DenseCodes
from strata_sae.pipeline.objective import TERMS, Objective, check_terms
from strata_sae.pipeline.objective.adaptive_lp import update_steps
from strata_sae.pipeline.objective.sparsity import lp, weighted_lp_p
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.saes.base import SAE
from strata_sae.pipeline.schedules import Schedule
from support.gradient_parity import (
    BATCH,
    D_MODEL,
    D_SAE,
    PROGRESS,
    assert_equal_to_reference,
    largest_difference,
    make_rows,
    make_sae,
    settings_of,
    step,
)

RELU = ARCHITECTURES["relu"].Settings(d_sae=64)


def objective(sae: SAE, term: str, **options) -> Objective:
    return Objective({"reconstruction": TERMS["reconstruction"].Settings(), term: TERMS[term].Settings(**options)}, sae)


@pytest.mark.parametrize(("n_steps", "first", "last"), [(20, 4, 16), (2000, 400, 1600), (20_000, 4000, 16_000)])
def test_p_of_every_step_is_seed_0s_where_the_schedule_begins_a_step_earlier(n_steps, first, last):
    def seed_0(step: int) -> float:  # sparsity.py: p_at_step, with train.py's steps from 1
        if step < first:
            return 1.0
        return 0.5 if step >= last else 1.0 + (step - first) / max(last - first, 1) * (0.5 - 1.0)

    expected = [seed_0(step) for step in range(1, n_steps + 1)]
    earlier = Schedule(start=1.0, end=0.5, begin=(first - 1) / n_steps, finish=(last - 1) / n_steps)
    assert [earlier.at(done / n_steps) for done in range(n_steps)] == pytest.approx(expected, rel=1e-12)
    default = TERMS["lp"].Settings(weight=1.0).p
    late = [default.at(done / n_steps) for done in range(n_steps)]
    assert late[1:] == pytest.approx(expected[:-1], rel=1e-12), "the default: the same, a step late"
    assert late != pytest.approx(expected, rel=1e-5), "control"


def batch(number: int) -> Tensor:
    return torch.randn(BATCH, D_MODEL, generator=torch.Generator().manual_seed(number), dtype=torch.float64)


# -- L1 by decoder norms ---------------------------------------------------------------------------------------------


def test_larger_decoder_rows_and_smaller_codes_change_nothing_but_l1():
    sae = make_sae("relu", decoder="free")
    c_E = torch.linspace(0.2, 5.0, D_SAE, dtype=torch.float64)
    scaled = {**sae.parameters(), "W_dec": sae.W_dec * c_E[:, None]}
    scaled |= {"W_enc": sae.W_enc / c_E[:, None], "b_enc": sae.b_enc / c_E}
    other = type(sae)(sae.settings, D_MODEL, scaled)
    losses = {}
    for term in ("l1_decoder_norm", "l1"):
        before, after = (step(settings_of(["reconstruction", term]), each, make_rows()) for each in (sae, other))
        torch.testing.assert_close(before.losses["reconstruction"], after.losses["reconstruction"], rtol=1e-12, atol=0)
        losses[term] = float(after.losses[term] / before.losses[term])
    assert losses["l1_decoder_norm"] == pytest.approx(1.0, rel=1e-12)
    assert losses["l1"] != pytest.approx(1.0, rel=0.05)


def test_at_norm_one_it_is_l1_but_for_the_decoder():
    sae = make_sae("relu", decoder="free")
    sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
    weighted, plain = (step(settings_of(["reconstruction", t], **{t: {"weight": 0.3}}), sae, make_rows())
                       for t in ("l1_decoder_norm", "l1"))  # fmt: skip
    torch.testing.assert_close(weighted.loss, plain.loss, rtol=1e-12, atol=0)
    torch.testing.assert_close(weighted.gradients["W_enc"], plain.gradients["W_enc"], rtol=1e-12, atol=1e-15)
    assert not torch.equal(weighted.gradients["W_dec"], plain.gradients["W_dec"])


def test_a_unit_decoder_is_refused_with_the_fix():
    terms = {
        "reconstruction": TERMS["reconstruction"].Settings(),
        "l1_decoder_norm": TERMS["l1_decoder_norm"].Settings(weight=1.0),
    }
    with pytest.raises(ValueError, match=r"set sae\.decoder to 'free', or use the term 'l1'"):
        check_terms(terms, RELU)
    check_terms(terms, RELU.model_copy(update={"decoder": "free"}))


# -- Lp --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["lp_p", "lp"])
@pytest.mark.parametrize("p", [0.3, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
@pytest.mark.parametrize("architecture", ["relu", "gated"])
def test_lp_equals_autograd(architecture, form, p, epsilon):
    changes = {"form": form, "p": p, "epsilon": epsilon}
    assert_equal_to_reference(make_sae(architecture), settings_of(["reconstruction", "lp"], lp=changes))


@pytest.mark.parametrize("layout", ["sparse", "dense"])
@pytest.mark.parametrize("form", ["lp_p", "lp"])
def test_lp_equals_the_loop(form, layout):
    """Over all latents, those that are not active included."""
    values_BE = torch.tensor([[0.5, 0.0, 2.0], [0.0, 0.0, 0.25], [0.0, 0.0, 0.0]], dtype=torch.float64)
    codes = DenseCodes(values_BE) if layout == "dense" else DenseCodes(values_BE).to_sparse()
    weights_E = torch.tensor([1.0, 3.0, 0.5], dtype=torch.float64)
    p, epsilon = 0.5, 0.01
    sums = [sum((value + epsilon) ** p for value in row) for row in values_BE.tolist()]
    total, _ = lp(codes, codes.values, p, epsilon, form)
    assert float(total) == pytest.approx(sum(sums) if form == "lp_p" else sum(s ** (1 / p) for s in sums), rel=1e-14)
    weighted, _ = weighted_lp_p(codes, codes.values, p, epsilon, weights_E)
    rows = values_BE.tolist()
    expected = sum(w * (v + epsilon) ** p for row in rows for v, w in zip(row, weights_E.tolist(), strict=True))
    assert float(weighted) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("form", ["lp_p", "lp"])
def test_p_one_is_l1(form):
    sae = make_sae("relu")
    l1 = step(settings_of(["reconstruction", "l1"], l1={"weight": 0.3}), sae, make_rows())
    at = {p: step(settings_of(["reconstruction", "lp"], lp={"weight": 0.3, "p": p, "epsilon": 0.0, "form": form}), sae,
                  make_rows()) for p in (1.0, 0.99)}  # fmt: skip
    torch.testing.assert_close(at[1.0].losses["lp"], l1.losses["l1"], rtol=1e-14, atol=0)
    assert largest_difference(at[1.0].gradients, l1.gradients) < 1e-14
    assert largest_difference(at[0.99].gradients, l1.gradients) > 1e-4


def test_p_follows_its_schedule_and_stays_outside_it():
    running = objective(make_sae("relu"), "lp", weight=0.1)
    seen = [running.forward_backward(make_rows(), None, t).monitors["lp/p"] for t in (0.0, 0.2, 0.35, 0.5, 0.8, 1.0)]
    assert seen == pytest.approx([1.0, 1.0, 0.875, 0.75, 0.5, 0.5], abs=1e-15)


@pytest.mark.parametrize("value", [1e-38, 1e-30, 1e-7])
def test_the_derivative_at_a_tiny_code_is_bounded_by_epsilon(value):
    codes = DenseCodes(torch.tensor([[value, 0.0, 1.0]]))
    bound = 0.2 * 1e-6**-0.8
    derivative_BE = lp(codes, codes.values, 0.2, 1e-6, "lp_p")[1]
    assert float(derivative_BE[0, 0]) <= bound * 1.001
    assert float(derivative_BE[0, 1]) == 0.0
    without = lp(codes, codes.values, 0.2, 0.0, "lp_p")[1]
    assert float(without[0, 0]) > bound
    assert not math.isnan(float(without.sum()))


@pytest.mark.parametrize("term", ["lp", "frequency_weighted_lp"])
@pytest.mark.parametrize("p", [0.0, -1.0, Schedule(start=1.0, end=0.0)])
def test_p_must_stay_above_zero(term, p):
    with pytest.raises(ValidationError, match="p must stay above 0"):
        TERMS[term].Settings(weight=0.1, p=p)


def test_codes_that_jump_are_refused():
    with pytest.raises(ValueError, match=r"term 'lp' fits .* \(relu, gated\), got 'jump_relu'; use the term 'l0'"):
        objective(make_sae("jump_relu"), "lp", weight=0.1)


# -- frequency weights -----------------------------------------------------------------------------------------------

WEIGHT = 0.3


def lambdas_of_the_source(shares_E: list[Tensor], warmup_steps: int, clip: tuple[float, float] | None) -> list[Tensor]:
    """Seed 0's recurrence: the running frequency moves before it is used; steps are counted from 1."""
    frequency_E, lambdas = torch.full((D_SAE,), 0.01, dtype=torch.float64), []
    for number, share_E in enumerate(shares_E, start=1):
        frequency_E = 0.99 * frequency_E + 0.01 * share_E
        w_E = (frequency_E + 1e-4) ** -0.5
        lambda_E = WEIGHT * w_E / w_E.mean()
        lambda_E = lambda_E if clip is None else lambda_E.clamp(*clip)
        lambdas.append(torch.full_like(w_E, WEIGHT) if number < warmup_steps else lambda_E)
    return lambdas


@pytest.mark.parametrize(
    ("options", "clip"),
    [
        ({"clip": "off"}, None),
        ({"clip": "relative", "clip_min": 0.9, "clip_max": 1.02}, (0.9 * WEIGHT, 1.02 * WEIGHT)),
        ({"clip": "absolute", "clip_min": 0.29, "clip_max": 0.31}, (0.29, 0.31)),
    ],
)
def test_frequency_weights_follow_the_sources_recurrence(options, clip):
    sae = make_sae("relu")
    running = objective(sae, "frequency_weighted_lp", weight=WEIGHT, p=0.5, warmup_steps=4, **options)
    codes = [sae.encode(batch(t)).codes.to_dense() for t in range(8)]
    lambdas = lambdas_of_the_source([(values_BE > 0).double().mean(0) for values_BE in codes], 4, clip)
    for t, (values_BE, lambda_E) in enumerate(zip(codes, lambdas, strict=True)):
        result = running.forward_backward(batch(t))
        expected = (lambda_E * (values_BE + 1e-6) ** 0.5).sum(1).mean()
        torch.testing.assert_close(result.losses["frequency_weighted_lp"], expected, rtol=1e-12, atol=0)
        for name, number in (("min", lambda_E.min()), ("mean", lambda_E.mean()), ("max", lambda_E.max())):
            assert float(result.monitors[f"frequency_weighted_lp/lambda_{name}"]) == pytest.approx(
                float(number), rel=1e-12
            )
        if t >= 3 and clip is None:
            assert float(lambda_E.mean()) == pytest.approx(WEIGHT, rel=1e-12)
            rare, common = values_BE.count_nonzero(0).argmin(), values_BE.count_nonzero(0).argmax()
            assert lambda_E[rare] > WEIGHT > lambda_E[common]
    if clip is not None:
        assert lambdas[-1].min() == pytest.approx(clip[0])
        assert lambdas[-1].max() == pytest.approx(clip[1])


def test_while_warming_up_it_is_the_uniform_penalty():
    sae = make_sae("relu")
    uniform = objective(sae, "lp", weight=WEIGHT, p=0.5)
    weighted = objective(sae, "frequency_weighted_lp", weight=WEIGHT, p=0.5, warmup_steps=3)
    differences = []
    for t in range(4):
        one, other = (each.forward_backward(batch(t)) for each in (uniform, weighted))
        differences.append(largest_difference(one.gradients, other.gradients))
    assert max(differences[:2]) < 1e-14
    assert min(differences[2:]) > 1e-3


@pytest.mark.parametrize("clip", [{"clip_min": 2.0, "clip_max": 1.0}, {"clip": "both"}, {"clip_max": 0.0}])
def test_wrong_limits_are_refused(clip):
    with pytest.raises(ValidationError):
        TERMS["frequency_weighted_lp"].Settings(weight=0.1, **clip)


# -- annealing in steps ----------------------------------------------------------------------------------------------

N_STEPS = 40


class Source:
    """PAnnealTrainer's penalty, written from its description: what it does at step t with codes [B, E]."""

    def __init__(self, form: str, p_start: float, p_end: float, start: int, end: int, n: int, coefficient: float):
        self.form, self.p_end, self.coefficient, self.p, self.next_p = form, p_end, coefficient, p_start, None
        self.at = torch.linspace(start, end, n, dtype=torch.int64).tolist()
        self.p_values = torch.linspace(p_start, p_end, n, dtype=torch.float64).tolist()
        self.count, self.queue = 0, []

    def penalty(self, values_BE: Tensor, p: float) -> float:
        sums_B = torch.where(values_BE > 0, values_BE.clamp(min=1e-300) ** p, 0.0).sum(1)
        return float(sums_B.mean() if self.form == "lp_p" else (sums_B ** (1 / p)).mean())

    def loss(self, t: int, values_BE: Tensor) -> float:
        loss = self.coefficient * self.penalty(values_BE, self.p)
        if self.next_p is not None:
            self.queue = [*self.queue, (self.penalty(values_BE, self.p), self.penalty(values_BE, self.next_p))][-10:]
        if t in self.at and t >= self.at[self.count]:
            if self.next_p is not None:
                self.coefficient *= sum(pair[0] for pair in self.queue) / sum(pair[1] for pair in self.queue)
            self.p = self.p_values[self.count]
            last = self.count == len(self.p_values) - 1
            self.next_p = self.p_end if last else self.p_values[self.count + 1]
            self.count += 1
        return loss


@pytest.mark.parametrize("form", ["lp_p", "lp"])
@pytest.mark.parametrize(
    ("begin", "finish", "compat"), [(0.1, 0.8, None), (0.0, 0.5, None), (0.25, 1.0, "dictionary_learning")]
)
def test_annealing_follows_its_source_step_by_step(form, begin, finish, compat):
    sae = make_sae("relu")
    options = {"form": form, "begin": begin, "finish": finish, "compat": compat, "n_updates": 5, "epsilon": 0.0}
    running = objective(sae, "p_anneal", weight=0.2, **options)
    source = Source(form, 1.0, 0.2, round(begin * N_STEPS), round(finish * N_STEPS), 5, 0.2)
    ps = []
    for t in range(N_STEPS):
        result = running.forward_backward(batch(t), None, t / N_STEPS)
        ps.append(result.monitors["p_anneal/p"])
        assert ps[-1] == pytest.approx(source.p, abs=1e-14)
        assert 0.2 * result.monitors["p_anneal/scale"] == pytest.approx(source.coefficient, rel=1e-12)
        assert float(result.losses["p_anneal"]) == pytest.approx(source.loss(t, result.codes.to_dense()), rel=1e-12)
    assert ps[0] == 1.0
    assert ps[-1] == pytest.approx(0.4 if compat else 0.2)


def test_the_penalty_does_not_jump_when_p_does():
    running = objective(make_sae("relu"), "p_anneal", weight=0.2, n_updates=5, begin=0.1, queue_steps=5)
    results = [running.forward_backward(make_rows(), None, t / N_STEPS) for t in range(N_STEPS)]
    losses = [float(result.losses["p_anneal"]) for result in results]
    assert len({result.monitors["p_anneal/p"] for result in results}) == 5
    assert losses == pytest.approx([losses[0]] * N_STEPS, rel=1e-12)
    unscaled = [loss / result.monitors["p_anneal/scale"] for loss, result in zip(losses, results, strict=True)]
    assert max(unscaled) / min(unscaled) > 1.2


@pytest.mark.parametrize(
    ("n_steps", "begin", "finish", "n"), [(244_140, 10_000 / 244_140, 1.0, 10), (97, 0.1, 0.77, 7)]
)
def test_updates_come_where_the_source_has_them(n_steps, begin, finish, n):
    options = TERMS["p_anneal"].Settings(
        weight=1.0, begin=begin, finish=finish, n_updates=n, compat="dictionary_learning"
    )
    first, last = round(begin * n_steps), round(finish * n_steps)
    assert update_steps(options, n_steps) == [int(first + (last - first) * j / (n - 1) + 1e-9) for j in range(n)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"p_end": 0.0}, "greater than 0"),
        ({"finish": 1.0}, "finish must be below 1, got 1.0: p_end would never be used"),
        ({"begin": 0.5, "finish": 0.4}, "must be larger than begin"),
        ({"n_updates": 1}, "greater than or equal to 2"),
    ],
)
def test_annealings_that_cannot_end_well_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        TERMS["p_anneal"].Settings(weight=0.1, **options)


# -- state -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "options"),
    [("p_anneal", {"n_updates": 5, "begin": 0.1}), ("frequency_weighted_lp", {"warmup_steps": 4, "p": 0.5})],
)
@pytest.mark.parametrize("stop", [1, 8, 13, 30])
def test_a_resumed_run_has_the_same_bits(term, options, stop):
    sae = make_sae("relu")
    running, resumed, forgetful = (objective(sae, term, weight=0.2, **options) for _ in range(3))
    for t in range(stop):
        running.forward_backward(batch(t), None, t / N_STEPS)
    resumed.load_state({name: value.clone() for name, value in running.state().items()})
    assert resumed.state().keys() == running.state().keys()
    for t in range(stop, N_STEPS):
        one, two, three = (each.forward_backward(batch(t), None, t / N_STEPS) for each in (running, resumed, forgetful))
        assert torch.equal(one.loss, two.loss)
        assert all(torch.equal(one.gradients[name], two.gradients[name]) for name in one.gradients)
    assert not torch.equal(one.loss, three.loss)


@pytest.mark.parametrize("term", ["l1", "l1_decoder_norm", "lp", "p_anneal", "frequency_weighted_lp"])
def test_a_batch_without_a_code_above_zero_costs_nothing_and_moves_nothing(term):
    sae = make_sae("relu", decoder="free")
    sae.b_enc.fill_(-100.0)
    options = {"epsilon": 0.0} if "epsilon" in TERMS[term].Settings.model_fields else {}
    result = objective(sae, term, weight=0.2, **options).forward_backward(make_rows(), None, PROGRESS)
    assert float(result.losses[term]) == 0.0
    assert all(not gradient.any() for name, gradient in result.gradients.items() if name != "b_dec")
