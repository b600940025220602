"""Fidelity as HypotheSAEs measures it, on equal annotations of equal texts."""

from typing import Any

import numpy as np
import pytest

from strata_sae.pipeline.endpoint.request import Answered
from strata_sae.pipeline.interpretation.scorers import SCORERS
from strata_sae.pipeline.interpretation.scorers.asking import N_SHOWN
from support.made_up_windows import material

pytestmark = pytest.mark.peers

SHARES = {
    "mixed": (0.8, 0.3),
    "perfect": (1.0, 0.0),
    "opposite": (0.0, 1.0),
    "all named": (1.0, 1.0),
    "none named": (0.0, 0.0),
    "coin": (0.5, 0.5),
}
"""Of the active and of the silent windows, the share that is named."""
N = 30


def both(named_of: tuple[float, float], seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Theirs and ours, of the same answers in the same order."""
    from hypothesaes.interpret_neurons import NeuronInterpreter

    rng = np.random.default_rng(seed)
    some = material(n=N)
    asked = SCORERS["fidelity"].requests("judge", "words", some, seed)
    answers, annotations, labels, activations = list[Answered[list[int]]](), list[int](), list[int](), list[float]()
    for one in asked:
        named = [int(rng.random() < named_of[not trial.truth]) for trial in one.trials]
        answers.append(Answered((named * N_SHOWN)[:N_SHOWN], None))
        annotations += named
        labels += [int(trial.truth) for trial in one.trials]
        activations += [max(trial.excerpt.values) for trial in one.trials]
    interpreter: Any = NeuronInterpreter
    theirs = interpreter._compute_metrics(None, np.array(annotations), np.array(labels), np.array(activations))
    scored = SCORERS["fidelity"].scored(asked, answers, some, None)
    # What is not defined is 0 there.
    ours = {name: float(getattr(scored, name) or 0.0) for name in ("recall", "precision", "f1", "correlation")}
    return {name: float(value) for name, value in theirs.items()}, ours


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("named_of", SHARES.values(), ids=SHARES)
def test_recall_precision_f1_and_correlation_are_theirs(named_of: tuple[float, float], seed: int) -> None:
    theirs, ours = both(named_of, seed)
    assert ours == pytest.approx(theirs, abs=1e-14)


def test_other_answers_have_other_numbers() -> None:
    """Control."""
    assert both(SHARES["mixed"], 0)[1] != pytest.approx(both(SHARES["mixed"], 1)[0], abs=1e-3)
