"""The environment variables that the programs read: text as it is, and sizes that are sizes."""

import math
import os
import re

from strata_sae.stores.errors import StoreError

CACHE_BYTES = "STRATA_CACHE_BYTES"
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?(?:[eE][0-9]{1,2})?)\s*([A-Za-z]*)\s*")
_UNITS = {"": 1, "b": 1}
_UNITS |= {f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", 1)}
_UNITS |= {f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", 1)}
_LARGEST_BYTES = 2**62
_SHOWN = 40


def text(name: str) -> str | None:
    """The variable as it is; None if it is not set, or empty."""
    return os.environ.get(name) or None


def size_bytes(name: str, default: int) -> int:
    """A variable that says a size in bytes: `50GiB`, `50 GB`, `1.5e9`; `default` if it is not set, or empty.

    Raises: StoreError naming the variable, what it holds and what is allowed.
    """
    value = text(name)
    if value is None:
        return default
    found = _SIZE.fullmatch(value)
    scale = _UNITS.get(found[2].lower()) if found else None
    size = float(found[1]) * scale if found and scale is not None else math.inf
    if size > _LARGEST_BYTES:
        shown = value if len(value) <= _SHOWN else f"{value[:_SHOWN]}..."
        raise StoreError(
            f"{name}: {shown!a} is no size; write bytes from 0 to 2^62, or a number with a unit (kB, MB, GB, TB, or "
            f"KiB, MiB, GiB, TiB), for example 50GiB"
        )
    return int(size)
