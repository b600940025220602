"""Runs commands in a process from which all that only Linux has is taken away.

python as_on_macos.py STORE: trains, scores and reports in the working folder, and says what it found missing.
"""

import builtins
import ctypes
import fcntl
import io
import mmap
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

NOT_ON_MACOS: dict[Any, tuple[str, ...]] = {
    os: (
        "posix_fadvise", "posix_fallocate", "fdatasync", "sched_getaffinity", "sched_setaffinity", "memfd_create",
        "copy_file_range", "splice", "getrandom", "eventfd", "pidfd_open", "getxattr", "setxattr", "listxattr",
        "removexattr", "pipe2", "getresuid", "getresgid", "O_DIRECT", "O_TMPFILE", "O_PATH", "O_LARGEFILE", "O_NOATIME",
        "POSIX_FADV_NORMAL", "POSIX_FADV_SEQUENTIAL", "POSIX_FADV_RANDOM", "POSIX_FADV_NOREUSE", "POSIX_FADV_WILLNEED",
        "POSIX_FADV_DONTNEED", "SCHED_BATCH", "SCHED_IDLE", "unshare", "setns", "fexecve", "posix_openpt",
    ),
    mmap: (
        "MADV_HUGEPAGE", "MADV_NOHUGEPAGE", "MADV_DONTDUMP", "MADV_DODUMP", "MADV_HWPOISON", "MADV_MERGEABLE",
        "MADV_UNMERGEABLE", "MADV_REMOVE", "MADV_DOFORK", "MADV_DONTFORK", "MAP_POPULATE", "MAP_STACK",
    ),
    fcntl: ("F_OFD_SETLK", "F_OFD_SETLKW", "F_OFD_GETLK", "F_SETPIPE_SZ", "F_ADD_SEALS", "F_SETLEASE", "F_NOTIFY"),
    signal: ("sigwaitinfo", "sigtimedwait", "pidfd_send_signal", "SIGRTMIN", "SIGRTMAX", "SIGPOLL", "SIGPWR"),
    resource: ("prlimit", "RUSAGE_THREAD"),
    select: ("epoll",),
    time: ("CLOCK_BOOTTIME", "CLOCK_TAI"),
}  # fmt: skip
"""What Python's documentation says that macOS lacks, by module."""
PLACES = ("/proc", "/sys", "/dev/shm", "/etc/machine-id")
"""Folders and files that are not there either."""


def take_away() -> None:
    """To be called once the libraries are loaded: they are built for the system that they are on."""
    for module, names in NOT_ON_MACOS.items():
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    sys.platform = "darwin"
    builtins.open = io.open = _without_places(io.open)  # type: ignore[assignment]
    os.open, os.stat, os.listdir = map(_without_places, (os.open, os.stat, os.listdir))
    ctypes.CDLL = lambda *_: (_ for _ in ()).throw(OSError("no such library"))  # type: ignore[assignment, misc]


def _without_places(real: Any) -> Any:
    def call(path: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(path, str | Path) and str(path).startswith(PLACES):
            raise FileNotFoundError(2, "No such file or directory", str(path))
        return real(path, *arguments, **named)

    return call


def main(store: str) -> None:
    """Commands as a person types them, with every way of reading rows."""
    import torch

    import support.small_run as small_run
    from strata_sae.pipeline.commands.app import app
    from strata_sae.pipeline.commands.sigbus_guard import supervise
    from strata_sae.pipeline.config import RunConfig, dump
    from strata_sae.pipeline.evaluation import evaluate
    from strata_sae.pipeline.report import page
    from strata_sae.pipeline.trainer import train

    assert all((evaluate, page, train))
    torch.set_num_threads(1)
    take_away()
    for name, training, io_kind in (("plain", {}, "mmap"), ("shared", {"shared_windows": "windows"}, "pread")):
        data = small_run.run_data(Path(store), small_run.ALL, name, n_steps=12, **training)
        data["store"]["io"] = io_kind
        Path("c.yaml").write_text(dump(RunConfig.model_validate(data)))
        for command in ("train", "evaluate", "report"):
            app(["--quiet", command, "c.yaml"], obj=supervise, standalone_mode=False)
    print(hasattr(os, "posix_fallocate"), Path("/proc/meminfo").exists())


if __name__ == "__main__":
    main(sys.argv[1])
