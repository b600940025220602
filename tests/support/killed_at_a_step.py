"""A process that a kill ends at the n-th step that changes the disk."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path

from strata_sae.stores.files.filesystem import FileSystem

FORK = multiprocessing.get_context("fork")


class KilledFileSystem(FileSystem):
    """Counts renames and removals; instead of number `last` it kills its process."""

    def __init__(self, last: int | None = None) -> None:
        self.steps, self._last = 0, last

    def _step(self) -> None:
        if self.steps == self._last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def rename(self, source: Path, target: Path) -> None:
        self._step()
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        self._step()
        super().unlink(path)

    def remove_folder(self, path: Path) -> None:
        self._step()
        super().remove_folder(path)


def killed_before_step(step: int, work: Callable[[FileSystem], None]) -> None:
    """Do `work` in a process of its own, which is killed before its step number `step`."""
    child = FORK.Process(target=work, args=(KilledFileSystem(step),))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
