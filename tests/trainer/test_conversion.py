"""docs/input_scale.md: weights chosen for raw rows, converted, give scaled rows the same way to go, in float64."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from strata_sae.pipeline.objective import TERMS
from strata_sae.pipeline.saes import ARCHITECTURES
from strata_sae.pipeline.trainer.finish import in_raw_units
from strata_sae.pipeline.trainer.optimiser import Adam
from strata_sae.pipeline.trainer.trainee import Trainee
from support.lockstep import Weights, our_trainee, planted_rows

PAGE = Path(__file__).parents[2] / "docs/input_scale.md"
D_MODEL, D_SAE, BATCH, STEPS, RATE, EPSILON, S = 12, 48, 32, 60, 1e-3, 1e-3, 0.05
"""Raw rows have E||x||^2 = 1 / S^2. Adam's epsilon is as large as its gradients, so that its conversion counts."""
TOLERANCE, VISIBLE = 1e-9, 1e-3
"""Of the way moved: the largest distance of equal runs (1e-5 is asked for), the smallest of other runs."""
WITHOUT_FACTOR = {"ghost_gradients"}
TOPK = {"architecture": "topk", "d_sae": D_SAE, "k": 4}
RELU = {"architecture": "relu", "d_sae": D_SAE}
JUMP = {"architecture": "jump_relu", "d_sae": D_SAE, "initial_threshold": 0.3 / S, "bandwidth": 0.2 / S}
TWO = {"architecture": "two_child_topk", "d_sae": D_SAE, "k": 4}


class Line(NamedTuple):
    """A line of the page's table."""

    of: str
    when: str
    settings: tuple[str, ...]
    factor: str


class Case(NamedTuple):
    """What stands for lines of the table: settings for raw rows."""

    sae: dict[str, Any]
    objective: dict[str, dict[str, Any]]
    training: dict[str, Any] = {}  # noqa: RUF012 - never changed


def lines() -> list[Line]:
    table = re.findall(r"^\| `(\w+)` \|(.*?)\| (`.*?`) \| (\S+) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [Line(of, when.strip(), tuple(re.findall(r"`(\w+)`", keys)), factor) for of, when, keys, factor in table]


def power(factor: str, settings: dict[str, Any]) -> float:
    """The exponent of s: of 1, s, s^2, s^-1, s^(2-p), s^(2-p_start)."""
    if factor == "1":
        return 0.0
    if name := re.fullmatch(r"s\^\(2-(\w+)\)", factor):
        return 2.0 - float(settings[name[1]])
    return float(factor.removeprefix("s").removeprefix("^") or 1)


def sse(**more: Any) -> dict[str, Any]:
    return {"reconstruction": {}, **more}


DEAD = {"dead_after_rows": 2 * BATCH}
STEPS_OF_P = {"begin": 0.1, "queue_steps": 4}
"""p changes every 4.7 steps."""
TINY = {"form": "lp_p", "p": 0.5, "epsilon": 0.5 / S}
CASES: dict[str, Case] = {
    "reconstruction sum": Case(TOPK, {"reconstruction": {"weight": 0.7}}),
    "reconstruction mean": Case(TOPK, {"reconstruction": {"reduction": "mean"}}),
    "reconstruction fvu": Case(TOPK, {"reconstruction": {"reduction": "fvu"}}),
    **{
        f"{name} {reduction}": Case(sae, {**beside, name: {**settings, "reduction": reduction}})
        for name, sae, beside, settings in [
            ("prefix_reconstruction", TOPK, {}, {"fractions": [0.25, 1.0]}),
            ("hierarchical_topk", TOPK, {}, {"ks": [2, 4]}),
            ("multi_k", TOPK, sse(), {"weight": 0.3}),
        ]
        for reduction in ("sum", "mean", "fvu")
    },
    "l1": Case(RELU, sse(l1={"weight": 0.2 / S})),
    "l1_decoder_norm": Case({**RELU, "decoder": "free"}, sse(l1_decoder_norm={"weight": 0.2 / S})),
    "lp lp_p": Case(RELU, sse(lp={"weight": 0.2 * S**-1.5, **TINY})),
    "lp lp": Case(RELU, sse(lp={"weight": 0.02 / S, **TINY, "form": "lp"})),
    **{
        f"frequency_weighted_lp {clip}": Case(
            RELU,
            sse(
                frequency_weighted_lp={
                    **{"weight": 0.2 * S**-1.5, "p": 0.5, "epsilon": 0.5 / S, "warmup_steps": 5, "clip": clip},
                    **({"clip_min": 0.19 * S**-1.5, "clip_max": 0.22 * S**-1.5} if clip == "absolute" else {}),
                }
            ),
        )
        for clip in ("absolute", "relative", "off")
    },
    **{
        f"p_anneal {form}": Case(RELU, sse(p_anneal={"weight": weight, "form": form, "epsilon": 0.5 / S, **STEPS_OF_P}))
        for form, weight in (("lp_p", 0.2 / S), ("lp", 0.02 / S))
    },
    **{
        f"aux_k {form}": Case(TOPK, sse(aux_k={"form": form, "weight": 0.3}), DEAD)
        for form in ("dictionary_learning", "openai", "hypothesaes", "sparsify", "sae_lens", "overcomplete")
    },
    "orthogonality decoder": Case(TOPK, sse(orthogonality={"weight": 1e-3 / S**2})),
    "orthogonality activations absolute": Case(TOPK, sse(orthogonality={"weight": 0.1, "on": "activations"})),
    "orthogonality activations squared": Case(
        TOPK, sse(orthogonality={"weight": 5 * S**2, "on": "activations", "penalty": "squared"})
    ),
    "ort_sae": Case(TOPK, sse(ort_sae={"weight": 0.25 / S**2, "every_steps": 1})),
    "gated_auxiliary": Case(
        {"architecture": "gated", "d_sae": D_SAE}, sse(l1={"weight": 0.1 / S}, gated_auxiliary={"weight": 0.7})
    ),
    **{
        f"l0 {kind}": Case(JUMP, sse(l0={"kind": kind, "weight": weight / S**2, **more}))
        for kind, weight, more in [
            ("target", 1.0, {"target": 10.0}),
            ("penalty", 0.02, {}),
            ("per_row", 0.02, {"target": 10.0}),
            ("tanh", 0.02, {"scale": 4.0 * S}),
        ]
    },
    "pre_activation": Case(JUMP, sse(pre_activation={"weight": 0.01 / S, "latents": "all"})),
    "two_child_cosine": Case(TWO, sse(two_child_cosine={"weight": 0.1 / S**2})),
}


def lines_of(name: str) -> list[Line]:
    """The lines of the table that a case falls under."""
    case = CASES[name]
    found = []
    for line in lines():
        settings = case.objective.get(line.of)
        if line.of == case.sae["architecture"]:
            settings = case.sae
        if settings is None:
            continue
        own = {**({"reduction": "sum"} if "reconstruction" in line.of else {}), **settings}
        said = re.findall(r"`(?:(\w+): )?(\w+)`", line.when)
        wanted: dict[str, set[str]] = {}
        for key, value in said:
            wanted.setdefault(key or list(wanted)[-1], set()).add(value)
        defaults = (TERMS.get(line.of) or ARCHITECTURES[line.of]).Settings.model_fields
        if all(own.get(key, defaults[key].default if key in defaults else None) in wanted[key] for key in wanted):
            found.append(line)
    return found


def converted(name: str, leave_out: Line | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of the SAE and of the objective for scaled rows, but for those of one line."""
    case = CASES[name]
    sae, objective = dict(case.sae), {term: dict(settings) for term, settings in case.objective.items()}
    for line in lines_of(name):
        changed = sae if line.of == sae["architecture"] else objective[line.of]
        terms = TERMS.get(line.of)
        fields = {} if terms is None else terms.Settings.model_fields
        full = {**{key: field.default for key, field in fields.items()}, **changed}
        for key in line.settings if line != leave_out else ():
            changed[key] = full[key] * S ** power(line.factor, full)
    return sae, objective


class Rates(NamedTuple):
    """Adam's rate and epsilon of what is in units of the rows, and its epsilon of the rest."""

    of_units: float
    epsilon_of_units: float
    epsilon: float


class TwoAdams:
    """The trainer's Adam, once for what is in units of the rows and once for the rest."""

    def __init__(self, trainee: Trainee, rates: Rates, in_units: set[str]):
        of_units = trainee.training.model_copy(update={"epsilon": rates.epsilon_of_units})
        rest = trainee.training.model_copy(update={"epsilon": rates.epsilon})
        self.of_units = Adam.start(of_units, trainee.sae.parameters())
        self.rest = Adam.start(rest, trainee.sae.parameters())
        self.rate, self.in_units = rates.of_units, in_units

    def update(self, parameters: Weights, gradients: Weights, *, rate: float, **more: Any) -> None:
        split: list[Weights] = [{}, {}]
        for name, parameter in parameters.items():
            split[name in self.in_units][name] = parameter
        self.rest.update(split[0], gradients, rate=rate, **more)
        self.of_units.update(split[1], gradients, rate=self.rate, **more)


RAW = Rates(RATE / S, EPSILON / S, EPSILON / S**2)
SCALED = Rates(RAW.of_units * S, RAW.epsilon_of_units * S, RAW.epsilon * S**2)
"""By the page's table of Adam: s, s and s^2."""


def way(
    sae: dict[str, Any], objective: dict[str, Any], scale: float, rates: Rates, training: dict[str, Any]
) -> list[Weights]:
    """Train on raw rows times `scale`. Returns: the parameters at the start and after each update, in raw units."""
    architecture = ARCHITECTURES[sae["architecture"]]
    drawn = architecture.initial_weights(architecture.Settings(**sae), D_MODEL, torch.Generator().manual_seed(0))
    weights = {name: tensor.double() for name, tensor in drawn.items()}
    if "threshold" in weights:
        weights["threshold"][:] = sae["initial_threshold"]  # in float64
    weights["b_dec"] += 0.3 / S * scale * torch.randn(D_MODEL, generator=torch.Generator().manual_seed(1)).double()
    settings = {"learning_rate": RATE, "clip_norm": None, **training}
    trainee = our_trainee(weights, n_steps=STEPS, variant={"sae": sae, "objective": objective}, **settings)
    in_units = set(architecture.scales_with_x) & weights.keys()
    trainee.adam = TwoAdams(trainee, rates, in_units)  # type: ignore[assignment]
    path = [in_raw_units(trainee.sae.parameters(), scale, in_units)]
    for x_BM in planted_rows(STEPS, BATCH, D_MODEL):
        path = [*path[:-1], {name: tensor.clone() for name, tensor in path[-1].items()}]
        assert trainee.update(x_BM / S * scale) is not None, trainee.diverged
        path.append(in_raw_units(trainee.sae.parameters(), scale, in_units))
    return path


def apart(one: list[Weights], other: list[Weights]) -> float:
    """The largest distance of the two ways at any step, over the length of the first, of the worst parameter."""
    worst = 0.0
    for name in one[0]:
        length = sum((after[name] - before[name]).norm() for before, after in pairwise(one))
        distance = max((here[name] - there[name]).norm() for here, there in zip(one, other, strict=True))
        assert length > 0, f"{name} does not move"
        worst = max(worst, float(distance / length))
    return worst


@pytest.mark.parametrize("name", CASES)
def test_each_line_of_the_page(name):
    case = CASES[name]
    raw = way(case.sae, case.objective, 1.0, RAW, case.training)
    assert apart(raw, way(*converted(name), S, SCALED, case.training)) < TOLERANCE
    for line in lines_of(name):
        if line.factor != "1":
            without = way(*converted(name, leave_out=line), S, SCALED, case.training)
            assert apart(raw, without) > VISIBLE, f"control: {line} as it is"


@pytest.mark.parametrize("changed", ["of_units", "epsilon_of_units", "epsilon"])
def test_adams_settings_of_the_page(changed):
    """Each of the three factors is needed; without the first, there is one learning rate, as in a run."""
    case = CASES["l1"]
    raw = way(case.sae, case.objective, 1.0, RAW, {})
    assert apart(raw, way(*converted("l1"), S, SCALED, {})) < TOLERANCE
    assert apart(raw, way(*converted("l1"), S, SCALED._replace(**{changed: getattr(RAW, changed)}), {})) > VISIBLE


def test_the_page_has_a_line_for_every_term_and_every_line_has_a_case():
    on_the_page = {line.of for line in lines()}
    assert on_the_page | WITHOUT_FACTOR == {*TERMS, "jump_relu"}
    tried = {line for name in CASES for line in lines_of(name)}
    assert set(lines()) == tried
    for name, case in CASES.items():
        of = {line.of for line in lines_of(name)}
        assert set(case.objective) <= of, f"{name}: which line is it?"


def test_no_factor_is_right_where_p_changes():
    """Lp with the weight that is right at p = 1, and with that for p = 0.5: both are another run."""
    lp = {"weight": 0.2 / S, "p": {"start": 1.0, "end": 0.5}, "epsilon": 0.5 / S}
    raw = way(RELU, sse(lp=lp), 1.0, RAW, {})
    for p in (1.0, 0.5):
        scaled = {**lp, "weight": lp["weight"] * S ** (2 - p), "epsilon": lp["epsilon"] * S}
        assert apart(raw, way(RELU, sse(lp=scaled), S, SCALED, {})) > VISIBLE


def test_ghost_gradients_have_no_factor():
    ghosts = {"weight": 1.0}
    raw = way(RELU, sse(ghost_gradients=ghosts), 1.0, RAW, DEAD)
    for exponent in (-2, 0, 2):
        scaled = {"weight": S**exponent}
        assert apart(raw, way(RELU, sse(ghost_gradients=scaled), S, SCALED, DEAD)) > VISIBLE
