"""The search for the knob at which an SAE has the wanted L0: a pure function of the trials so far.

With u = log knob and e(u) = log L0 - log target, a safeguarded secant looks for e = 0. The second trial rests on the
slope that is usual for the kind of knob, and moves at most tenfold; later ones rest on the two trials nearest the
target, whose slope may differ from the usual one by a factor of 4. Once the target lies between two trials, a step that
leaves the inner 90 % of that bracket becomes a step of regula falsi.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, NamedTuple

MOST_TRIALS = 6
"""Trainings after which a search has failed (count)."""
FIRST_MOVE = 10.0
"""Largest factor between the knobs of the first two trials."""
SLOPE_RANGE = 4.0
"""Largest factor between a measured slope that is used and the usual one."""
MARGIN = 0.05
"""Share of a bracket at each of its ends that a step may not lead to."""
LEAST_L0 = 1e-3
"""Stands for an L0 of 0, which has no logarithm."""

Outcome = Literal["searching", "matched", "nearest", "failed"]
"""`nearest`: no value of an integer knob fits, and this one comes nearest."""


@dataclass(frozen=True)
class Search:
    """What is looked for, and where it begins."""

    target: float
    """The wanted L0."""
    tolerance: float
    """Largest |L0 / target - 1|."""
    start: float
    """The first knob."""
    slope: float
    """The usual d log L0 / d log knob."""
    is_integer: bool
    limits: tuple[float, float]
    """Smallest and largest value of the knob."""


class Tried(NamedTuple):
    """One trial: a training, and what it led to."""

    knob: float
    l0: float | None
    """None: training diverged."""


class Decision(NamedTuple):
    """What follows from the trials so far."""

    outcome: Outcome
    knob: float | None = None
    """Of the next trial, while `searching`."""
    accepted: int | None = None
    """Number of the trial, from 1, that is taken."""
    reason: str | None = None
    """Why it failed."""


class _Point(NamedTuple):
    """A trial in logarithms."""

    e: float
    u: float


def decide(search: Search, trail: Sequence[Tried]) -> Decision:
    """The next trial, or how the search ended."""
    if not trail:
        return Decision("searching", _valid(search, search.start))
    points = []
    for number, (tried, l0) in enumerate(trail, start=1):
        if l0 is None:
            return Decision("failed", reason=f"training {number} diverged")
        if abs(l0 / search.target - 1.0) <= search.tolerance:
            return Decision("matched", accepted=number)
        points.append(_Point(math.log(max(l0, LEAST_L0) / search.target), math.log(tried)))
    bracket = _bracket(points)
    if search.is_integer and bracket is not None and round(math.exp(bracket[1].u)) - round(math.exp(bracket[0].u)) <= 1:
        nearest = min(range(len(points)), key=lambda place: abs(points[place].e))
        return Decision("nearest", accepted=nearest + 1)
    if len(trail) >= MOST_TRIALS:
        return Decision("failed", reason=f"not reached in {MOST_TRIALS} trainings")
    wanted = _step(search, points, bracket)
    knob = _untried(search, [tried.knob for tried in trail], wanted, points, bracket)
    if knob is None:
        return Decision("failed", reason=f"beyond the reach of the knob, whose values are {_range(search)}")
    return Decision("searching", knob)


def _step(search: Search, points: list[_Point], bracket: tuple[_Point, _Point] | None) -> float:
    """The u of the next trial."""
    best, *others = sorted(points, key=lambda point: abs(point.e))
    slope = search.slope
    if others:
        measured = (best.e - others[0].e) / (best.u - others[0].u)
        if measured * slope > 0.0:
            bounded = min(max(abs(measured), abs(slope) / SLOPE_RANGE), abs(slope) * SLOPE_RANGE)
            slope = math.copysign(bounded, slope)
    u = best.u - best.e / slope
    if not others:
        u = best.u + min(max(u - best.u, -math.log(FIRST_MOVE)), math.log(FIRST_MOVE))
    if bracket is not None:
        low, high = bracket
        width = high.u - low.u
        if not low.u + MARGIN * width <= u <= high.u - MARGIN * width:
            u = low.u + width * abs(low.e) / (abs(low.e) + abs(high.e))
    return u


def _bracket(points: list[_Point]) -> tuple[_Point, _Point] | None:
    """The two neighbours in u between which e changes its sign, the narrowest such pair; by rising u."""
    rising = sorted(points, key=lambda point: point.u)
    pairs = [(low, high) for low, high in pairwise(rising) if low.e * high.e < 0.0]
    return min(pairs, key=lambda pair: pair[1].u - pair[0].u, default=None)


def _untried(
    search: Search, tried: list[float], u: float, points: list[_Point], bracket: tuple[_Point, _Point] | None
) -> float | None:
    """The value at u, or the next one towards the target where that was tried; None: there is none."""
    knob = _valid(search, math.exp(min(u, 700.0)))
    if not search.is_integer:
        return None if knob in tried else knob
    if bracket is not None:
        low, high = (round(math.exp(point.u)) for point in bracket)
        return float(min(max(round(knob), low + 1), high - 1))
    best = min(points, key=lambda point: abs(point.e))
    upwards = 1 if best.e * search.slope < 0.0 else -1
    while knob in tried:
        knob += upwards
    return knob if search.limits[0] <= knob <= search.limits[1] else None


def _valid(search: Search, knob: float) -> float:
    """The knob within its limits, as an integer where it is one, else in 6 digits, so that a config can spell it."""
    low, high = search.limits
    within = min(max(knob, low), high)
    return float(round(within)) if search.is_integer else float(f"{within:.6g}")


def _range(search: Search) -> str:
    return f"{search.limits[0]:g} to {search.limits[1]:g}"
