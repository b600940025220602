"""For each trainer of dictionary_learning, the settings that make ours the same: docs/parity.md."""

from typing import Any, NamedTuple

STEPS, WARMUP, DECAY_START = 300, 30, 240
SPARSITY_WARMUP = 100
D_MODEL, D_SAE, K, BATCH = 64, 1024, 8, 256
RATE = 1e-3


class Same(NamedTuple):
    """One trainer of theirs, its settings, and ours."""

    trainer: str
    theirs: dict[str, Any]
    sae: dict[str, Any]
    objective: dict[str, Any]
    training: dict[str, Any]
    starts_at_median: bool = False
    """Whether their first update puts the decoder bias at the geometric median of its batch."""
    from_equal_states: bool = False
    """Whether every update has to start from equal states: where p < 1 and nothing is added to a code, the derivative
    of a code near 0 is so large that rounding grows from update to update."""


def warmed_up(weight: float) -> dict[str, Any]:
    """A weight that grows from 0 over SPARSITY_WARMUP steps."""
    return {"start": 0.0, "end": weight, "finish": SPARSITY_WARMUP / STEPS}


GROUPS, ENDS = [1 / 16, 1 / 16, 1 / 8, 1 / 4, 1 / 2], [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0]
ANNEALED = {"anneal_start": 60, "p_end": 0.2, "n_sparsity_updates": 5, "initial_sparsity_penalty": 0.03}


def annealed(form: str) -> dict[str, Any]:
    """p_anneal as ANNEALED has it."""
    compat = {"epsilon": 0.0, "compat": "dictionary_learning"}
    ends = {"begin": 60 / STEPS, "finish": 1.0, "p_end": 0.2, "n_updates": 5}
    return {"reconstruction": {}, "p_anneal": {"weight": warmed_up(0.03), "form": form, **ends, **compat}}


SPARSE = {"sparsity_warmup_steps": SPARSITY_WARMUP}
CONSTRAINED_ADAM = {"clip_norm": None, "projection_epsilon": 0.0}
RELU, GATED = {"architecture": "relu"}, {"architecture": "gated"}
L1_NORM = {"reconstruction": {}, "l1_decoder_norm": {"weight": warmed_up(0.05)}}
SELECTED = {"reconstruction": {}, "aux_k": {}}

TRAINERS = {
    "topk": Same("TopKTrainer", {"k": K}, {"architecture": "topk", "k": K}, SELECTED, {}, True),
    "batch_topk": Same("BatchTopKTrainer", {"k": K}, {"architecture": "batch_topk", "k": K}, SELECTED, {}, True),
    "matryoshka": Same(
        "MatryoshkaBatchTopKTrainer",
        {"k": K, "group_fractions": GROUPS},
        {"architecture": "batch_topk", "k": K},
        {"prefix_reconstruction": {"fractions": ENDS, "compat": "dictionary_learning"}, "aux_k": {}},
        {},
        True,
    ),
    "standard": Same(
        "StandardTrainer",
        {"l1_penalty": 0.05, **SPARSE},
        RELU,
        {"reconstruction": {}, "l1": {"weight": warmed_up(0.05)}},
        CONSTRAINED_ADAM,
    ),
    "april": Same(
        "StandardTrainerAprilUpdate", {"l1_penalty": 0.05, **SPARSE}, {**RELU, "decoder": "free"}, L1_NORM, {}
    ),
    "april_no_pre_bias": Same(
        "StandardTrainerAprilUpdate",
        {"l1_penalty": 0.05, "dict_class": "RepairedAutoEncoderNew", **SPARSE},
        {**RELU, "decoder": "free", "pre_bias": False},
        L1_NORM,
        {},
    ),
    "p_anneal": Same(
        "PAnnealTrainer",
        {"sparsity_function": "Lp^p", **ANNEALED, **SPARSE},
        RELU,
        annealed("lp_p"),
        CONSTRAINED_ADAM,
        from_equal_states=True,
    ),
    "p_anneal_root": Same(
        "PAnnealTrainer",
        {"sparsity_function": "Lp", **ANNEALED, **SPARSE},
        RELU,
        annealed("lp"),
        CONSTRAINED_ADAM,
        from_equal_states=True,
    ),
    "gated": Same(
        "GatedSAETrainer",
        {"l1_penalty": 0.05, **SPARSE},
        GATED,
        {"reconstruction": {}, "l1": {"weight": warmed_up(0.05)}, "gated_auxiliary": {}},
        {"beta1": 0.0, **CONSTRAINED_ADAM},
    ),
    "gated_anneal": Same(
        "GatedAnnealTrainer",
        {"sparsity_function": "Lp^p", **ANNEALED, **SPARSE},
        GATED,
        {**annealed("lp_p"), "gated_auxiliary": {}},
        {"beta1": 0.0, **CONSTRAINED_ADAM},
        from_equal_states=True,
    ),
    "jump_relu": Same(
        "JumpReluTrainer",
        {"sparsity_penalty": 1.0, "target_l0": 20.0, "bandwidth": 0.05, **SPARSE},
        {"architecture": "jump_relu", "bandwidth": 0.05, "compat": "dictionary_learning"},
        {"reconstruction": {}, "l0": {"kind": "target", "target": 20.0, "weight": warmed_up(1.0)}},
        {"beta1": 0.0},
    ),
}
