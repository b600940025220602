"""Competing pairs against a loop over all pairs; the orthogonality term's memory and monitors."""

import pytest
import torch
from torch import Tensor

from pipeline.kernels.codes import DenseCodes, SparseCodes
from pipeline.objective import TERMS, Objective, competition
from pipeline.objective.competition import NORMALISATIONS, SHAPES, co_active, competing
from pipeline.saes import ARCHITECTURES, initial_weights
from pipeline.saes.base import SAE
from pipeline.schedules import Schedule

B, E = 20, 15


def planted_codes() -> SparseCodes:
    """Random masks, with values of 0 among the pairs, a latent never on and two always on."""
    generator = torch.Generator().manual_seed(0)
    on_BE = torch.rand(B, E, generator=generator) < 0.3
    on_BE[:, 3], on_BE[:, 7], on_BE[:, 8] = False, True, True
    codes = DenseCodes(on_BE.double()).to_sparse()
    values_P = codes.values_P.clone()
    values_P[::5] = 0.0
    return codes.with_values(values_P)


def counts_by_loop(codes: SparseCodes) -> dict[tuple[int, int], tuple[int, int, int]]:
    on_BE = codes.to_dense() > 0
    counts = {}
    for i in range(E):
        for j in range(i + 1, E):
            both = int((on_BE[:, i] & on_BE[:, j]).sum())
            if both:
                counts[i, j] = (both, int(on_BE[:, i].sum()), int(on_BE[:, j].sum()))
    return counts


@pytest.mark.parametrize("pairs_per_chunk", [1, 7, 50, 10**6])
def test_co_active_pairs_equal_the_loop_in_any_chunks(pairs_per_chunk, monkeypatch):
    monkeypatch.setattr(competition, "PAIRS_PER_CHUNK", pairs_per_chunk)
    found, order = {}, []
    for chunk in co_active(planted_codes()):
        columns = (chunk.first, chunk.second, chunk.n_both, chunk.n_first, chunk.n_second)
        for i, j, *counts in zip(*(column.tolist() for column in columns), strict=True):
            assert (i, j) not in found
            found[i, j] = tuple(counts)
            order.append((i, j))
    assert found == counts_by_loop(planted_codes())
    assert order == sorted(order)


@pytest.mark.parametrize("threshold", [1e-8, 0.05, 0.3, 0.6, 2.0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_competition_equals_the_loop(normalisation, shape, threshold):
    expected_EE = torch.zeros(E, E, dtype=torch.float64)
    for (i, j), (both, n_i, n_j) in counts_by_loop(planted_codes()).items():
        smaller, either = min(n_i, n_j), n_i + n_j - both
        there = {"min": both / smaller, "batch": both / B, "jaccard": both / either, "conditional": both / n_i}
        back = {**there, "conditional": both / n_j}
        for n in (there[normalisation], back[normalisation]):
            if shape == "linear":
                expected_EE[i, j] += min(max((n - threshold) / threshold, 0.0), 1.0)
            else:
                expected_EE[i, j] += torch.tensor((n - threshold) / 0.05, dtype=torch.float64).sigmoid()
    pairs, n_pairs = competing(planted_codes(), normalisation, shape, threshold, temperature=0.05)
    torch.testing.assert_close(pairs.to_dense(), expected_EE, rtol=1e-12, atol=0)
    assert n_pairs == int((expected_EE > 0).sum())


def test_at_threshold_zero_every_pair_ever_on_together_competes_fully():
    pairs, n_pairs = competing(planted_codes(), "min", "linear", threshold=1e-8, temperature=0.05)
    assert n_pairs == len(counts_by_loop(planted_codes()))
    assert torch.equal(pairs.values_P, torch.full_like(pairs.values_P, 2.0))


def test_codes_that_are_all_zero_have_no_pairs():
    nothing = planted_codes().with_values(torch.zeros_like(planted_codes().values_P))
    pairs, n_pairs = competing(nothing, "jaccard", "linear", 0.1, 0.05)
    assert n_pairs == 0
    assert not pairs.to_dense().any()


# -- the term --------------------------------------------------------------------------------------------------------


def make_sae() -> SAE:
    settings = ARCHITECTURES["topk"].Config(d_sae=40, k=4)
    weights = initial_weights(settings, 8, torch.Generator().manual_seed(0))
    return ARCHITECTURES["topk"](settings, 8, {name: w.double() for name, w in weights.items()})


def rows() -> Tensor:
    return torch.randn(64, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def objective(sae: SAE, **knobs) -> Objective:
    settings = {"reconstruction": TERMS["reconstruction"].Config()}
    settings["orthogonality"] = TERMS["orthogonality"].Config(**{"weight": 0.1, **knobs})
    return Objective(settings, sae)


def test_momentum_follows_its_recurrence_and_survives_a_checkpoint():
    sae = make_sae()
    knobs = {"threshold": Schedule(start=0.4, end=0.1), "threshold_momentum": 0.75}
    running, expected, seen = objective(sae, **knobs), None, []
    for step in range(6):
        progress = step / 6
        wanted = 0.4 - 0.3 * progress
        expected = wanted if expected is None else 0.75 * expected + 0.25 * wanted
        if step == 3:
            state, running = running.state(), objective(sae, **knobs)
            assert state["orthogonality.threshold"].dtype == torch.float64
            running.load_state(state)
        monitors = running.forward_backward(rows(), None, progress).monitors
        seen.append(monitors["orthogonality/threshold"])
        assert seen[-1] == pytest.approx(expected, rel=1e-15)
    forgetful = objective(sae, **knobs).forward_backward(rows(), None, 5 / 6)
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
    for progress in (0.0, 0.5, 1.0):
        one, other = (each.forward_backward(rows(), None, progress) for each in (progressive, static))
        assert torch.equal(one.loss, other.loss)
        assert torch.equal(one.gradients["W_dec"], other.gradients["W_dec"])


def test_the_gradient_moves_only_the_decoder():
    sae = make_sae()
    plain = Objective({"reconstruction": TERMS["reconstruction"].Config()}, sae).forward_backward(rows())
    pushed = objective(sae).forward_backward(rows())
    for name in ("W_enc", "b_enc", "b_dec"):
        assert torch.equal(plain.gradients[name], pushed.gradients[name])
    assert not torch.equal(plain.gradients["W_dec"], pushed.gradients["W_dec"])


def test_a_weight_of_zero_costs_nothing_and_changes_nothing(monkeypatch):
    sae = make_sae()
    plain = Objective({"reconstruction": TERMS["reconstruction"].Config()}, sae).forward_backward(rows())
    monkeypatch.setattr("pipeline.objective.orthogonality.competing", None)
    off = objective(sae, weight=Schedule(shape="power", start=1.0, end=0.0)).forward_backward(rows(), None, 1.0)
    assert torch.equal(plain.gradients["W_dec"], off.gradients["W_dec"])


def test_monitors():
    sae = make_sae()
    result = objective(sae, threshold=0.2).forward_backward(rows())
    on_BE = (result.codes.to_dense() > 0).double()
    n_E = on_BE.sum(0)
    overlap_EE = (on_BE.T @ on_BE / torch.minimum(n_E[:, None], n_E).clamp(min=1)).triu(1)
    competing_EE = overlap_EE > 0.2
    cosines_EE = (sae.W_dec @ sae.W_dec.T).abs()
    monitors = {name: float(value) for name, value in result.monitors.items()}
    assert monitors["orthogonality/competing_pairs"] == int(competing_EE.sum())
    assert monitors["orthogonality/mean_abs_cos"] == pytest.approx(float(cosines_EE[competing_EE].mean()))
    assert monitors["orthogonality/loss_share"] == pytest.approx(float(result.losses["orthogonality"] / result.loss))
    plain = Objective({"reconstruction": TERMS["reconstruction"].Config()}, sae).forward_backward(rows())
    own = (result.gradients["W_dec"] - plain.gradients["W_dec"]).norm()
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
