"""Resampling dead latents does what dictionary_learning's StandardTrainer does, where both draw the same rows."""

import pytest
import torch
from torch import Tensor

from strata_sae.pipeline.config.variants import ResamplingSettings
from strata_sae.pipeline.trainer import trainee as trainee_module
from strata_sae.pipeline.trainer.resample import draw_rows
from strata_sae.pipeline.trainer.trainee import Trainee
from support.dictionary_learning_settings import TRAINERS
from support.dictionary_learning_side import DictionaryLearning
from support.lockstep import largest, lockstep, our_trainee, planted_rows

pytestmark = pytest.mark.peers

D_MODEL, D_SAE, BATCH, BEFORE, AFTER = 32, 256, 256, 30, 20
EVERY, DEAD_AFTER = BEFORE, 10
SETTINGS = {"every_steps": EVERY, "until_step": None, "dead_after_steps": DEAD_AFTER, "compat": "dictionary_learning"}


def trained(**resampling: object) -> tuple[Trainee, DictionaryLearning, list[Tensor], Tensor]:
    """Both after BEFORE updates, a third of the latents held silent; theirs has not resampled yet.

    Returns: both, the batches, and the latents that theirs calls dead.
    """
    sizes = {"steps": BEFORE + AFTER, "activation_dim": D_MODEL, "dict_size": D_SAE}
    knobs = {"l1_penalty": 0.02, "sparsity_warmup_steps": None, "lr": 1e-3}
    theirs = DictionaryLearning("StandardTrainer", **sizes, **knobs)
    theirs.trainer.ae.encoder.bias.data[::3] = -5.0
    theirs.trainer.steps_since_active = torch.zeros(D_SAE, dtype=torch.int64)
    variant = {
        "sae": {"architecture": "relu", "d_sae": D_SAE},
        "objective": {"reconstruction": {}, "l1": {"weight": 0.02}},
        "resampling": {**SETTINGS, **resampling},
    }
    training = {**TRAINERS["standard"].training, "learning_rate": 1e-3, "batch_size": BATCH}
    ours = our_trainee(theirs.weights(), n_steps=BEFORE + AFTER, variant=variant, **training)
    batches = planted_rows(BEFORE + AFTER, BATCH, D_MODEL)
    for step, x_BM in enumerate(batches[:BEFORE]):
        made = ours.update(x_BM)
        theirs.update(step, x_BM)
    dead_E = theirs.trainer.steps_since_active >= DEAD_AFTER
    assert 50 < int(dead_E.sum()) < D_SAE - 50
    assert made.resampled_latents == int(dead_E.sum())
    return ours, theirs, batches, dead_E


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both draw rows 0, 2, 4 and so on."""

    def drawn(weights: Tensor, num_samples: int, **_: object) -> Tensor:
        return torch.arange(0, 2 * int(num_samples), 2) % len(weights)

    monkeypatch.setattr(torch, "multinomial", drawn)


@pytest.mark.usefixtures("rows")
def test_weights_memories_and_what_follows() -> None:
    ours, theirs, batches, dead_E = trained()
    theirs.trainer.resample_neurons(dead_E.clone(), batches[BEFORE - 1])
    weights = theirs.weights()
    for name, parameter in ours.sae.parameters().items():
        assert float((parameter - weights[name]).abs().max()) < 1e-12, name
    for name in ("W_enc", "W_dec", "b_enc"):
        for memory in (ours.adam.mean, ours.adam.square):
            assert not memory[name][dead_E].any()
            assert memory[name][~dead_E].any()
    gaps = lockstep(ours, theirs, batches[BEFORE:])
    print("resampled:", *(f"{key} {gap.size:.1e}" for key, gap in gaps.items()))
    assert largest(gaps) < 1e-12, gaps


@pytest.mark.usefixtures("rows")
@pytest.mark.parametrize("change", [{"encoder_scale": 0.2002}, {"compat": None}])
def test_other_settings_are_seen(change: dict[str, object]) -> None:
    """compat null: the paper's, encoder rows of 0.2 times the living ones' norm, whatever the row's norm is."""
    ours, theirs, batches, dead_E = trained(**change)
    theirs.trainer.resample_neurons(dead_E.clone(), batches[BEFORE - 1])
    assert float((ours.sae.W_enc - theirs.weights()["W_enc"]).abs().max()) > 1e-6


def test_rows_are_drawn_by_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """What multinomial is asked: the errors (theirs, compat), or the squares of the losses (the paper)."""
    asked = []
    monkeypatch.setattr(torch, "multinomial", lambda weights, n, **_: asked.append(weights) or torch.arange(n))
    error_B = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    for compat in ("dictionary_learning", None):
        draw_rows(error_B, 2, ResamplingSettings(compat=compat), seed=0, step=1)
    assert torch.equal(asked[0] / asked[0].sum(), error_B / error_B.sum())
    assert torch.equal(asked[1] / asked[1].sum(), error_B**4 / (error_B**4).sum())
    assert trainee_module.draw_rows is draw_rows
