"""Closing a stream of batches in the midst of filling a window, however fast or busy the machine is."""

import threading
from typing import Any

from strata_sae.stores import Batches


def blocks_begun_after_close(batches: Batches, *, stops: bool = True) -> int:
    """Close a stream whose threads stand in a block of the second window until `close` has told them to stop.

    Args:
        stops: false: they are told nothing, which is the control.
    Returns: blocks that were begun after that: one a thread at most, if closing does not wait for the whole window.

    """
    coded, stop, first_window = batches._values.coded, batches._filler.stop, batches.blocks_per_window
    lock, standing, told = threading.Lock(), threading.Event(), threading.Event()
    begun = before_close = 0

    def held(chunk: int) -> Any:
        nonlocal begun
        with lock:
            begun += 1
            is_first_window = begun <= first_window
        if not is_first_window:
            standing.set()
            told.wait()
        return coded(chunk)

    def tell() -> None:
        nonlocal before_close
        if stops:
            stop()
        before_close = begun
        told.set()

    batches._values.coded = held  # type: ignore[method-assign]
    batches._filler.stop = tell  # type: ignore[method-assign]
    batches.batch(0)
    standing.wait()
    batches.close()
    return begun - before_close
