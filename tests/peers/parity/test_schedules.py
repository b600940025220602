"""Our schedules are theirs at every step: learning rate, sparsity weights, p and its coefficient, automatic rates."""

from typing import Any

import pytest
import torch

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.schedules import Schedule
from strata_sae.pipeline.trainer.optimiser import learning_rate
from support.dictionary_learning_settings import D_MODEL, TRAINERS
from support.lockstep import planted_rows

pytestmark = pytest.mark.peers

RATE = 3e-4
RUNS = [(300, 30, 240), (300, 0, None), (1000, 1, 999), (97, 13, 61), (2441, 0, 2000), (12345, 1000, 9876)]
"""Steps, warm-up steps, step from which the rate falls."""


def our_rates(n_steps: int, warmup: int, decay_start: int | None, **settings: Any) -> list[float]:
    share = 1.0 if decay_start is None else decay_start / n_steps
    training = {"n_steps": n_steps, "warmup_steps": warmup, "decay_start": share, "learning_rate": RATE, **settings}
    return [learning_rate(TrainingSettings(**training), step) for step in range(n_steps)]


def largest_difference(found: list[float], expected: list[float]) -> float:
    """Relative to the largest expected number."""
    assert len(found) == len(expected)
    return max(abs(a - b) for a, b in zip(found, expected, strict=True)) / max(map(abs, expected))


@pytest.mark.parametrize(("n_steps", "warmup", "decay_start"), RUNS)
def test_dictionary_learnings_rates(n_steps: int, warmup: int, decay_start: int | None) -> None:
    from dictionary_learning.trainers.trainer import get_lr_schedule

    factor = get_lr_schedule(n_steps, warmup, decay_start=decay_start)
    expected = [RATE * factor(step) for step in range(n_steps)]
    found = our_rates(n_steps, warmup, decay_start, compat="dictionary_learning")
    assert largest_difference(found, expected) < 4e-16
    if warmup > 1:
        assert largest_difference(our_rates(n_steps, warmup, decay_start), expected) > 1e-4
    if decay_start is not None and decay_start + 1 < n_steps:
        late = our_rates(n_steps, warmup, decay_start + 1, compat="dictionary_learning")
        assert largest_difference(late, expected) > 1e-5


@pytest.mark.parametrize(("n_steps", "warmup", "decay_start"), RUNS)
def test_saelens_rates(n_steps: int, warmup: int, decay_start: int | None) -> None:
    from sae_lens.training.optim import get_lr_scheduler

    optimiser = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=RATE)
    decay = 0 if decay_start is None else n_steps - decay_start
    scheduler = get_lr_scheduler(
        "constant", optimiser, n_steps, lr=RATE, warm_up_steps=warmup, decay_steps=decay, lr_end=RATE, num_cycles=1
    )
    expected = []
    for _ in range(n_steps):
        expected.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    assert largest_difference(our_rates(n_steps, warmup, decay_start), expected) < 1e-12
    if warmup > 1:
        theirs = our_rates(n_steps, warmup, decay_start, compat="dictionary_learning")
        assert largest_difference(theirs, expected) > 1e-4


@pytest.mark.parametrize("warmup", [1, 7, 100, 299])
def test_sparsity_weights(warmup: int) -> None:
    from dictionary_learning.trainers.trainer import get_sparsity_warmup_fn
    from sae_lens.training.optim import CoefficientScheduler

    n_steps, weight = 300, 0.05
    schedule = Schedule(start=0.0, end=weight, finish=warmup / n_steps)
    found = [schedule.at(step / n_steps) for step in range(n_steps)]
    scale = get_sparsity_warmup_fn(n_steps, warmup)
    assert largest_difference(found, [weight * scale(step) for step in range(n_steps)]) < 4e-16
    coefficients, theirs = CoefficientScheduler(warm_up_steps=warmup, final_value=weight), []
    for _ in range(n_steps):
        theirs.append(coefficients.value)
        coefficients.step()
    assert largest_difference(found, theirs) < 4e-16
    late = Schedule(start=0.0, end=weight, finish=(warmup + 1) / n_steps)
    assert largest_difference([late.at(step / n_steps) for step in range(n_steps)], theirs) > 1e-4


@pytest.mark.parametrize("name", ["topk", "batch_topk", "matryoshka"])
@pytest.mark.parametrize("d_sae", [128, 1000])
def test_automatic_rates(name: str, d_sae: int) -> None:
    from support.dictionary_learning_side import DictionaryLearning

    same = TRAINERS[name]
    theirs = DictionaryLearning(same.trainer, steps=10, activation_dim=D_MODEL, dict_size=d_sae, **same.theirs)
    variant = Variant.model_validate({"sae": {**same.sae, "d_sae": d_sae}, "objective": {"reconstruction": {}}})
    ours = variant.resolved(TrainingSettings(n_steps=10, warmup_steps=0, learning_rate="auto"))
    assert ours.learning_rate == theirs.trainer.lr


@pytest.mark.parametrize("form", ["Lp^p", "Lp"])
@pytest.mark.parametrize(("n_steps", "start", "n_updates"), [(80, 16, 5), (97, 13, 10), (60, 1, 40)])
def test_p_and_its_coefficient(form: str, n_steps: int, start: int, n_updates: int) -> None:
    """The exponent and the coefficient after every step, over equal codes."""
    from support.dictionary_learning_side import DictionaryLearning
    from support.lockstep import our_trainee

    knobs = {"p_end": 0.2, "n_sparsity_updates": n_updates, "initial_sparsity_penalty": 0.03, "anneal_start": start}
    sizes = {"activation_dim": D_MODEL, "dict_size": 128, "steps": n_steps, "sparsity_warmup_steps": None}
    theirs = DictionaryLearning("PAnnealTrainer", sparsity_function=form, **sizes, **knobs)
    ends = {"begin": start / n_steps, "finish": 1.0, "p_end": 0.2, "n_updates": n_updates}
    compat = {"epsilon": 0.0, "compat": "dictionary_learning"}
    term = {"weight": 0.03, "form": form.lower().replace("^", "_"), **ends, **compat}
    variant = {"sae": {"architecture": "relu", "d_sae": 128}, "objective": {"reconstruction": {}, "p_anneal": term}}
    ours = our_trainee(theirs.weights(), n_steps=n_steps, variant=variant)
    seen = set()
    for step, x_BM in enumerate(planted_rows(n_steps, 32, D_MODEL)):
        p, coefficient = theirs.trainer.p, theirs.trainer.sparsity_coeff
        made = ours.update(x_BM)
        theirs.update(step, x_BM)
        theirs.lend(ours)
        assert made.result.monitors["p_anneal/p"] == pytest.approx(p, rel=1e-14)
        assert 0.03 * made.result.monitors["p_anneal/scale"] == pytest.approx(coefficient, rel=1e-12)
        seen.add(p)
    assert len(seen) == n_updates - 1, "p moves, and its last value comes too late, as theirs does"
