"""Student's t distribution, against SciPy and against values known exactly."""

import math

import pytest
from scipy.special import stdtr, stdtrit

from strata_sae.pipeline.reading.t_distribution import below, quantile

FREEDOMS = (0.6, 1.0, 1.3, 2.0, 3.7, 12.5, 79.0, 80.5, 440.3, 1e5)


@pytest.mark.parametrize("freedom", FREEDOMS)
def test_shares_and_quantiles_are_scipys(freedom: float) -> None:
    for t in (-50.0, -5.0, -1.0, -0.3, 0.0, 1e-3, 0.5, 1.96, 8.0):
        assert below(freedom, t) == pytest.approx(stdtr(freedom, t), rel=1e-10, abs=1e-250)
    for share in (0.025, 0.4, 0.5001, 0.9, 0.975, 0.999):
        assert quantile(freedom, share) == pytest.approx(stdtrit(freedom, share), rel=1e-10)


def test_what_is_known_exactly() -> None:
    assert below(1.0, -1e-6) == pytest.approx(0.5 - math.atan(1e-6) / math.pi, rel=1e-15)
    assert quantile(1.0, 0.75) == pytest.approx(1.0, rel=1e-14)
    assert quantile(2.0, 0.975) == pytest.approx(0.95 * math.sqrt(2 / (1 - 0.95**2)), rel=1e-14)
    assert quantile(5.0, 0.5) == 0.0
    assert (below(3.0, -math.inf), below(3.0, math.inf)) == (0.0, 1.0)
    assert math.isnan(below(3.0, math.nan))


def test_control_the_normal_distribution_is_another() -> None:
    assert quantile(12.5, 0.975) > 1.01 * 1.959964
