"""Our gradients and updates are SAELens's, where both mean the same: free decoder, acts not rescaled by its norms."""

from typing import Any, NamedTuple

import pytest
import torch

from strata_sae.pipeline.trainer.trainee import Trainee
from support.lockstep import largest, lockstep, our_trainee, planted_rows
from support.saelens_side import SAELens

pytestmark = pytest.mark.peers

D_MODEL, D_SAE, K, BATCH, STEPS, WARMUP, RATE = 32, 256, 6, 128, 100, 10, 1e-3
SPARSITY_WARMUP = 40


class Same(NamedTuple):
    """One architecture of theirs with its settings, the coefficient it warms up, and ours."""

    architecture: str
    theirs: dict[str, Any]
    coefficient: tuple[str, float] | None
    sae: dict[str, Any]
    objective: dict[str, Any]
    auxiliary: dict[str, Any] | None = None
    """Our terms of dead latents; their mask is one step old, so it takes part in single gradients only."""


NO_RESCALE = {"k": K, "rescale_acts_by_decoder_norm": False}
AUX_K = {"aux_k": {"form": "sae_lens", "weight": 1.0}}
WIDTHS = [32, 64, 128, D_SAE]


def warmed_up(weight: float) -> dict[str, Any]:
    """A weight that grows from 0 over SPARSITY_WARMUP steps."""
    return {"start": 0.0, "end": weight, "finish": SPARSITY_WARMUP / STEPS}


def jump_relu(mode: str, kind: str, weight: float, *, ste: bool, **knobs: Any) -> Same:
    """Their JumpReLU with a sparsity loss, and ours with its kind."""
    threshold = {"jumprelu_init_threshold": 0.05, "jumprelu_bandwidth": 0.05, "pre_act_loss_coefficient": 3e-3}
    theirs = {"jumprelu_sparsity_loss_mode": mode, "jumprelu_ste_to_input": ste, "l0_coefficient": weight, **threshold}
    if "target" in knobs:
        theirs["target_l0"] = knobs["target"]
    if "scale" in knobs:
        theirs["jumprelu_tanh_scale"] = knobs["scale"]
    return Same(
        "jumprelu",
        {**theirs, "l0_warm_up_steps": SPARSITY_WARMUP},
        ("l0", weight),
        {"architecture": "jump_relu", "pre_bias": True, "bandwidth": 0.05, "ste_to_input": ste},
        {"reconstruction": {}, "l0": {"kind": kind, "weight": warmed_up(weight), **knobs}},
        {"pre_activation": {"weight": 3e-3}},
    )


L1 = {"l1_coefficient": 0.05, "l1_warm_up_steps": SPARSITY_WARMUP}
L1_TERM = {"reconstruction": {}, "l1_decoder_norm": {"weight": warmed_up(0.05)}}
ARCHITECTURES = {
    "topk": Same("topk", NO_RESCALE, None, {"architecture": "topk", "k": K}, {"reconstruction": {}}, AUX_K),
    "batch_topk": Same(
        "batchtopk", NO_RESCALE, None, {"architecture": "batch_topk", "k": K}, {"reconstruction": {}}, AUX_K
    ),
    "matryoshka": Same(
        "matryoshka_batchtopk",
        {**NO_RESCALE, "matryoshka_widths": WIDTHS},
        None,
        {"architecture": "batch_topk", "k": K},
        {"prefix_reconstruction": {"fractions": None, "ends": WIDTHS, "levels": "sum"}},
        AUX_K,
    ),
    "standard": Same("standard", L1, ("l1", 0.05), {"architecture": "relu"}, L1_TERM),
    "gated": Same(
        "gated", L1, ("l1", 0.05), {"architecture": "gated"}, {**L1_TERM, "gated_auxiliary": {"detached": False}}
    ),
    "jump_relu": jump_relu("step", "penalty", 0.01, ste=False),
    "jump_relu_ste_to_input": jump_relu("step", "penalty", 0.01, ste=True),
    "jump_relu_quadratic": jump_relu("quadratic", "per_row", 0.01, ste=False, target=10.0),
    "jump_relu_tanh": jump_relu("tanh", "tanh", 0.02, ste=True, scale=4.0),
}


def both(
    name: str, *, auxiliary: bool, norm: float = 0.1, objective: Any = None, **training: Any
) -> tuple[Trainee, SAELens]:
    """Both at the same weights, moved a little away from where theirs start."""
    same = ARCHITECTURES[name]
    theirs = {key: knob for key, knob in same.theirs.items() if auxiliary or key != "pre_act_loss_coefficient"}
    sizes = {"d_in": D_MODEL, "d_sae": D_SAE, "decoder_init_norm": norm}
    other = SAELens(same.architecture, rate=RATE, steps=STEPS, batch=BATCH, warmup=WARMUP, **sizes, **theirs)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter_name, parameter in other.sae.named_parameters():
            small = 0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += small.abs() if parameter_name == "threshold" else small
    terms = {**same.objective, **((same.auxiliary or {}) if auxiliary else {}), **(objective or {})}
    variant = {"sae": {**same.sae, "d_sae": D_SAE, "decoder": "free"}, "objective": terms}
    settings = {"learning_rate": RATE, "warmup_steps": WARMUP, **training}
    return our_trainee(other.weights(), n_steps=STEPS, variant=variant, **settings), other


def gradient_gap(name: str, n_dead: int, **changes: Any) -> float:
    """The largest difference of a gradient, relative to the parameter's largest, and of the loss."""
    ours, theirs = both(name, auxiliary=n_dead > 0, norm=1.0, **changes)
    (x_BM,) = planted_rows(1, BATCH, D_MODEL)
    dead = None
    if n_dead:
        dead = torch.zeros(D_SAE, dtype=torch.bool)
        dead[:: D_SAE // n_dead] = True
    same = ARCHITECTURES[name]
    coefficients = {} if same.coefficient is None else dict([same.coefficient])
    loss, expected = theirs.gradients(x_BM, dead, coefficients)
    result = ours.objective.forward_backward(x_BM, dead, 1.0)
    assert result.gradients.keys() == expected.keys()
    return max(
        abs(float(result.loss) / loss - 1),
        *(float((result.gradients[n] - g).abs().max() / g.abs().max()) for n, g in expected.items()),
    )


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("n_dead", [0, 8, 64])
def test_gradients_of_one_batch(name: str, n_dead: int) -> None:
    if n_dead and not ARCHITECTURES[name].auxiliary:
        pytest.skip("nothing there depends on dead latents")
    gap = gradient_gap(name, n_dead)
    print(f"{name}, {n_dead} dead: {gap:.1e}")
    assert gap < 1e-12


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_100_updates(name: str) -> None:
    ours, theirs = both(name, auxiliary=False)
    gaps = lockstep(ours, theirs, planted_rows(STEPS, BATCH, D_MODEL))
    print(name, *(f"{key} {gap.size:.1e}" for key, gap in gaps.items()))
    assert largest(gaps) < 1e-12, gaps


@pytest.mark.usefixtures("no_float32")
def test_the_running_threshold_of_batch_topk() -> None:
    settings = {"threshold_mean": "from_zero", "threshold_beta": 0.99}
    for beta, limit in ((0.99, 1e-13), (0.9901, None)):
        ours, theirs = both("batch_topk", auxiliary=False, **{**settings, "threshold_beta": beta})
        lockstep(ours, theirs, planted_rows(STEPS, BATCH, D_MODEL))
        gap = abs(ours.threshold.value() - float(theirs.sae.topk_threshold))
        assert (gap < limit) if limit else gap > 1e-6


# -- controls ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if ARCHITECTURES[name].auxiliary])
def test_another_auxiliary_weight_is_seen(name: str) -> None:
    (term, knobs), *_ = ARCHITECTURES[name].auxiliary.items()
    assert gradient_gap(name, 64, objective={term: {**knobs, "weight": knobs["weight"] * 1.001}}) > 1e-9


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if ARCHITECTURES[name].coefficient])
def test_another_coefficient_is_seen(name: str) -> None:
    term = next(key for key in ARCHITECTURES[name].objective if key in ("l0", "l1_decoder_norm"))
    knobs = ARCHITECTURES[name].objective[term]
    changed = {term: {**knobs, "weight": {**knobs["weight"], "end": knobs["weight"]["end"] * 1.001}}}
    assert gradient_gap(name, 0, objective=changed) > 1e-9


def test_their_attached_gate_is_not_the_detached_one() -> None:
    assert gradient_gap("gated", 0, objective={"gated_auxiliary": {"detached": True}}) > 1e-3


@pytest.mark.usefixtures("no_float32")
@pytest.mark.parametrize("name", ["topk", "gated", "jump_relu"])
def test_another_learning_rate_is_seen(name: str) -> None:
    ours, theirs = both(name, auxiliary=False, learning_rate=RATE * 1.001)
    assert largest(lockstep(ours, theirs, planted_rows(4, BATCH, D_MODEL))) > 1e-8
