"""The toy size of a benchmark, at which continuous integration runs every one of them: seconds a file.

With STRATA_BENCHMARK_SIZE=toy in the environment, a benchmark runs every line that it runs at full size, on little. Its
times and its memory then say nothing, so no target is held against them; results that must be equal must be so.
"""

import os
from typing import TypeVar

T = TypeVar("T")

TOY = os.environ.get("STRATA_BENCHMARK_SIZE") == "toy"


def sized(full: T, toy: T) -> T:
    """The size to run at."""
    return toy if TOY else full


def met(target: bool) -> bool:
    """Whether a target of speed, memory or chance is met; at toy size such targets do not count."""
    return TOY or target


def skipped(why: str) -> int:
    """Say why nothing was measured. Returns: the exit code, 1 at toy size, where every benchmark has to run."""
    print(f"skipped: {why}")
    return int(TOY)
