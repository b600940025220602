"""Every quirk of theirs that `compat` reproduces: with the flag ours is theirs, without it the difference is plain."""

from typing import Any

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.saes import initial_weights
from strata_sae.pipeline.saes.relu import ReLU
from strata_sae.pipeline.trainer.centres import geometric_median
from support.dictionary_learning_side import DictionaryLearning
from support.lockstep import largest, lockstep, our_trainee, planted_rows

pytestmark = [pytest.mark.peers, pytest.mark.usefixtures("no_float32")]

D_MODEL, D_SAE, BATCH, STEPS, K, RATE = 32, 256, 128, 40, 6, 1e-3
SELECTED = {"reconstruction": {}, "aux_k": {}}
DEAD_AFTER = 2 * BATCH


def theirs(name: str, **settings: Any) -> DictionaryLearning:
    return DictionaryLearning(name, steps=STEPS, activation_dim=D_MODEL, dict_size=D_SAE, lr=RATE, **settings)


def gap(other: DictionaryLearning, sae: Any, objective: Any, **training: Any) -> float:
    """The largest difference over STEPS updates from where theirs starts."""
    batches = planted_rows(STEPS, BATCH, D_MODEL)
    start = other.weights()
    if hasattr(other.trainer, "top_k_aux"):
        start["b_dec"] = geometric_median(batches[0])
        other.trainer.dead_feature_threshold = DEAD_AFTER
    variant = {"sae": {**sae, "d_sae": D_SAE}, "objective": objective}
    settings = {"learning_rate": RATE, "dead_after_rows": DEAD_AFTER, **training}
    return largest(lockstep(our_trainee(start, n_steps=STEPS, variant=variant, **settings), other, batches))


def test_warm_up_from_zero() -> None:
    gaps = [
        gap(theirs("TopKTrainer", k=K, warmup_steps=10), {"architecture": "topk", "k": K}, SELECTED, **settings)
        for settings in ({"warmup_steps": 10, "compat": "dictionary_learning"}, {"warmup_steps": 10})
    ]
    assert gaps[0] < 1e-12 < 1e-5 < gaps[1]


def test_matryoshka_averaged_twice() -> None:
    fractions = {"group_fractions": [0.25, 0.25, 0.5]}
    gaps = []
    for compat in ("dictionary_learning", None):
        prefixes = {"fractions": [0.25, 0.5, 1.0], "compat": compat}
        objective = {"prefix_reconstruction": prefixes, "aux_k": {}}
        other = theirs("MatryoshkaBatchTopKTrainer", k=K, **fractions)
        gaps.append(gap(other, {"architecture": "batch_topk", "k": K}, objective))
    assert gaps[0] < 1e-12 < 1e-5 < gaps[1]


# -- JumpReLU: issue 55 -----------------------------------------------------------------------------------------------


def jump_relu_gap(compat: str | None) -> float:
    other = theirs("JumpReluTrainer", bandwidth=0.05, sparsity_warmup_steps=None)
    other.trainer.ae.threshold.data.fill_(0.1)
    sae = {"architecture": "jump_relu", "bandwidth": 0.05, "compat": compat}
    return gap(other, sae, {"reconstruction": {}, "l0": {"weight": 1.0}}, beta1=0.0)


@pytest.fixture
def repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their step function sees the pre-activations, as issue 55 asks."""
    from dictionary_learning.trainers import jumprelu

    seen: list[Tensor] = []
    jump, step = jumprelu.JumpReLUFunction.apply, jumprelu.StepFunction.apply

    class Jump:
        @staticmethod
        def apply(pre_BE: Tensor, *rest: Any) -> Tensor:
            seen[:] = [pre_BE]
            return jump(pre_BE, *rest)

    class Step:
        @staticmethod
        def apply(codes_BE: Tensor, *rest: Any) -> Tensor:
            return step(seen[0], *rest)

    monkeypatch.setattr(jumprelu, "JumpReLUFunction", Jump)
    monkeypatch.setattr(jumprelu, "StepFunction", Step)


def test_the_half_kernel_of_issue_55() -> None:
    assert jump_relu_gap("dictionary_learning") < 1e-12 < 1e-5 < jump_relu_gap(None)


@pytest.mark.usefixtures("repaired")
def test_our_default_is_theirs_with_issue_55_repaired() -> None:
    assert jump_relu_gap(None) < 1e-12 < 1e-5 < jump_relu_gap("dictionary_learning")


# -- where things start -----------------------------------------------------------------------------------------------


def test_their_encoder_bias_is_not_zero() -> None:
    """AutoEncoder leaves nn.Linear's default there: uniform within 1 / sqrt(d_model)."""
    found = {}
    for start in ("uniform", "zero"):
        settings = ReLU.Settings(d_sae=4096, initial={"b_enc": start, "decoder_norm": 0.1})
        found[start] = initial_weights(settings, D_MODEL, torch.Generator().manual_seed(0))["b_enc"]
    other = DictionaryLearning(
        "StandardTrainer", steps=3, activation_dim=D_MODEL, dict_size=4096, sparsity_warmup_steps=1
    )
    theirs_E = other.weights()["b_enc"]
    points = torch.linspace(0, 1, 33, dtype=torch.float64)
    spread = [bias_E.double().quantile(points) * D_MODEL**0.5 for bias_E in (theirs_E, found["uniform"], found["zero"])]
    assert float((spread[0] - spread[1]).abs().max()) < 0.1
    assert float((spread[0] - spread[2]).abs().max()) > 0.9


@pytest.mark.parametrize("trainer", ["TopKTrainer", "BatchTopKTrainer"])
def test_their_running_threshold_begins_with_its_first_value(trainer: str) -> None:
    values = {}
    architecture = "topk" if trainer == "TopKTrainer" else "batch_topk"
    for mean, first in (("first_value", 10), ("corrected", 10), ("first_value", 11)):
        other = theirs(trainer, k=K, threshold_start_step=9)
        batches = planted_rows(STEPS, BATCH, D_MODEL)
        start = {**other.weights(), "b_dec": geometric_median(batches[0])}
        variant = {"sae": {"architecture": architecture, "k": K, "d_sae": D_SAE}, "objective": SELECTED}
        settings = {"learning_rate": RATE, "threshold_mean": mean, "threshold_start_step": first}
        ours = our_trainee(start, n_steps=STEPS, variant=variant, **settings)
        lockstep(ours, other, batches)
        values[mean, first] = abs(ours.threshold.value() / float(other.trainer.ae.threshold) - 1)
    assert values.pop(("first_value", 10)) < 1e-6, "theirs is a float32"
    assert min(values.values()) > 1e-5


def test_a_selected_zero_has_fired_there_and_not_here() -> None:
    """Where a row has fewer than k positive pre-activations: a difference by choice, which no flag undoes."""
    other = theirs("TopKTrainer", k=K)
    other.trainer.ae.encoder.bias.data.fill_(-10.0)
    ours = our_trainee(
        other.weights(),
        n_steps=STEPS,
        variant={"sae": {"architecture": "topk", "k": K, "d_sae": D_SAE}, "objective": {"reconstruction": {}}},
    )
    x_BM = planted_rows(1, BATCH, D_MODEL)[0]
    ours.update(x_BM)
    other.update(0, x_BM)
    assert int((ours.dead_clock.rows_since_active == 0).sum()) == 0
    assert int((other.trainer.num_tokens_since_fired == 0).sum()) > 0
