"""The spread of a number over the seeds of whatever was drawn to get it."""

import statistics
from collections.abc import Sequence

from strata_sae.pipeline.runs.judging_records import SeedSpread


def spread_over_seeds(values: Sequence[float | None]) -> SeedSpread:
    """Mean and standard deviation (n - 1) of the values of n seeds; None where a value is not defined.

    A seed whose value is not defined is counted apart, not left out in silence: of several seeds of which one is
    undefined the mean is of the others. The deviation of fewer than two values is null.
    """
    defined = [value for value in values if value is not None]
    return SeedSpread(
        mean=statistics.fmean(defined) if defined else None,
        standard_deviation=statistics.stdev(defined) if len(defined) > 1 else None,
        n_seeds=len(defined),
        n_undefined=len(values) - len(defined),
    )
