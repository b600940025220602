"""Windows in memory that several processes on a machine share: the first one to need a window fills it for all."""

import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Executor, Future
from contextlib import suppress
from pathlib import Path

import numpy as np

from strata_sae.stores.errors import StoreError, explain
from strata_sae.stores.format.folders import refuse_inside_a_store
from strata_sae.stores.serving.slots import NOTHING, PRESENT, Slot, SlotUsers, slot_paths
from strata_sae.stores.serving.windows import Filling, WindowBuffer, private_memory

_POLL_SECONDS, _POLL_AHEAD_SECONDS = 0.01, 0.1
"""Pause between looks at a slot whose window is needed now, and at that of the next window."""
_ABANDONED_SECONDS = 1.0
"""A later window that no process holds for this long was left by a process that died: its slot is filled again."""
_FILL_SECONDS = 600.0
"""Longest time that another process may take to fill a window."""


class _Claim:
    """A thread's attempt to take the slot of a window."""

    future: "Future[bool]"

    def __init__(self, window: int) -> None:
        self.window = window
        self.wanted_since: float | None = None
        self.cancelled = False
        self.nudged = threading.Event()


class SharedWindows:
    """Two slots for any number of processes with one `key`: one for even windows, one for odd windows.

    A process holds the window it reads and the next one. When all processes have released a window, the first one to
    need the window after next fills its slot. A process that has waited `max_wait_seconds` for a slot, or that needs an
    older window than the slot's, fills private memory instead, with the same rows. A window is read only when it was
    filled whole.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        n_bytes: int,
        buffer_in: Callable[[np.ndarray], WindowBuffer],
        filling: Filling,
        pool: Executor,
        max_wait_seconds: float = 60.0,
    ) -> None:
        """`buffer_in` makes a buffer in given memory of `n_bytes`.

        Raises: StoreError if there is no room for two windows in the folder.
        """
        self._n_bytes, self._buffer_in, self._filling, self._pool = n_bytes, buffer_in, filling, pool
        self._max_wait_seconds = max_wait_seconds
        self._private: WindowBuffer | None = None
        self._serving = NOTHING
        self._buffer: WindowBuffer | None = None
        self._ahead: _Claim | None = None
        self._gave_up_on = [NOTHING, NOTHING]
        """The window that each slot held when this process last stopped waiting for it: not waited for again."""
        refuse_inside_a_store(folder, "shared windows")
        present = folder / f"{key}{PRESENT}"
        self._users = SlotUsers(present)
        self._slots: list[Slot] = []
        try:
            for path in slot_paths(present):
                self._slots.append(Slot(path, n_bytes, buffer_in))
        except OSError as error:
            self.close()
            raise StoreError(
                f"{folder}: no room for two shared windows of {n_bytes} bytes, {shutil.disk_usage(folder).free} are "
                f"free ({explain(error)}); name another folder, or make training.window_rows smaller"
            ) from None

    def get(self, window: int) -> WindowBuffer:
        """See `Windows.get`. Raises: StoreError if a chunk is damaged."""
        if window != self._serving or self._buffer is None:
            if self._ahead is not None and self._ahead.window != window:
                self._cancel()
            if window % 2 == self._serving % 2:
                self._leave()
            claim = self._ahead or self._claim(window)
            self._ahead = None
            claim.wanted_since = time.monotonic()
            claim.nudged.set()
            # The current window is held until the next one is there, so that no other process can replace it. That
            # makes no deadlock: a process never waits for one that is ahead of it.
            try:
                have_slot = claim.future.result()
            finally:
                self._leave()
            if have_slot:
                self._buffer = self._slots[window % 2].buffer
            else:
                self._private = self._private or self._buffer_in(private_memory(self._n_bytes))
                self._filling(window)(self._private)
                self._buffer = self._private
            self._serving = window
            self._ahead = self._claim(window + 1)
        return self._buffer

    def close(self) -> None:
        """Release every window. The last process to do so removes the files."""
        if self._ahead is not None:
            self._cancel()
        self._buffer = None
        for slot in self._slots:
            slot.close()
        self._slots = []
        self._users.leave()

    def _leave(self) -> None:
        """Release the window that is read: another process may then fill its slot."""
        if self._buffer is not None and self._buffer is not self._private:
            self._slots[self._serving % 2].unlock()
        self._buffer = None

    def _cancel(self) -> None:
        assert self._ahead is not None
        self._ahead.cancelled = True
        self._ahead.nudged.set()
        with suppress(CancelledError):
            if self._ahead.future.exception() is None and self._ahead.future.result():
                self._slots[self._ahead.window % 2].unlock()
        self._ahead = None

    def _claim(self, window: int) -> _Claim:
        claim = _Claim(window)
        claim.future = self._pool.submit(self._take, claim, self._filling(window))
        return claim

    def _take(self, claim: _Claim, fill: Callable[[WindowBuffer], None]) -> bool:
        """Lock the slot of a window, and fill it if no other process has. Returns: whether the slot is locked."""
        slot, window = self._slots[claim.window % 2], claim.window
        free_since: float | None = None
        pause = 0.001
        while not claim.cancelled:
            if slot.holds == window and slot.lock(shared=True):
                if slot.holds == window:
                    return True
                slot.unlock()
            if slot.lock(shared=False):
                free_since = free_since or time.monotonic()
                # Processes that are ahead of this one need a later window, unless the one that filled it died.
                if slot.holds < window or time.monotonic() - free_since > _ABANDONED_SECONDS:
                    try:
                        slot.fill(window, fill)
                    except BaseException:
                        slot.unlock()
                        raise
                    continue  # the next round changes the exclusive lock into a shared one
                slot.unlock()
            else:
                free_since = None
            if claim.wanted_since is not None and self._is_hopeless(claim, slot, free_since is None):
                return False
            # Looks are rare while the window is not needed yet, and the first ones quick, as other processes may be.
            pause = min(2 * pause, _POLL_AHEAD_SECONDS if claim.wanted_since is None else _POLL_SECONDS)
            claim.nudged.wait(pause)
            claim.nudged.clear()
        slot.unlock()
        return False

    def _is_hopeless(self, claim: _Claim, slot: Slot, in_use: bool) -> bool:
        """Whether to stop waiting for a slot and fill private memory."""
        held, parity = slot.holds, claim.window % 2
        if not in_use or held == claim.window:
            return False
        if held > claim.window or held == self._gave_up_on[parity] != NOTHING:
            return True
        being_filled = held == NOTHING and slot.gets == claim.window
        assert claim.wanted_since is not None
        waited = time.monotonic() - claim.wanted_since
        if waited < (max(_FILL_SECONDS, self._max_wait_seconds) if being_filled else self._max_wait_seconds):
            return False
        self._gave_up_on[parity] = held
        return True
