"""Our updates are dictionary_learning's: float64, equal start, equal rows, compared after each of 300 updates."""

from typing import Any

import pytest

from support.dictionary_learning_settings import BATCH, D_MODEL, D_SAE, DECAY_START, RATE, STEPS, TRAINERS, WARMUP
from support.lockstep import Gap, largest, lockstep, our_trainee, planted_rows

pytestmark = pytest.mark.peers

FEW = 2 * BATCH
SELECTING = ["topk", "batch_topk", "matryoshka"]
TOLERANCES = {"gated_anneal": 1e-10}
"""Of the others: 1e-12."""


def train_both(name: str, *, n_steps: int = STEPS, dead_after: int = 10_000_000, **changes: Any) -> dict[str, Gap]:
    """Lockstep on planted rows; `changes` are made to our settings of training, `objective` to our terms."""
    from strata_sae.pipeline.trainer.centres import geometric_median
    from support.dictionary_learning_side import DictionaryLearning

    same = TRAINERS[name]
    usual = {"steps": STEPS, "lr": RATE, "warmup_steps": WARMUP, "decay_start": DECAY_START}
    theirs = DictionaryLearning(same.trainer, activation_dim=D_MODEL, dict_size=D_SAE, **usual, **same.theirs)
    theirs.trainer.dead_feature_threshold = dead_after
    if name == "jump_relu":
        theirs.trainer.ae.threshold.data.fill_(0.1)  # at their 0.001 most would move below 0, where ours are held
    batches = planted_rows(n_steps, BATCH, D_MODEL)
    start = theirs.weights()
    if same.starts_at_median:
        start["b_dec"] = geometric_median(batches[0])
    training = {
        "learning_rate": RATE,
        "warmup_steps": WARMUP,
        "decay_start": DECAY_START / STEPS,
        "dead_after_rows": dead_after,
        "compat": "dictionary_learning",
        **same.training,
    }
    variant = {"sae": {**same.sae, "d_sae": D_SAE}, "objective": {**same.objective, **changes.pop("objective", {})}}
    ours = our_trainee(start, n_steps=STEPS, variant=variant, **{**training, **changes})
    after = (lambda step: theirs.lend(ours)) if same.from_equal_states else (lambda step: None)
    return lockstep(ours, theirs, batches, after)


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", TRAINERS)
def test_300_updates_equal_theirs(name: str) -> None:
    gaps = train_both(name)
    print(name, *(f"{key} {gap.size:.1e}" for key, gap in gaps.items()))
    assert largest(gaps) < TOLERANCES.get(name, 1e-12), gaps


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", SELECTING)
def test_300_updates_with_dead_latents_equal_theirs(name: str) -> None:
    gaps = train_both(name, dead_after=FEW)
    print(name, *(f"{key} {gap.size:.1e}" for key, gap in gaps.items()))
    assert largest(gaps) < 1e-12, gaps


@pytest.mark.parametrize("name", SELECTING)
def test_their_float32_moves_little(name: str) -> None:
    """As they stand: their AuxK casts to float32, loss included, and so does our clip."""
    gaps = train_both(name, dead_after=FEW)
    print(name, *(f"{key} {gap.size:.1e}" for key, gap in gaps.items()))
    assert gaps.pop("loss").size < 1e-6
    assert largest(gaps) < 1e-8, gaps


# -- controls: a change of a thousandth is seen, within a few updates -------------------------------------------------


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", TRAINERS)
def test_another_learning_rate_is_seen(name: str) -> None:
    assert largest(train_both(name, n_steps=8, learning_rate=RATE * 1.001)) > 1e-7


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", [name for name in TRAINERS if name not in SELECTING])
def test_another_penalty_is_seen(name: str) -> None:
    weighted = {
        key: dict(knobs) for key, knobs in TRAINERS[name].objective.items() if isinstance(knobs.get("weight"), dict)
    }
    for knobs in weighted.values():
        knobs["weight"] = {**knobs["weight"], "end": knobs["weight"]["end"] * 1.001}
    assert weighted
    assert largest(train_both(name, n_steps=8, objective=weighted)) > 1e-9


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", SELECTING)
def test_another_auxiliary_weight_is_seen(name: str) -> None:
    changed = {"aux_k": {"weight": 1.001 / 32}}
    assert largest(train_both(name, n_steps=12, dead_after=FEW, objective=changed)) > 1e-9


def test_the_projection_matters() -> None:
    """What ConstrainedAdam leaves out beside the norm is more than rounding: why there is `projection_epsilon`."""
    assert largest(train_both("standard", n_steps=8, projection_epsilon=1e-6)) > 1e-9
