"""The spread over seeds: mean, deviation, and how many seeds there were."""

import math

from strata_sae.pipeline.evaluation.comparing.spread import spread_over_seeds


def test_mean_and_deviation_of_what_is_defined() -> None:
    found = spread_over_seeds([1.0, 2.0, None, 6.0])
    assert (found.mean, found.n_seeds, found.n_undefined) == (3.0, 3, 1)
    assert found.standard_deviation is not None
    assert math.isclose(found.standard_deviation, math.sqrt((4 + 1 + 9) / 2))


def test_one_seed_has_no_deviation_and_none_has_no_mean() -> None:
    assert spread_over_seeds([2.0]).standard_deviation is None
    nothing = spread_over_seeds([None])
    assert (nothing.mean, nothing.standard_deviation, nothing.n_seeds, nothing.n_undefined) == (None, None, 0, 1)
