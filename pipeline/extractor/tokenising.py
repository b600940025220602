"""Batches of documents become tokens in several processes of this machine; results come in the order of the documents.

The tokenizer has threads of its own, but all that Python does beside it is done by one core: of plain text a tenth of
the work, of chats a third, of a corpus that is deduplicated a half. As a program: one of these processes, which gets
tasks and gives results by the socket whose number is its argument.
"""

import logging
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Tasks that are handed out for each process, so that none waits for the next."""


def n_cores() -> int:
    """Processor cores that this process may use (count)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Pool(Generic[T, R]):
    """Processes that call one function. What a process cannot do, because it died or had an error, is done here."""

    def __init__(self, function: Callable[[T], R], n_processes: int) -> None:
        """`function` is sent to each process. Raises: Exception, of pickle, where it cannot be."""
        self._function = function
        self._free: SimpleQueue[_Process | None] = SimpleQueue()
        self._processes: list[_Process] = []
        try:
            for _ in range(n_processes):
                self._processes.append(process := _Process())
                process.connection.send(function)
                self._free.put(process)
        except BaseException:
            self._end()
            raise
        self._threads = ThreadPoolExecutor(n_processes, "strata-tokenise")

    def __enter__(self) -> "Pool[T, R]":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._end()  # threads that wait for a process see its end
        self._threads.shutdown(cancel_futures=True)
        for process in self._processes:
            process.connection.close()

    def _end(self) -> None:
        for process in self._processes:
            process.kill()

    def map(self, tasks: Iterable[T]) -> Iterator[R]:
        """The result of each task, in order. What reading the tasks raises is raised in its place in that order."""
        handed_out: deque[tuple[T, Future[tuple[R] | None]]] = deque()
        ended: BaseException | None = None
        reading = iter(tasks)
        while True:
            while ended is None and len(handed_out) < _AHEAD * len(self._processes):
                try:
                    task = next(reading)
                except Exception as error:  # StopIteration is the end
                    ended = error
                else:
                    handed_out.append((task, self._threads.submit(self._call, task)))
            if not handed_out:
                break
            task, future = handed_out.popleft()
            result = future.result()
            # An error that comes again here is the one that there would have been without other processes.
            yield self._function(task) if result is None else result[0]
        if ended is not None and not isinstance(ended, StopIteration):
            raise ended

    def _call(self, task: T) -> tuple[R] | None:
        process = self._free.get()
        try:
            return None if process is None else process.call(task)
        except (OSError, EOFError):
            log.warning("a process that tokenises has ended; the others, and this one, do its part")
            process = None
            return None
        finally:
            self._free.put(process)


class _Process:
    """One process, and this end of the socket to it."""

    def __init__(self) -> None:
        here, there = socket.socketpair()
        with there:
            number = there.fileno()
            program = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve({number})"
            self._process = subprocess.Popen(
                [sys.executable, "-c", program], pass_fds=[number], stdin=subprocess.DEVNULL
            )
        self.connection = Connection(here.detach())

    def call(self, task: object) -> tuple[R] | None:
        """The result, in a tuple; None where the function had an error."""
        self.connection.send(task)
        result: tuple[R] | None = self.connection.recv()
        return result

    def kill(self) -> None:
        """End it: it holds nothing that is not here."""
        self._process.kill()
        self._process.wait()


def serve(number: int) -> None:
    """What a process runs: the function is called for every task, until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal; the parent handles it
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # there is a process for each core
    connection = Connection(number)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        function = connection.recv()
        while True:
            task = connection.recv()
            try:
                result = (function(task),)
            except Exception:  # the parent makes it again, and has the same error
                result = None
            connection.send(result)
