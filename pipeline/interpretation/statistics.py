"""Numbers of answers whose truth is known, and their noise."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from strata_sae.pipeline.runs.judging_records import Estimate, Interval
from strata_sae.stores import random_words

Z = 1.959963984540054
"""The normal distribution's quantile of 97.5 %: every interval here is of 95 %."""
N_RESAMPLES = 2000
"""Of a bootstrap, as EleutherAI's cards of explained SAEs have them."""
LEAST_LATENTS = 8
"""Below which a bootstrap over latents says little."""
_AT_ONCE = 2**20


class Rate(NamedTuple):
    """How often something happened among windows of several documents."""

    n_hits: int
    n: int
    n_effective: float
    """Independent windows with the same noise, were windows of one document all alike: n^2 / sum of n_d^2 (Kish)."""

    @property
    def value(self) -> float | None:
        """The share of hits; None: of no windows."""
        return self.n_hits / self.n if self.n else None


def rate_of(hits: Sequence[bool], documents: Sequence[int]) -> Rate:
    """The rate of hits among windows, of which the document of each is known."""
    squares = sum(count * count for count in Counter(documents).values())
    return Rate(sum(hits), len(hits), len(hits) ** 2 / squares if squares else 0.0)


def wilson(rate: Rate) -> Interval:
    """Wilson's interval of a share (1927), by its effective number of windows. Raises: ValueError for none."""
    if rate.value is None:
        raise ValueError("no windows, so no interval")
    share, n = rate.value, rate.n_effective
    centre = share + Z * Z / (2 * n)
    half = Z * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    scale = 1 + Z * Z / n
    # At 0 and 1 rounding would leave the bound beside the share by an ulp.
    low = 0.0 if rate.n_hits == 0 else (centre - half) / scale
    high = 1.0 if rate.n_hits == rate.n else (centre + half) / scale
    return Interval(low=max(0.0, low), high=min(1.0, high))


def balanced_accuracy(named_active: Rate, named_silent: Rate) -> tuple[float | None, Interval | None]:
    """(recall + share of silent windows that are not named) / 2, and its interval.

    Of the mean of two independent shares by their Wilson intervals: square-and-add (Zou and Donner 2008, section 2).
    Returns: None, None where one of the truths has no windows.
    """
    recall, fall_out = named_active.value, named_silent.value
    if recall is None or fall_out is None:
        return None, None
    value = (recall + (1 - fall_out)) / 2
    of_recall, of_fall_out = wilson(named_active), wilson(named_silent)
    below = math.hypot(recall - of_recall.low, of_fall_out.high - fall_out) / 2
    above = math.hypot(of_recall.high - recall, fall_out - of_fall_out.low) / 2
    return value, Interval(low=max(0.0, value - below), high=min(1.0, value + above))


def population_precision(
    prevalence: float, named_active: Rate, named_silent: Rate
) -> tuple[float | None, Interval | None]:
    """Of all windows that are named, the share that is active, at the population's share of active windows.

    P = p R / (p R + (1 - p) F) = 1 / (1 + (1 - p) / p x F / R), R: named of the active windows, F: named of silent
    windows drawn at random. The interval is that of F / R, by the Wilson intervals of both (Donner and Zou 2012).
    Returns: None, None where it is not defined: no windows of one truth, or none that is named.
    """
    recall, fall_out = named_active.value, named_silent.value
    if recall is None or fall_out is None or recall + fall_out == 0 or not 0 < prevalence < 1:
        return None, None
    odds = (1 - prevalence) / prevalence
    ratio = _ratio_interval(fall_out, wilson(named_silent), recall, wilson(named_active))
    value = 1 / (1 + odds * fall_out / recall) if recall else 0.0
    return value, Interval(low=1 / (1 + odds * ratio[1]), high=1 / (1 + odds * ratio[0]))


def _ratio_interval(top: float, of_top: Interval, bottom: float, of_bottom: Interval) -> tuple[float, float]:
    """Bounds of top / bottom from the interval of each; from 0 to infinity where nothing bounds it."""
    product = top * bottom
    low_below, high_below = (
        of_bottom.high * (2 * bottom - of_bottom.high),
        of_bottom.low * (2 * bottom - of_bottom.low),
    )
    low = high = math.nan
    if low_below > 0:
        inside = product * product - of_top.low * (2 * top - of_top.low) * low_below
        low = (product - math.sqrt(max(inside, 0.0))) / low_below
    if high_below > 0:
        inside = product * product - of_top.high * (2 * top - of_top.high) * high_below
        high = (product + math.sqrt(max(inside, 0.0))) / high_below
    return (low if low_below > 0 else of_top.low / of_bottom.high), (high if high_below > 0 else math.inf)


def f1(true_positives: int, false_positives: int, false_negatives: int) -> float | None:
    """2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall; None: nothing is active or named."""
    counted = 2 * true_positives + false_positives + false_negatives
    return 2 * true_positives / counted if counted else None


def pearson(values: Sequence[float], answers: Sequence[bool]) -> float | None:
    """Correlation of values with answers; None where one of them is constant."""
    x_P, y_P = np.asarray(values, np.float64), np.asarray(answers, np.float64)
    if len(x_P) < 2 or np.ptp(x_P) == 0 or np.ptp(y_P) == 0:
        return None
    # Of values near the limits of float64 the squares would not be numbers.
    x_P = x_P / np.abs(x_P).max()
    return float(np.clip(np.corrcoef(x_P, y_P)[0, 1], -1, 1))


def over_latents(values: Sequence[float | None], seed: int, name: str) -> Estimate:
    """The median over the latents where it is defined, with its percentile bootstrap over latents.

    None where fewer than half of them have a value: what is defined only where something was named, as a precision is,
    would be the median of the latents that the answers picked out.

    name: of what is measured: with the seed it names the resamples.
    Returns: no value of none; no interval of fewer than LEAST_LATENTS.
    """
    defined = np.array([value for value in values if value is not None], np.float64)
    n = len(defined)
    if not n or 2 * n < len(values):
        return Estimate(value=None, interval=None)
    if n < LEAST_LATENTS:
        return Estimate(value=float(np.median(defined)), interval=None)
    n_at_once = max(1, _AT_ONCE // n)
    medians: list[float] = []
    while len(medians) < N_RESAMPLES:
        n_here = min(n_at_once, N_RESAMPLES - len(medians))
        words = random_words(["over latents", seed, name, len(medians)], n_here * n)
        drawn = (words % np.uint64(n)).astype(np.int64).reshape(n_here, n)
        medians += np.median(defined[drawn], axis=1).tolist()
    low, high = np.quantile(medians, [0.025, 0.975])
    return Estimate(value=float(np.median(defined)), interval=Interval(low=float(low), high=float(high)))
