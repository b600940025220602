"""A limit on how long a program of somebody else's may run, counted in steps: the same on every machine."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

# A message takes some 35 steps of an ordinary template: this is a chat of 280,000 messages, and a few seconds.
MAX_STEPS = 10_000_000
# Four times the longest document: what a macro gives back is counted again where its caller prints it.
MAX_CHARACTERS = 256 << 20
# What jinja2 calls the source of compiled templates.
_TEMPLATE = "<template>"


class TooLong(Exception):
    """A template that was stopped."""


@contextmanager
def limited() -> Iterator[None]:
    """Count the lines of templates, what they print, and the calls of Python functions, in this thread.

    What one step builds is bounded by memory alone.
    Raises: TooLong within the block, past MAX_STEPS or MAX_CHARACTERS.
    """
    n_steps = n_characters = 0

    def step(frame: FrameType, event: str, argument: Any) -> Any:
        nonlocal n_steps, n_characters
        n_steps += 1
        if n_steps > MAX_STEPS:
            raise TooLong(f"more than {MAX_STEPS:,} steps: it does not end, or its loops are far too long")
        # Lines are counted in templates, calls everywhere: a loop of a filter calls, or runs in C.
        if frame.f_code.co_filename != _TEMPLATE:
            return None
        if event == "return" and isinstance(argument, str):  # and so does a generator with what it yields
            n_characters += len(argument)
            if n_characters > MAX_CHARACTERS:
                raise TooLong(f"it prints more than {MAX_CHARACTERS:,} characters")
        return step

    before = sys.gettrace()
    sys.settrace(step)
    try:
        yield
    finally:
        sys.settrace(before)
