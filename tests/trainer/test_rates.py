"""The learning rate of every update, against tables and against the libraries' formulas written out."""

import math

import pytest
import torch

from strata_sae.pipeline.config.training import TrainingSettings
from strata_sae.pipeline.config.variants import Variant
from strata_sae.pipeline.trainer.optimiser import learning_rate

VARIANT = {"sae": {"architecture": "topk", "d_sae": 2**16, "k": 4}, "objective": {"reconstruction": {}}}


def rates(**settings):
    training = TrainingSettings(**{"learning_rate": 1.0, **settings})
    return [learning_rate(training, step) for step in range(training.n_steps)]


def test_table():
    assert rates(n_steps=20, warmup_steps=4, decay_start=0.5) == [
        *[0.25, 0.5, 0.75],
        *[1.0] * 8,
        *[0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1],
    ]


@pytest.mark.parametrize(("warmup", "decay_start"), [(0, 1.0), (0, 0.8), (3, 1.0), (1, 0.1), (0, 0.0)])
@pytest.mark.parametrize("decay", ["linear", "cosine"])
def test_rates_stay_within_their_peak(warmup, decay_start, decay):
    found = rates(n_steps=10, warmup_steps=warmup, decay_start=decay_start, decay=decay, learning_rate=2.0)
    assert all(0 < rate <= 2.0 for rate in found)
    if warmup == 0:
        assert found[0] == 2.0


def dictionary_learning(t: int, steps: int, warmup: int, decay_start: int) -> float:
    if t < warmup:
        return t / warmup
    return (steps - t) / (steps - decay_start) if t >= decay_start else 1.0


def sae_lens(t: int, steps: int, warmup: int, decay_start: int) -> float:
    """LinearLR from 1 / warmup over warmup - 1 iterations, constant, LinearLR to 0 over the decay steps."""
    if t < warmup:
        return 1 / warmup + (1 - 1 / warmup) * t / max(warmup - 1, 1)
    return 1 - (t - decay_start) / (steps - decay_start) if t >= decay_start else 1.0


@pytest.mark.parametrize(("steps", "warmup", "decay_start"), [(50, 10, 40), (100, 1, 20), (244, 100, 195), (30, 0, 15)])
@pytest.mark.parametrize(("formula", "compat"), [(dictionary_learning, "dictionary_learning"), (sae_lens, None)])
def test_every_update_has_the_rate_of_the_library(steps, warmup, decay_start, formula, compat):
    found = rates(n_steps=steps, warmup_steps=warmup, decay_start=decay_start / steps, compat=compat)
    assert found == pytest.approx([formula(t, steps, warmup, decay_start) for t in range(steps)], rel=1e-12)


def test_control_the_first_update_tells_the_two_warm_ups_apart():
    assert rates(n_steps=9, warmup_steps=4, compat="dictionary_learning")[0] == 0.0
    assert rates(n_steps=9, warmup_steps=4)[0] == 0.25


def test_cosine_is_half_a_wave_from_where_the_decay_begins():
    found = rates(n_steps=100, warmup_steps=0, decay_start=0.2, decay="cosine")
    assert found[:21] == [1.0] * 21
    assert found[20:] == pytest.approx([0.5 + 0.5 * math.cos(math.pi * n / 80) for n in range(80)])


@pytest.mark.parametrize("decay_to", [0.1, 0.5, 1.0])
def test_a_cosine_to_a_share_is_pytorchs(decay_to):
    """FAST: from 7e-5 to 7e-6, without a constant stretch."""
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=50, eta_min=2.0 * decay_to)
    expected = []
    for _ in range(50):
        expected.append(theirs.get_last_lr()[0])
        optimiser.step()
        theirs.step()
    settings = {"n_steps": 50, "warmup_steps": 0, "decay_start": 0.0, "decay": "cosine", "learning_rate": 2.0}
    assert rates(**settings, decay_to=decay_to) == pytest.approx(expected, rel=1e-12)
    assert rates(**settings) != pytest.approx(expected, rel=1e-3), "control: the share is seen"


def test_a_straight_fall_to_a_share():
    found = rates(n_steps=10, warmup_steps=0, decay_start=0.5, decay_to=0.5)
    assert found == pytest.approx([*[1.0] * 6, 0.9, 0.8, 0.7, 0.6])


@pytest.mark.parametrize(
    ("n_steps", "decay_start", "warmup"),
    [(100, 0.8, 5), (10, 0.8, 0), (19_999, 0.8, 999), (20_000, 0.8, 1000), (10**6, 0.8, 1000), (100, 0.02, 2)],
)
def test_the_warm_up_is_a_twentieth_of_the_run_and_at_most_1000_steps(n_steps, decay_start, warmup):
    variant = Variant.model_validate(VARIANT)
    found = variant.resolved(TrainingSettings(n_steps=n_steps, decay_start=decay_start))
    assert found.warmup_steps == warmup
    named = variant.resolved(TrainingSettings(n_steps=n_steps, decay_start=decay_start, warmup_steps=1))
    assert named.warmup_steps == 1


@pytest.mark.parametrize(
    ("epochs", "n_rows", "n_steps"), [(1.0, 1000, 15), (2.0, 1000, 31), (100.0, 64, 100), (0.5, 100, 1), (0.1, 64, 1)]
)
def test_epochs_are_batches_that_the_rows_fill(epochs, n_rows, n_steps):
    """31: the rows that a first epoch leaves over begin the first batch of the second."""
    variant = Variant.model_validate(VARIANT)
    found = variant.resolved(TrainingSettings(epochs=epochs, batch_size=64), n_rows)
    assert (found.n_steps, found.epochs, found.warmup_steps) == (n_steps, None, n_steps // 20)


@pytest.mark.parametrize("given", [{}, {"n_steps": 3, "epochs": 1.0}])
def test_a_run_has_one_length(given):
    with pytest.raises(ValueError, match="exactly one of n_steps and epochs"):
        TrainingSettings(**given)


def test_auto_is_dictionary_learnings_rule():
    variant = Variant.model_validate({**VARIANT, "training": {"learning_rate": "auto"}})
    training = TrainingSettings(n_steps=10, warmup_steps=0)
    assert variant.resolved(training).learning_rate == 1e-4
    assert Variant.model_validate(VARIANT).resolved(training).learning_rate == 3e-4
