"""Tasks for a pool of processes, which need no model."""

import os
import signal


def squared(number: int) -> int:
    """Its square; a number below 0 is an error."""
    if number < 0:
        raise ArithmeticError(f"{number} is too small")
    return number * number


def killed_at_13(number: int) -> int:
    """The number. A process that gets 13 is killed, unless it is the one that the environment names."""
    if number == 13 and os.environ.get("STRATA_TEST_PARENT") != str(os.getpid()):
        os.kill(os.getpid(), signal.SIGKILL)
    return number
