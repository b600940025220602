"""95 % intervals of ratios of sums over documents, and of their differences, clustered by document.

Rows of one document are not independent: errors that treat them as if they were are 4 to 9 times too small.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from strata_sae.pipeline.reading.t_distribution import below, quantile
from strata_sae.pipeline.runs.judging_records import Estimate, Interval

LEVEL = 0.95
MIN_DOCUMENTS = 8
"""Documents below which no interval is given (count): the coverage of 8 was simulated, that of fewer is not known."""
MIN_EFFECTIVE_DOCUMENTS = 2.0
"""1 / sum of squared weights below which none is given either: one document outweighs all others."""
MIN_SEEDS = 3
"""Training seeds below which their spread decides nothing (count)."""

Sums = NDArray[np.float64]
"""A sum over the rows of each document: [D]."""


class Noisy(NamedTuple):
    """A number with its noise, and how likely a number as far from 0 would be if the true one were 0."""

    estimate: Estimate
    p: float | None
    """Two-sided, of the t distribution that the interval is made of; None where there is no interval."""


def ratio(numerators: Sums, weights: Sums, *, minus_from: float | None = None) -> Noisy:
    """sum(numerator) / sum(weight) over documents, with its interval by linearisation.

    The influence of document d is u_d = (numerator_d - ratio * weight_d) / sum(weight), h_d its share of the weight.
    The variance is sum (u_d / (1 - h_d))^2 (as CR3, a jackknife: no document predicts itself), and t has
    1 / sum(h_d^2) - 1 degrees of freedom: documents of unequal length count as fewer equal ones.
    minus_from: the number of which the ratio is taken off, such as 1 for R2 = 1 - sum e^2 / sum centred^2.
    Source: Bell and McCaffrey 2002 for the corrections; docs/decisions/0027.
    """
    total = float(weights.sum())
    if total <= 0:
        return Noisy(Estimate(value=None, interval=None), None)
    found = float(numerators.sum()) / total
    value, sign = (found, 1.0) if minus_from is None else (minus_from - found, -1.0)
    shares = weights / total
    effective = 1 / float((shares**2).sum())
    if np.count_nonzero(weights) < MIN_DOCUMENTS or effective < MIN_EFFECTIVE_DOCUMENTS:
        return Noisy(Estimate(value=value, interval=None), None)
    influences = sign * (numerators - found * weights) / total
    error = float(np.sqrt(np.square(influences / (1 - shares)).sum()))
    return _by_t(value, error, effective - 1)


def difference_of_ratios(first_sums: Sums, second_sums: Sums, weights: Sums, *, of_what_is_left: bool = False) -> Noisy:
    """The ratio of the first minus that of the second, both with the same weight: paired by document.

    What both have in common, such as a document that is hard for every SAE, is in neither interval.
    of_what_is_left: the difference of 1 - ratio, such as of R2.
    """
    return ratio(second_sums - first_sums if of_what_is_left else first_sums - second_sums, weights)


def mean_of_seeds(values: Sequence[float]) -> Noisy:
    """The mean of one number a seed, with its t interval over them; none of fewer than MIN_SEEDS."""
    numbers = np.asarray(values, dtype=np.float64)
    mean = float(numbers.mean())
    if len(numbers) < MIN_SEEDS:
        return Noisy(Estimate(value=mean, interval=None), None)
    return _by_t(mean, float(numbers.std(ddof=1)) / len(numbers) ** 0.5, len(numbers) - 1.0)


def difference_of_seeds(first: Sequence[float], second: Sequence[float]) -> Noisy:
    """Mean of the first minus mean of the second, over different seeds (Welch's t)."""
    one, two = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    difference = float(one.mean() - two.mean())
    if min(len(one), len(two)) < MIN_SEEDS:
        return Noisy(Estimate(value=difference, interval=None), None)
    parts = [float(values.var(ddof=1)) / len(values) for values in (one, two)]
    down = sum(part**2 / (len(values) - 1) for part, values in zip(parts, (one, two), strict=True))
    freedom = sum(parts) ** 2 / down if down > 0 else float(len(one) + len(two) - 2)
    return _by_t(difference, sum(parts) ** 0.5, freedom)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p, in the order given: below a is what Holm's step-down procedure rejects at a, over all of them."""
    order = sorted(range(len(p_values)), key=lambda place: p_values[place])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _by_t(value: float, error: float, freedom: float) -> Noisy:
    half = quantile(freedom, 0.5 + LEVEL / 2) * error
    p = (1.0 if value == 0 else 0.0) if error == 0 else 2 * below(freedom, -abs(value) / error)
    return Noisy(Estimate(value=value, interval=Interval(low=value - half, high=value + half)), p)
