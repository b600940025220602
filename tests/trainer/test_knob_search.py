"""The search for a knob on simulated responses: what L0 follows from a knob is known, and trainings cost nothing."""

import math
from collections.abc import Callable

import pytest

from strata_sae.pipeline.trainer.knob_search import FIRST_MOVE, MOST_TRIALS, Decision, Search, Tried, decide


def search(target: float = 32.0, start: float = 0.1, slope: float = -0.8, **changed: object) -> Search:
    options: dict[str, object] = {"tolerance": 0.02, "is_integer": False, "limits": (1e-30, 1e30), **changed}
    return Search(target=target, start=start, slope=slope, **options)  # type: ignore[arg-type]


def run(wanted: Search, response: Callable[[float], float | None]) -> tuple[Decision, list[Tried]]:
    """The end of a search whose every training gives the L0 of `response`."""
    trail: list[Tried] = []
    while (decision := decide(wanted, trail)).outcome == "searching":
        assert decision.knob is not None
        trail.append(Tried(decision.knob, response(decision.knob)))
        assert len(trail) <= MOST_TRIALS
    return decision, trail


def power(slope: float, at: float, target: float = 32.0) -> Callable[[float], float]:
    """L0 is the target at the knob `at`, and moves by `slope` in logarithms."""
    return lambda knob: target * (knob / at) ** slope


def test_the_measured_course_of_l1_on_the_demo_is_walked_again() -> None:
    """judging.md 6.1: 0.1 gave 45.67, the second trial 17.61, and the third, 0.118, 32.22."""
    first = decide(search(), [])
    second = decide(search(), [Tried(0.1, 45.67)])
    assert first == Decision("searching", 0.1)
    assert second.knob == pytest.approx(0.1 * (45.67 / 32) ** (1 / 0.8), rel=1e-5)
    third = decide(search(), [Tried(0.1, 45.67), Tried(0.156, 17.61)])
    slope = (math.log(17.61) - math.log(45.67)) / (math.log(0.156) - math.log(0.1))
    assert third.knob == pytest.approx(0.1 * (32 / 45.67) ** (1 / slope), rel=1e-5) == pytest.approx(0.118, rel=0.01)
    assert decide(search(), [Tried(0.1, 45.67), Tried(0.156, 17.61), Tried(0.118, 32.22)]) == Decision(
        "matched", accepted=3
    )


@pytest.mark.parametrize("slope", [-0.4, -0.8, -1.2, -2.1])
@pytest.mark.parametrize("off", [0.5, 0.8, 1.25, 2.0])
def test_a_guess_within_twofold_takes_three_trainings(slope: float, off: float) -> None:
    decision, trail = run(search(start=off * 0.118), power(slope, 0.118))
    assert decision.outcome == "matched"
    assert len(trail) <= 3


@pytest.mark.parametrize("target", [16.0, 32.0, 64.0])
@pytest.mark.parametrize("off", [0.1, 10.0])
def test_a_guess_ten_times_off_takes_at_most_six(target: float, off: float) -> None:
    def steeper_later(knob: float) -> float:
        x = math.log(knob / 0.118)
        return target * math.exp(-0.8 * x - 0.25 * x * abs(x))

    decision, trail = run(search(target=target, start=off * 0.118), steeper_later)
    assert decision.outcome == "matched"
    assert abs(trail[-1].l0 / target - 1) <= 0.02  # type: ignore[operator]


def test_the_second_trial_moves_at_most_tenfold() -> None:
    assert decide(search(start=1.0), [Tried(1.0, 32e6)]).knob == FIRST_MOVE
    assert decide(search(start=1.0), [Tried(1.0, 0.0)]).knob == 1 / FIRST_MOVE, "an L0 of 0 has a step, too"


@pytest.mark.parametrize(
    ("trail", "slope"),
    [([Tried(0.1, 45.0), Tried(0.2, 44.99)], -0.8 / 4), ([Tried(0.1, 10.0), Tried(0.1001, 9.0)], -0.8 * 4)],
)
def test_a_measured_slope_counts_within_a_factor_of_four(trail: list[Tried], slope: float) -> None:
    """Two trials on one side of the target, whose slope is nearly 0, or far too steep."""
    best = min(trail, key=lambda tried: abs(math.log((tried.l0 or 0) / 32)))
    wanted = best.knob * ((best.l0 or 0) / 32) ** (-1 / slope)
    assert decide(search(), trail).knob == pytest.approx(wanted, rel=1e-5)


def test_a_slope_of_the_wrong_sign_is_not_used() -> None:
    trail = [Tried(0.1, 40.0), Tried(0.13, 44.0)]
    assert decide(search(), trail).knob == pytest.approx(0.1 * (40 / 32) ** (1 / 0.8), rel=1e-5)


def test_a_step_out_of_the_inner_bracket_becomes_regula_falsi() -> None:
    trail = [Tried(0.1, 33.0), Tried(0.2, 1.0)]
    low, high = math.log(33 / 32), math.log(1 / 32)
    knob = decide(search(), trail).knob
    secant = 0.1 * math.exp(-low / (-0.8 * 4))
    assert secant < 0.1 * 2**0.05, "it would stay at the end of the bracket"
    assert knob == pytest.approx(0.1 * 2 ** (abs(low) / (abs(low) + abs(high))), rel=1e-5)


@pytest.mark.parametrize("phase", range(7))
def test_a_response_that_is_not_monotone_is_matched_or_fails_with_its_trail(phase: int) -> None:
    """A wave of 30 % on top of a power law: every trial has another slope, many of the wrong sign."""

    def wavy(knob: float) -> float:
        return 32 * (knob / 0.118) ** -0.8 * (1 + 0.3 * math.sin(phase + 6 * math.log(knob)))

    decision, trail = run(search(), wavy)
    assert decision.outcome in ("matched", "failed")
    assert decision.outcome == "failed" or abs(trail[-1].l0 / 32 - 1) <= 0.02  # type: ignore[operator]
    assert len({tried.knob for tried in trail}) == len(trail), "no training is made twice"


def test_beyond_six_trainings_it_fails() -> None:
    noise = iter([40.0, 20.0, 50.0, 15.0, 60.0, 12.0])
    decision, trail = run(search(), lambda knob: next(noise))
    assert (decision.outcome, decision.accepted, len(trail)) == ("failed", None, MOST_TRIALS)
    assert decision.reason == "not reached in 6 trainings"


def test_a_training_that_diverges_ends_the_search() -> None:
    assert decide(search(), [Tried(0.1, 40.0), Tried(9.0, None)]).reason == "training 2 diverged"


def test_a_knob_at_its_limit_fails() -> None:
    """A target of L0 that pulls nothing: however large, half as many latents are active."""
    wanted = search(target=60.0, start=60.0, slope=1.0, limits=(1e-3, 64.0))
    decision, trail = run(wanted, lambda knob: min(knob, 30.0))
    assert decision.outcome == "failed"
    assert trail[-1].knob == 64.0
    assert decision.reason == "beyond the reach of the knob, whose values are 0.001 to 64"


def integer(target: float, **changed: object) -> Search:
    return search(target=target, start=float(round(target)), slope=1.0, is_integer=True, limits=(1.0, 256.0), **changed)


@pytest.mark.parametrize("target", [16.0, 32.0, 64.0])
def test_k_that_is_l0_takes_one_training(target: float) -> None:
    decision, trail = run(integer(target), lambda k: k)
    assert (decision.outcome, decision.accepted, len(trail)) == ("matched", 1, 1)


@pytest.mark.parametrize(("factor", "k"), [(1.0875, 29.0), (1.15, 28.0), (0.9, 36.0)])
def test_k_whose_rows_differ_is_found(factor: float, k: float) -> None:
    decision, trail = run(integer(32.0), lambda k: factor * k)
    assert (decision.outcome, trail[-1].knob) == ("matched", k)
    assert len(trail) <= 3


@pytest.mark.parametrize(("target", "factor", "k"), [(8.0, 1.06, 8.0), (8.4, 1.0, 8.0), (1.4, 1.0, 1.0)])
def test_where_no_integer_fits_the_nearest_is_taken(target: float, factor: float, k: float) -> None:
    decision, trail = run(integer(target), lambda tried: factor * tried)
    assert decision.outcome == "nearest"
    assert decision.accepted is not None
    assert trail[decision.accepted - 1].knob == k
    errors = [abs(math.log(tried.l0 / target)) for tried in trail if tried.l0]
    assert errors[decision.accepted - 1] == min(errors)
    assert len({tried.knob for tried in trail}) == len(trail)


def test_k_that_cannot_be_lower_fails() -> None:
    decision, trail = run(integer(2.0), lambda k: 3.0 + k)
    assert decision.outcome == "failed"
    assert trail[-1].knob == 1.0


def test_k_of_a_response_that_is_not_monotone_tries_no_value_twice() -> None:
    for phase in range(12):
        decision, trail = run(integer(32.0), lambda k, phase=phase: k * (1 + 0.1 * math.sin(2 * k + phase)))  # type: ignore[misc]
        assert decision.outcome in ("matched", "nearest", "failed")
        assert len({tried.knob for tried in trail}) == len(trail)


def test_a_knob_is_spelt_in_six_digits() -> None:
    knob = decide(search(), [Tried(0.1, 45.67)]).knob
    assert knob is not None
    assert knob == float(f"{knob:.6g}")
