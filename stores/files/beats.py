"""Beats: how the owner of a lease shows that it lives, to processes that the kernel's locks do not reach.

A lock file holds which machine its owner runs on, since which boot, and a number that the owner raises again and
again. Whoever looks at it compares the number with what it saw before, by its own monotonic clock: times of two
machines are never compared.
"""

import hashlib
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

BEAT_SECONDS = 10.0
"""Between two beats: seldom enough to cost nothing, also with a thousand workers on one file server."""
STILL_SECONDS = 120.0
"""Without a beat for so long an owner counts as dead: twelve beats, and twice the 60 s that NFS may hold back news."""

THREAD = "strata-beats"
"""Name of the thread that writes them."""

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_MACHINE = Path("/etc/machine-id")
_LONGEST = 200
"""Bytes of a lock file that are looked at."""


class Beat(NamedTuple):
    """What a lock file says of its owner."""

    machine: str
    boot: str
    number: int
    run: str = ""
    """Names the run of an engine that the owner is part of; empty: none."""

    def data(self) -> bytes:
        """The bytes of the file: always as many, so that a new beat replaces the old one."""
        return f"{self.machine} {self.boot} {self.number:020d} {self.run}".rstrip().encode("ascii") + b"\n"


def read_beat(descriptor: int) -> Beat | None:
    """The beat in an open lock file; None where there is none: older versions write none."""
    try:
        machine, boot, number, *run = os.pread(descriptor, _LONGEST, 0).decode("ascii").split()
        return Beat(machine, boot, int(number), "".join(run))
    except ValueError:
        return None


@cache
def this_machine() -> tuple[str, str]:
    """Names of this machine and of its last boot: 16 hex digits each, from which neither can be read."""
    host = socket.gethostname()
    return _hashed(host + _text(_MACHINE)), _hashed(_text(_BOOT) or host)


def _hashed(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:  # no Linux
        return ""


class Pulse:
    """The beats of one owner, written to its open lock file by a thread until `stop`."""

    def __init__(self, descriptor: int, run: str = "", *, needed: bool = False) -> None:
        """`needed`: raise OSError where not even the first beat can be written."""
        # From a random number: a lock file of the same name, made again, must not show a beat that was seen before.
        self._descriptor, self._number, self._run_name = descriptor, secrets.randbits(60), run
        self._stopped = threading.Event()
        self._write() if needed else self.beat()
        self._thread = threading.Thread(target=self._run, name=THREAD, daemon=True)
        self._thread.start()

    def beat(self) -> None:
        """Write the next beat, and push it to the server where there is one. A disk that is full stops no work."""
        with suppress(OSError):
            self._write()

    def _write(self) -> None:
        self._number += 1
        os.pwrite(self._descriptor, Beat(*this_machine(), self._number, self._run_name).data(), 0)
        os.fsync(self._descriptor)

    def stop(self) -> None:
        """Beat no more; the lock file may be closed afterwards."""
        self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(BEAT_SECONDS):
            self.beat()


class Observer:
    """Remembers the beats that this process has seen, and since when by its clock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[Path, tuple[Beat | None, float]] = {}

    def is_still(self, lock: Path, beat: Beat | None) -> bool:
        """Whether a lock file has shown this very beat, or none, for STILL_SECONDS; never at the first look."""
        now = self._clock()
        if lock not in self._seen or self._seen[lock][0] != beat:
            self._seen[lock] = (beat, now)
        return now - self._seen[lock][1] >= STILL_SECONDS
