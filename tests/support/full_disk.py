"""A disk that is full from the n-th write on, until there is room again."""

import builtins
import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import safetensors
import safetensors.torch

from strata_sae.stores.files.beats import THREAD as BEATING


class Disk:
    """Counts writes, but not the beats of claims; the `full_from`-th (from 1) and all after it fail with ENOSPC.

    0: never.
    """

    def __init__(self, full_from: int = 0) -> None:
        self.full_from = full_from
        self.n_writes = 0

    def is_full(self) -> bool:
        if threading.current_thread().name == BEATING:  # by the clock: on a busy machine one run has more beats
            return 0 < self.full_from <= self.n_writes
        self.n_writes += 1
        return 0 < self.full_from <= self.n_writes

    def check(self, *name: str) -> None:
        """`name`: of the file, where the kernel is given one."""
        if self.is_full():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), *name)


@contextmanager
def disk(full_from: int = 0) -> Iterator[Disk]:
    """Puts a `Disk` between this process and its files: files that Python opens for writing, os.write, os.fsync,
    os.mkdir, and safetensors, which writes by itself and says so in words of its own.
    """
    it = Disk(full_from)

    class Raw(io.FileIO):
        def write(self, data: Any) -> int:
            it.check()
            return super().write(data)

    real_open, real_save_file = builtins.open, safetensors.torch.save_file

    def opened(file: Any, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        if isinstance(file, int) or "b" not in mode or not set(mode) & set("wax"):
            return real_open(file, mode, *arguments, **named)
        return io.BufferedWriter(Raw(os.fspath(file), mode.replace("b", "")))

    def saved(tensors: Any, filename: Any, *arguments: Any, **named: Any) -> None:
        if it.is_full():
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            )
        real_save_file(tensors, filename, *arguments, **named)

    def checked(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            it.check(*(os.fspath(name) for name in arguments[:1] if not isinstance(name, int)))
            return real(*arguments, **named)

        return call

    failing = {name: checked(getattr(os, name)) for name in ("write", "fsync", "mkdir")}
    with (
        mock.patch("builtins.open", opened),
        mock.patch("io.open", opened),
        mock.patch("safetensors.torch.save_file", saved),
        mock.patch.multiple("os", **failing),
    ):
        yield it
