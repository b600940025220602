"""The knob of a variant: the one setting that moves how many latents are active, by which L0 is matched."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import Field, field_validator

from strata_sae.pipeline.objective import check_terms
from strata_sae.pipeline.objective.term import TermSettings
from strata_sae.pipeline.objective.thresholds import TARGETED
from strata_sae.pipeline.saes.base import SAESettings
from strata_sae.pipeline.schedules import SCHEDULES, Schedule
from strata_sae.pipeline.settings import Settings

SPARSITY = ("l1", "l1_decoder_norm", "lp", "p_anneal", "frequency_weighted_lp")
"""Terms whose weight is a knob of architectures that learn L0."""
RANKED = ("topk", "batch_topk", "two_child_topk")
"""Architectures whose k is a knob. That of groupmax, which must divide d_sae, is none."""
SLOPE_OF_SPARSITY, SLOPE_OF_PENALTY, SLOPE_OF_COUNT = -0.8, -0.76, 1.0
"""The usual d log L0 / d log knob, measured on the demo's store."""
WEIGHTS = (1e-30, 1e30)
"""Smallest and largest weight that is tried."""


class MatchSettings(Settings):
    """Training again along the variant's knob until the L0 of the scored held-out rows fits."""

    l0: float = Field(gt=0.0)
    """The wanted mean number of active latents of a held-out row, of the rows that `evaluation` scores."""
    tolerance: float = Field(default=0.02, gt=0.0, lt=1.0)
    """Largest |L0 / l0 - 1| that counts as matched."""
    knob: str | None = None
    """The setting that is changed, such as objective.l1.weight. null: the only one that there is."""
    first: dict[str, float] = Field(default={})
    """Its value in the first training at a site (or route), such as an earlier search found there. A site that is not
    named begins with the config's value, and a target or k with `l0`."""

    @field_validator("first")
    @classmethod
    def _above_zero(cls, first: dict[str, float]) -> dict[str, float]:
        if wrong := [site for site, value in first.items() if not value > 0.0]:
            raise ValueError(f"{', '.join(wrong)}: must be above 0, since knobs are searched in logarithms")
        return first


@dataclass(frozen=True)
class Knob:
    """A setting that moves L0, and what is known of it."""

    name: str
    """Its path from the variant: `sae.k`, `objective.l1.weight`, `objective.l0.target`."""
    start: float
    """The value that is tried first: the wanted L0 where the knob says how many are active, else the config's."""
    slope: float
    """The usual d log L0 / d log knob."""
    is_integer: bool
    limits: tuple[float, float]
    first: Mapping[str, float]
    """Site or route -> the value that is tried first there, in the place of `start`."""

    def start_at(self, route: str) -> float:
        """The value that is tried first at a site or on a route."""
        return self.first.get(route, self.start)


def knob_of(match: MatchSettings, sae: SAESettings, objective: Mapping[str, TermSettings]) -> Knob:
    """The knob of a variant. Raises: ValueError if there is none, or several of which `match.knob` names none."""
    names = [f"objective.{term}.weight" for term in SPARSITY if term in objective]
    if (l0 := objective.get("l0")) is not None:
        names.append(f"objective.l0.{'target' if getattr(l0, 'kind', None) in TARGETED else 'weight'}")
    if sae.architecture in RANKED:
        names.append("sae.k")
    allowed = ", ".join(names)
    if not names:
        raise ValueError(
            f"match: {sae.architecture!r} with {', '.join(objective)} has no setting that moves L0; allowed: the k of "
            f"{', '.join(RANKED)}, or a term {', '.join((*SPARSITY, 'l0'))}; remove match, or add one"
        )
    if match.knob is None and len(names) > 1:
        raise ValueError(f"match: several settings move L0 ({allowed}); name one of them in match.knob")
    name = match.knob or names[0]
    if name not in names:
        raise ValueError(f"match.knob: {name!r} moves no L0 here; allowed: {allowed}")
    if match.l0 > sae.d_sae:
        raise ValueError(f"match.l0 ({match.l0:g}) must not exceed d_sae ({sae.d_sae}), as no more can be active")
    knob = _described(name, match, sae, objective)
    low, high = knob.limits
    if wrong := [value for value in match.first.values() if not low <= value <= high]:
        raise ValueError(f"match.first: {wrong[0]:g} is no {name} that can be tried; allowed: {low:g} to {high:g}")
    return knob


def _described(name: str, match: MatchSettings, sae: SAESettings, objective: Mapping[str, TermSettings]) -> Knob:
    value = _value(name, sae, objective)
    if value <= 0.0:
        raise ValueError(f"match: {name} ends at {value:g}, and is searched from there; let it end above 0")
    if name == "sae.k":
        if wrong := [value for value in match.first.values() if value != int(value)]:
            raise ValueError(f"match.first: {wrong[0]:g} is no k; give whole numbers")
        two = sae.architecture == "two_child_topk"
        start = max(1.0, float(round(match.l0 / 2 if two else match.l0)))
        return Knob(name, start, SLOPE_OF_COUNT, True, (1.0, float(sae.d_sae // 3 if two else sae.d_sae)), match.first)
    if name == "objective.l0.target":
        return Knob(name, match.l0, SLOPE_OF_COUNT, False, (1e-3, float(sae.d_sae)), match.first)
    slope = SLOPE_OF_PENALTY if name == "objective.l0.weight" else SLOPE_OF_SPARSITY
    return Knob(name, value, slope, False, WEIGHTS, match.first)


def with_knob(
    name: str, value: float, sae: SAESettings, objective: Mapping[str, TermSettings]
) -> tuple[SAESettings, dict[str, TermSettings]]:
    """SAE and terms with the knob at a value; of a schedule, the value at its end.

    Raises: ValueError if they do not go together.
    """
    group, key, terms = _place(name, sae, objective)
    old, number = getattr(group, key), int(value) if name == "sae.k" else value
    new = old.model_dump() | {_end_of(old): float(value)} if isinstance(old, Schedule) else number
    changed = type(group).model_validate(group.model_dump() | {key: new})
    if isinstance(changed, TermSettings):
        terms = {term: changed if settings is group else settings for term, settings in objective.items()}
    made = changed if isinstance(changed, SAESettings) else sae
    check_terms(terms, made)
    return made, terms


def _place(
    name: str, sae: SAESettings, objective: Mapping[str, TermSettings]
) -> tuple[SAESettings | TermSettings, str, dict[str, TermSettings]]:
    """The group of settings that holds a knob, the knob's key in it, and the terms."""
    *group, key = name.split(".")
    return sae if group == ["sae"] else objective[group[1]], key, dict(objective)


def _value(name: str, sae: SAESettings, objective: Mapping[str, TermSettings]) -> float:
    """What the knob is at the end of the run."""
    group, key, _ = _place(name, sae, objective)
    value = getattr(group, key)
    return float(getattr(value, _end_of(value)) if isinstance(value, Schedule) else value)


def _end_of(schedule: Schedule) -> str:
    """The key of the value that a schedule arrives at: one that is constant stays at its start."""
    return "start" if SCHEDULES[schedule.shape](1.0, schedule.exponent) == 1.0 else "end"
