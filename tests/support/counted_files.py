"""Counts what is asked of the file system, by wrapping the functions of `os` and `fcntl`."""

import fcntl
import functools
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

ASKED = ("stat", "lstat", "open", "unlink", "rename", "link", "mkdir", "rmdir", "chmod", "pread", "pwrite", "fsync")
NAMES_PER_QUESTION = 1000
"""A list of names is one question for each started thousand of them: about what one call of the system returns."""


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Inside, questions to the file system are counted by their kind."""
    asked: Counter[str] = Counter()

    def wrapped(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            asked[name] += 1
            return function(*arguments, **options)

        return call

    listdir = os.listdir

    def listed(path: Any = ".") -> list[str]:
        names = listdir(path)
        asked["listdir"] += max(1, -(-len(names) // NAMES_PER_QUESTION))
        return names

    with pytest.MonkeyPatch.context() as patch:
        for name in ASKED:
            patch.setattr(os, name, wrapped(name, getattr(os, name)))
        patch.setattr(fcntl, "flock", wrapped("flock", fcntl.flock))
        patch.setattr(os, "listdir", listed)
        yield asked
