"""What torchrun says of this process, without loading torch."""

from typing import NamedTuple

from strata_sae.pipeline.errors import ConfigError
from strata_sae.stores.files import environment

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_RANK")
"""What torchrun sets, in the order of the fields of `Launch`."""


class Launch(NamedTuple):
    """Which process this is of those that torchrun has started."""

    rank: int = 0
    """From 0."""
    n: int = 1
    """Ranks on all machines (count)."""
    n_here: int = 1
    """Ranks on this machine (count)."""
    number_here: int = 0
    """Which of these it is, from 0: the number of its GPU."""


def launch() -> Launch:
    """What RANK, WORLD_SIZE, LOCAL_WORLD_SIZE and LOCAL_RANK say; one process where they are not set.

    Raises: ConfigError where they hold no such numbers.
    """
    texts = dict(zip(VARIABLES, map(environment.text, VARIABLES), strict=True))
    if texts["WORLD_SIZE"] is None and texts["RANK"] is None:
        return Launch()
    found = Launch(*map(_count, texts.values()))
    if not (0 <= found.rank < found.n and 0 <= found.number_here < found.n_here <= found.n):
        said = ", ".join(f"{name} {text!a}" for name, text in texts.items())
        raise ConfigError(f"{said}: this names no rank; start the command by torchrun, which sets them, or unset them")
    return found


def _count(text: str | None) -> int:
    """The number in a text; -1 where it is none."""
    return int(text) if text and text.isascii() and text.isdecimal() and len(text) < 8 else -1
