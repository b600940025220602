"""Student's t distribution: the share of it below a value, and the value below which a share of it lies.

Written out, since the core would need scipy (114 MB) for no more than this and an assignment.
"""

import math
from functools import lru_cache
from statistics import NormalDist

_TINY = 1e-300
"""In the place of a denominator that is 0."""
_MOST_STEPS = 1000
_CLOSE = 2.5e-16
_LARGE = 40.0
"""From here on a difference of logarithms of the gamma function is exact by its series only."""


def below(freedom: float, t: float) -> float:
    """P(T < t) for T with `freedom` degrees, which need not be an integer. Source: Abramowitz and Stegun 26.7.1."""
    if math.isinf(t) or math.isnan(t):
        return math.nan if math.isnan(t) else float(t > 0)
    total = freedom + t * t
    tail = 0.5 * _incomplete_beta(freedom / 2, freedom / total, t * t / total)
    return tail if t < 0 else 1 - tail


@lru_cache(maxsize=4096)
def quantile(freedom: float, share: float) -> float:
    """The t with P(T < t) = share, 0 < share < 1."""
    if share <= 0.5:
        return 0.0 if share == 0.5 else -quantile(freedom, 1 - share)
    # Above 0 the share grows ever more slowly, and t has heavier tails than the normal distribution: Newton's steps
    # begin below the quantile and stay there.
    t = NormalDist().inv_cdf(share)
    for _ in range(_MOST_STEPS):
        density = math.exp(_log_ratio(freedom / 2) - (freedom + 1) / 2 * math.log1p(t * t / freedom))
        step = (below(freedom, -t) - (1 - share)) * math.sqrt(math.pi * freedom) / density
        if step <= 1e-15 * t:
            break
        t += step
    return t


def _log_ratio(a: float) -> float:
    """The logarithm of gamma(a + 1/2) / gamma(a)."""
    if a < _LARGE:
        return math.lgamma(a + 0.5) - math.lgamma(a)
    return 0.5 * math.log(a) - 1 / (8 * a) + 1 / (192 * a**3) - 1 / (640 * a**5) + 17 / (14336 * a**7)


def _incomplete_beta(a: float, x: float, rest: float) -> float:
    """The regularised I_x(a, 1/2); rest: 1 - x. By its continued fraction, Abramowitz and Stegun 26.5.8."""
    if x <= 0 or rest <= 0:
        return float(rest <= 0)
    log_power = a * (math.log(x) if x < 0.5 else math.log1p(-rest))
    front = math.exp(_log_ratio(a) - 0.5 * math.log(math.pi) + log_power) * math.sqrt(rest)
    if x < (a + 1) / (a + 2.5):
        return front * _fraction(a, 0.5, x) / a
    return 1 - front * _fraction(0.5, a, rest) / 0.5


def _fraction(a: float, b: float, x: float) -> float:
    """The continued fraction, by Lentz's method from its front."""
    numerator, denominator = 1.0, 1 / _nonzero(1 - (a + b) * x / (a + 1))
    value = denominator
    for m in range(1, _MOST_STEPS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for step in (even, odd):
            denominator = 1 / _nonzero(1 + step * denominator)
            numerator = _nonzero(1 + step / numerator)
            value *= denominator * numerator
        if abs(denominator * numerator - 1) < _CLOSE:
            break
    return value


def _nonzero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
