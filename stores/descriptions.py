"""What a store says about its rows in words and numbers: the vocabulary, and statistics that agree with the units'."""

from pathlib import Path
from typing import Any

import numpy as np

from stores.canonical import read_canonical
from stores.errors import StoreError
from stores.statistics import merge

_MAX_TOKEN = 2**31
_TOLERANCE = 1e-6  # sums of float64 may differ in their last bits between machines


def read_vocabulary(path: Path) -> dict[int, str]:
    """Text of every token id. Raises: StoreError if the file holds anything else."""
    words = {}
    for token, text in read_canonical(path).items():
        if not (
            token.isascii() and token.isdigit() and str(number := int(token[:10])) == token and number < _MAX_TOKEN
        ):
            raise StoreError(f"{path}: {token[:40]!a} is no token id")
        if not isinstance(text, str):
            raise StoreError(f"{path}: the text of token {token} is no text")
        words[number] = text
    return words


def statistics_problem(path: Path, records: list[dict[str, Any]], d_model: int) -> str | None:
    """What is wrong with a site's statistics, given its units' records in order; None if they are their merge.

    Raises: StoreError if the file is damaged.
    """
    found = read_canonical(path)
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
