"""Who shares some slots: the last to go removes them, for they are large."""

import fcntl
import os
from pathlib import Path

from strata_sae.stores.serving.shared_slot import open_own

PRESENT = ".present"


class Presence:
    """A lock file that everyone who shares some slots holds; the last to go removes the slots, which are large."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f"*{PRESENT}"):
            _remove_if_left(left)  # all who shared them may have been killed
        while True:
            self._descriptor = open_own(path)
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)
            if os.fstat(self._descriptor).st_nlink:
                return
            os.close(self._descriptor)  # somebody removed it before we had the lock

    def leave(self) -> None:
        """Safe to call twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            _remove_if_left(self._path)


def _remove_if_left(present: Path) -> None:
    """Remove a lock file and its slots if nobody holds it."""
    try:
        descriptor = os.open(present, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone, or another user's
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_nlink:  # or else this name is a newcomer's by now
            for slot in slot_paths(present):
                slot.unlink(missing_ok=True)
            present.unlink()
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def slot_paths(present: Path) -> list[Path]:
    """The files of the even and the odd windows."""
    return [present.with_suffix(f".{parity}") for parity in range(2)]
