"""Whether a store's statistics agree with its units'."""

from typing import Any

import numpy as np

from strata_sae.stores.format.statistics import merge

_TOLERANCE = 1e-6  # sums of float64 may differ in their last bits between machines


def statistics_problem(found: dict[str, Any], records: list[dict[str, Any]], d_model: int) -> str | None:
    """What is wrong with a site's statistics, given its units' records in order; None if they are their merge."""
    try:
        for record in records:
            for name in ("all", "content"):
                if any(len(record[name][key]) != d_model for key in ("sum", "sum_squares")):
                    return "a unit's statistics have another width than the site"
        expected = merge(records)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError):
        return "a unit's statistics are not what a commit record holds"
    return None if _agree(found, expected) else "is not the merge of the units' statistics"


def _agree(found: Any, expected: Any) -> bool:
    if isinstance(expected, dict):
        same = isinstance(found, dict) and found.keys() == expected.keys()
        return same and all(_agree(found[key], value) for key, value in expected.items())
    if isinstance(expected, list):
        if not isinstance(found, list) or not all(type(value) in (int, float) for value in found):
            return False
        return len(found) == len(expected) and _close(found, expected)
    return type(found) in (int, float) and _close([found], [expected])


def _close(found: list[float], expected: list[float]) -> bool:
    scale = _TOLERANCE * max(map(abs, expected), default=0.0)
    try:
        return bool(np.allclose(np.array(found, np.float64), expected, rtol=_TOLERANCE, atol=scale))
    except OverflowError:
        return False
