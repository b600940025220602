"""A limit on how long a program of somebody else's may run, counted in steps: the same on every machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A message takes some 35 steps of an ordinary template: this is a chat of 280,000 messages, and a few seconds.
MAX_STEPS = 10_000_000
# What jinja2 calls the source of compiled templates.
_TEMPLATE = "<template>"


class TooManySteps(Exception):
    """A template that was stopped."""


@contextmanager
def limited() -> Iterator[None]:
    """Count the lines of templates and the calls of Python functions in this thread.

    One step may still be long: what it builds at once is bounded by memory alone.
    Raises: TooManySteps within the block, past MAX_STEPS.
    """
    n_steps = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n_steps
        n_steps += 1
        if n_steps > MAX_STEPS:
            raise TooManySteps(f"more than {MAX_STEPS:,} steps: it does not end, or its loops are far too long")
        # Lines are counted in templates, calls everywhere: a loop of a filter calls, or runs in C.
        return step if frame.f_code.co_filename == _TEMPLATE else None

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)
