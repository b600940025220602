"""What a site's rows look like, in float64: sums that add up over units in any encoding."""

from collections.abc import Mapping

import numpy as np

from strata_sae.stores.files.canonical import Json, as_int, as_list, as_number, as_object

# A float32's upper 16 bits: 128 steps a doubling, so a quantile read off this histogram is within 0.8 %.
_BIN_SHIFT = 16
_TOLERANCE = 1e-6  # sums of float64 may differ in their last bits between machines
_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Moments:
    """Sums over rows of one site; `content` are the rows with no flag, the text itself."""

    def __init__(self, d_model: int) -> None:
        self._groups = {name: _Sums(d_model) for name in ("all", "content")}

    def add(self, rows_NM: np.ndarray, norms_N: np.ndarray, flags_N: np.ndarray) -> None:
        """Add rows (float32), their norms (float32) and flags (uint8)."""
        self._groups["all"].add(rows_NM, norms_N)
        content_N = flags_N == 0
        if content_N.all():
            self._groups["content"].add(rows_NM, norms_N)
        elif content_N.any():
            self._groups["content"].add(rows_NM[content_N], norms_N[content_N])

    def record(self) -> dict[str, Json]:
        """Plain data for a unit's commit record."""
        return {name: sums.record() for name, sums in self._groups.items()}


class _Sums:
    def __init__(self, d_model: int) -> None:
        self.count = 0
        self.sum = np.zeros(d_model)
        self.sum_squares = np.zeros(d_model)
        self.norms: dict[int, int] = {}

    def add(self, rows_NM: np.ndarray, norms_N: np.ndarray) -> None:
        wide_NM = rows_NM.astype(np.float64)
        self.count += len(rows_NM)
        self.sum += wide_NM.sum(axis=0)
        self.sum_squares += np.einsum("nm,nm->m", wide_NM, wide_NM)
        for bin_, count in norm_bins(norms_N).items():
            self.norms[int(bin_)] = self.norms.get(int(bin_), 0) + count

    def record(self) -> dict[str, Json]:
        return {
            "count": self.count,
            "sum": list(self.sum.tolist()),
            "sum_squares": list(self.sum_squares.tolist()),
            "norm_bins": {str(bin_): count for bin_, count in sorted(self.norms.items())},
        }


def norm_bins(norms_N: np.ndarray) -> dict[str, int]:
    """Histogram of norms (float32): their upper 16 bits, as text, and how many norms have them."""
    counts = np.bincount(norms_N.view(np.uint32) >> _BIN_SHIFT)
    bins = np.flatnonzero(counts)
    return {str(bin_): count for bin_, count in zip(bins.tolist(), counts[bins].tolist(), strict=True)}


def merge(records: list[Json]) -> dict[str, Json]:
    """Statistics of a site from its units' records (`Moments.record`), in unit order.

    Returns: for `all` and `content` rows: count, mean [M], std [M], mean_square_norm = E||x||^2, and norm_quantiles
        (within 0.8 %); and nan_or_inf_count, which is 0 because such rows are refused when they are written.

    Raises: KeyError, TypeError, ValueError if a record is not one.
    """
    units = [as_object(record) for record in records]
    return {name: _summary([as_object(unit[name]) for unit in units]) for name in ("all", "content")} | {
        "nan_or_inf_count": 0
    }


def _summary(records: list[dict[str, Json]]) -> Json:
    count = sum(as_int(record["count"]) for record in records)
    if count == 0:
        return {"count": 0}
    mean_M = np.sum([_numbers(record["sum"]) for record in records], axis=0) / count
    square_M = np.sum([_numbers(record["sum_squares"]) for record in records], axis=0) / count
    bins: dict[int, int] = {}
    for record in records:
        for bin_, n in as_object(record["norm_bins"]).items():
            bins[int(bin_)] = bins.get(int(bin_), 0) + as_int(n)
    return {
        "count": count,
        "mean": mean_M.tolist(),
        "std": np.sqrt(np.maximum(square_M - mean_M**2, 0.0)).tolist(),
        "mean_square_norm": float(square_M.sum()),
        "norm_quantiles": _quantiles(bins, count),
    }


def _numbers(value: Json) -> np.ndarray:
    numbers = as_list(value)
    if not set(map(type, numbers)) <= {int, float}:
        raise ValueError("something else stands where numbers must")
    return np.array(numbers, np.float64)


def _quantiles(bins: dict[int, int], count: int) -> Json:
    edges = np.array(sorted(bins), np.uint32)
    below = np.cumsum([bins[bin_] for bin_ in edges.tolist()])
    middles = ((edges << _BIN_SHIFT) + (1 << (_BIN_SHIFT - 1))).astype(np.uint32).view(np.float32)
    return {str(q): float(middles[np.searchsorted(below, q * count)]) for q in _QUANTILES}


def median_norm(statistics: Mapping[str, Json]) -> float:
    """The median norm of a site's rows that have no flag. Raises: KeyError, ValueError if there is none."""
    return as_number(as_object(as_object(statistics["content"])["norm_quantiles"])["0.5"])


def statistics_problem(found: Json, records: list[Json], d_model: int) -> str | None:
    """What is wrong with a site's statistics, given its units' records in order; None if they are their merge."""
    try:
        for record in records:
            for name in ("all", "content"):
                group = as_object(as_object(record)[name])
                if any(len(as_list(group[key])) != d_model for key in ("sum", "sum_squares")):
                    return "a unit's statistics have another width than the site"
        expected = merge(records)
    except (KeyError, TypeError, ValueError, IndexError, ArithmeticError):
        return "a unit's statistics are not what a commit record holds"
    return None if _agree(found, expected) else "is not the merge of the units' statistics"


def _agree(found: Json, expected: Json) -> bool:
    if isinstance(expected, dict):
        same = isinstance(found, dict) and found.keys() == expected.keys()
        return same and all(_agree(value, expected[key]) for key, value in as_object(found).items())
    try:
        if isinstance(expected, list):
            return _close(_numbers(found), _numbers(expected))
        return _close(_numbers([found]), _numbers([expected]))
    except (ValueError, OverflowError):
        return False


def _close(found: np.ndarray, expected: np.ndarray) -> bool:
    scale = _TOLERANCE * float(np.abs(expected).max(initial=0.0))
    return found.shape == expected.shape and bool(np.allclose(found, expected, rtol=_TOLERANCE, atol=scale))
