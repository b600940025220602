"""The rate that falls on a plateau is that of PyTorch's ReduceLROnPlateau, and a stop in its midst changes nothing."""

import random
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.config.training import PlateauSettings
from strata_sae.pipeline.trainer.plateau import Plateau
from strata_sae.pipeline.trainer.train import train
from support.small_run import RELU, TOPK
from support.trained_run import curves, hashes, train_until


def losses(n: int = 400, seed: int = 0) -> list[float]:
    """They fall, stay, and jump about."""
    noise = random.Random(seed)
    return [2.0 / (1 + number / 20) + noise.random() * 0.3 for number in range(n)]


def factors_of_torch(values: list[float], **settings: float) -> list[float]:
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimiser, eps=0.0, **settings)
    found = []
    for value in values:
        theirs.step(value)
        found.append(optimiser.param_groups[0]["lr"])
    return found


def factors_of(values: list[float], decay_to: float, **settings: float) -> list[float]:
    plateau, found = Plateau(PlateauSettings(loss="heldout", **settings), decay_to), []
    for value in values:
        plateau.measured(value)
        found.append(plateau.factor)
    return found


@pytest.mark.parametrize("factor", [0.1, 0.3, 0.9])
@pytest.mark.parametrize("patience", [0, 3, 10])
@pytest.mark.parametrize(("threshold", "decay_to"), [(1e-4, 0.0), (0.0, 0.05), (0.2, 0.0)])
def test_the_factor_is_pytorchs(factor, patience, threshold, decay_to):
    settings = {"factor": factor, "patience": patience, "threshold": threshold}
    expected = factors_of_torch(losses(), min_lr=decay_to, **settings)
    assert factors_of(losses(), decay_to, **settings) == pytest.approx(expected, rel=1e-12)
    assert len(set(expected)) > 1
    other = {**settings, "patience": patience + 1}
    assert factors_of(losses(), decay_to, **other) != pytest.approx(expected, rel=1e-3), "control: the patience is seen"


def test_training_losses_are_looked_at_as_means_of_every_steps():
    settings = PlateauSettings(every_steps=7, patience=1, factor=0.5)
    plateau = Plateau(settings, 0.0)
    for value in losses():
        plateau.count(value)
        plateau.measured(0.0)  # no say in it
    means = [sum(losses()[first : first + 7]) / 7 for first in range(0, 400 - 400 % 7, 7)]
    assert plateau.factor == factors_of_torch(means, factor=0.5, patience=1)[-1] < 1


PLATEAU = {"decay": "plateau", "plateau": {"every_steps": 4, "patience": 0, "factor": 0.5, "threshold": 0.1}}


@pytest.mark.parametrize("loss", ["training", "heldout"])
def test_a_stop_changes_nothing_and_the_rate_falls(make_config, monkeypatch, loss):
    settings = {"decay": "plateau", "plateau": {**PLATEAU["plateau"], "loss": loss}, "decay_to": 0.1}
    variants = {"topk": TOPK, "relu": RELU}
    heldout = {"every_steps": 4, "max_rows": 200}
    train(make_config(variants, "other", heldout=heldout, **settings), show_progress=False)
    train_until(make_config(variants, heldout=heldout, **settings), monkeypatch, 7, before=False)
    train(make_config(variants, heldout=heldout, **settings), show_progress=False)
    assert hashes() == hashes(Path("runs/other"))
    rates = [line["learning_rate"] for line in curves("topk")]
    assert rates[0] == 3e-3 / 5, "warm-up"
    assert min(rates) == pytest.approx(3e-4)
    assert sorted(rates[3:], reverse=True) == rates[3:]
