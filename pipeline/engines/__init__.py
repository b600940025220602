"""Engines decide who runs which item where; they know no stage, and a command chooses one and hands it to a stage."""

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

ItemT = TypeVar("ItemT")


class Engine(Protocol):
    """Runs a function over items, on one machine or on many.

    Items are idempotent: an item may run twice, or begin again after a kill, and the result is the same, because
    results are files. So an engine hands no result back, and needs no state of its own.
    """

    @property
    def n_workers(self) -> int:
        """Items that run at the same time. Where it is 1, they run in the process that calls `map`."""

    def map(self, work: Callable[[ItemT], None], items: Sequence[ItemT], watch: Callable[[], None]) -> list[str]:
        """Run `work(item)` for every item, and return when all have ended.

        Args:
            work: can be pickled, as items can; neither may hold a tensor.
            items: taken in their order.
            watch: called about twice a second while other processes run items.

        Returns: a line for each item that did not end well, with the reason.
        Raises: what `work` raises, where it runs in the process that calls `map`.

        """
