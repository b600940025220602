"""Making a store again and again, killed (without any cleaning up) after ever more steps of its file system."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.hashing import file_sha256

FORK = multiprocessing.get_context("fork")
STEPS = ("make_folder", "create", "write", "sync", "sync_folder", "link", "rename", "unlink", "remove_folder")


class Counting(FileSystem):
    """Counts steps, and dies at one of them."""

    def __init__(self, dies_at: int | None = None) -> None:
        self.steps, self.dies_at = 0, dies_at

    def __getattribute__(self, name: str) -> Any:
        if name in STEPS:
            self.steps += 1
            if self.steps == self.dies_at:
                os._exit(0)
        return super().__getattribute__(name)


def contents(store: Path) -> dict[str, str]:
    """Hash of every file."""
    return {str(file.relative_to(store)): file_sha256(file) for file in sorted(store.rglob("*")) if file.is_file()}


def killed_at(make: Callable[[FileSystem], Any], total: int, n_kills: int) -> Iterator[int]:
    """Kill `make` at evenly spread steps of its `total`, one process each; yields the step after each death."""
    for dies_at in range(1, total + 1, max(1, total // n_kills)):
        child = FORK.Process(target=make, args=(Counting(dies_at),))
        child.start()
        child.join()
        assert child.exitcode == 0
        yield dies_at
