"""Waiting for what another process or thread does. There is no deadline: a busy machine is no failure.

What never comes is ended by pytest's own limit (`timeout` in pyproject.toml), which is there for that alone.
"""

import time
from collections.abc import Callable
from typing import Protocol


class Process(Protocol):
    """What `subprocess.Popen` is here."""

    def poll(self) -> int | None: ...


def wait_until(condition: Callable[[], object], process: Process | None = None) -> None:
    """Look again and again until the condition holds. AssertionError: the process that is to see to it has ended."""
    while not condition():
        ended = process is not None and process.poll() is not None
        assert not ended or condition(), f"the process has ended before: {process}"
        time.sleep(0.005)
