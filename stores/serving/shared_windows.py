"""Windows in memory that several trainers on a machine share: each is decoded once, by whoever needs it first."""

import fcntl
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
from strata_sae.stores.serving.shared_slot import NOTHING, Slot
from strata_sae.stores.serving.slot_users import PRESENT, Presence, slot_paths
from strata_sae.stores.serving.windows import Filling, WindowBuffer, own_memory

_POLL_SECONDS, _POLL_AHEAD_SECONDS = 0.01, 0.1
_ABANDONED_SECONDS = 1.0
_FILL_SECONDS = 600.0


class _Claim:
    """A slot being taken for a window by a thread."""

    future: "Future[bool]"

    def __init__(self, window: int) -> None:
        self.window = window
        self.wanted_since: float | None = None
        self.cancelled = False
        self.nudged = threading.Event()


class SharedWindows:
    """Two slots for any number of trainers with one `key`: even windows in one, odd ones in the other.

    A trainer holds the window it serves and the next one. When all have left a window, the first to need the one after
    next fills its slot. Who has waited `patience_seconds` for the others to leave fills memory of its own instead, with
    the same rows; so does who needs a window older than one in use. Nothing is served that was not filled whole.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        n_bytes: int,
        buffer_in: Callable[[np.ndarray], WindowBuffer],
        filling: Filling,
        pool: Executor,
        patience_seconds: float = 60.0,
    ) -> None:
        """`buffer_in` makes a buffer in memory of `n_bytes`.

        Raises: StoreError if there is no room for two windows in the folder.
        """
        self._n_bytes, self._buffer_in, self._filling, self._pool = n_bytes, buffer_in, filling, pool
        self._patience_seconds = patience_seconds
        self._own: WindowBuffer | None = None
        self._serving = NOTHING
        self._buffer: WindowBuffer | None = None
        self._ahead: _Claim | None = None
        self._gave_up_on = [NOTHING, NOTHING]
        """What each slot held when our patience with those who use it ended."""
        refuse_inside_a_store(folder, "shared windows")
        present = folder / f"{key}{PRESENT}"
        self._presence = Presence(present)
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
            # Until we have the next window we keep this one, and with it everybody else from going on without us. None
            # waits in a circle: who is behind never waits for who is ahead.
            try:
                have_slot = claim.future.result()
            finally:
                self._leave()
            if have_slot:
                self._buffer = self._slots[window % 2].buffer
            else:
                self._own = self._own or self._buffer_in(own_memory(self._n_bytes))
                self._filling(window)(self._own)
                self._buffer = self._own
            self._serving = window
            self._ahead = self._claim(window + 1)
        return self._buffer

    def close(self) -> None:
        """Let go of every window. The last one to leave removes the files."""
        if self._ahead is not None:
            self._cancel()
        self._buffer = None
        for slot in self._slots:
            slot.close()
        self._slots = []
        self._presence.leave()

    def _leave(self) -> None:
        """Let go of the window that is served: whoever waits for its slot may have it."""
        if self._buffer is not None and self._buffer is not self._own:
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
        """Lock the slot that holds a window, filled by us if nobody else does it. Returns: whether we have it."""
        slot, window = self._slots[claim.window % 2], claim.window
        free_since: float | None = None
        pause = 0.001
        while not claim.cancelled:
            if slot.holds == window and slot.lock(fcntl.LOCK_SH):
                if slot.holds == window:
                    return True
                slot.unlock()
            if slot.lock(fcntl.LOCK_EX):
                free_since = free_since or time.monotonic()
                # A later window is wanted by those who are ahead of us, unless it was left by somebody who died.
                if slot.holds < window or time.monotonic() - free_since > _ABANDONED_SECONDS:
                    try:
                        slot.fill(window, fill)
                    except BaseException:
                        slot.unlock()
                        raise
                    continue  # and turn our lock into a shared one, if nobody comes in between
                slot.unlock()
            else:
                free_since = None
            if claim.wanted_since is not None and self._is_hopeless(claim, slot, free_since is None):
                return False
            # Before it is wanted, a window may take its time; the first looks are quick in case the others are, too.
            pause = min(2 * pause, _POLL_AHEAD_SECONDS if claim.wanted_since is None else _POLL_SECONDS)
            claim.nudged.wait(pause)
            claim.nudged.clear()
        slot.unlock()
        return False

    def _is_hopeless(self, claim: _Claim, slot: Slot, in_use: bool) -> bool:
        """Whether to stop waiting for a slot and fill memory of our own."""
        held, parity = slot.holds, claim.window % 2
        if not in_use or held == claim.window:
            return False
        if held > claim.window or held == self._gave_up_on[parity] != NOTHING:
            return True
        being_filled = held == NOTHING and slot.gets == claim.window
        assert claim.wanted_since is not None
        waited = time.monotonic() - claim.wanted_since
        if waited < (max(_FILL_SECONDS, self._patience_seconds) if being_filled else self._patience_seconds):
            return False
        self._gave_up_on[parity] = held
        return True
