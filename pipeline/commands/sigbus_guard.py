"""A watcher for the program's own process: a file that shrinks under a memory map kills whoever reads it (SIGBUS).

No code of the dying process can run then. Its parent, which never maps a file, says which file it was.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of <linux/prctl.h>
_FORWARDED = (signal.SIGINT, signal.SIGTERM)
_ADVICE = """\
fetch what is damaged again, or delete the store and run extract again; then run the same command: training goes on
from its last checkpoint. Where files change while they are read (a network disk), set store.io to pread: a file that
shrinks is then an error with its name."""


def supervise(explain: Callable[[], str | None]) -> None:
    """Go on in a child process. The parent waits, exits as the child does, and reports a child that a signal killed.

    To be called before there are threads. Where there is no Linux it does nothing.

    Args:
        explain: which files are not what they should be; called in the parent after a SIGBUS.

    """
    if sys.platform != "linux":
        return
    sys.stdout.flush()  # what waits in a buffer would be printed twice
    sys.stderr.flush()
    parent = os.getpid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it came ignored, the kernel would keep no exit code for us
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_FORWARDED, signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it could take us along
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    _exit(_wait(child), explain)


def _wait(child: int) -> int:
    """The child's exit code, or minus the signal that killed it; signals meant for the program are handed on."""
    while True:
        received = signal.sigwaitinfo({*_FORWARDED, signal.SIGCHLD})
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        # Ctrl-C in a terminal reaches the child by itself: that one comes from the kernel (si_code above 0).
        if received.si_signo in _FORWARDED and received.si_code <= 0:
            os.kill(child, received.si_signo)


def _exit(code: int, explain: Callable[[], str | None]) -> NoReturn:
    if code == -signal.SIGBUS:
        code = _tell(_bus_error(explain))
    elif -code in _FORWARDED:  # as if there had been no child
        signal.signal(-code, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {-code})
        os.kill(os.getpid(), -code)
        code = 128 - code  # still here: the first process of a container survives its own signals
    elif code < 0:
        why = " (out of memory? The kernel kills so; see dmesg)" if code == -signal.SIGKILL else ""
        name = signal.Signals(-code).name
        code = _tell(f"killed by {name}{why}; the same command goes on from what is finished")
    os._exit(code)  # nothing of the program has begun in this process, so nothing is to be ended


def _bus_error(explain: Callable[[], str | None]) -> str:
    try:
        found = explain()
    except Exception as error:
        found = f"looking for it failed too: {error}"
    said = found or "every file has its size now: the disk or the network failed for a moment, or the file was restored"
    return f"killed by SIGBUS: a file was cut, or could not be read, while it was mapped into memory\n{said}\n{_ADVICE}"


def _tell(message: str) -> int:
    print(message, file=sys.stderr, flush=True)
    return 1
