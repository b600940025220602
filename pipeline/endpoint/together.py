"""Work on many things in a few threads, begun in order, with their results in order."""

import queue
import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def together(
    work: Callable[[A], B], items: Sequence[A], n_threads: int, stop: threading.Event, done: Callable[[], None]
) -> list[B]:
    """`work` of each item. After an error nothing is begun any more, and what is under way is waited for.

    An interrupt of the caller (Ctrl-C, SIGTERM) sets `stop` and is not held up: the threads end with the process.

    Args:
        work: looks at `stop` where it waits.
        done: called in this thread after each item.
    Raises: the first error of `work`.

    """
    results: dict[int, B] = {}
    waiting = iter(range(len(items)))
    lock = threading.Lock()
    finished: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()

    def run() -> None:
        while not stop.is_set():
            with lock:
                number = next(waiting, None)
            if number is None:
                return
            try:
                results[number] = work(items[number])
                finished.put(None)
            except Exception as error:
                finished.put(error)  # before what it makes other threads raise
                stop.set()
                return

    threads = [threading.Thread(target=run, daemon=True) for _ in range(min(n_threads, len(items)))]
    try:
        for thread in threads:
            thread.start()
        for _ in items:
            error = finished.get()
            if error is not None:
                for thread in threads:  # their answers are paid for
                    thread.join()
                raise error
            done()
    except BaseException:
        stop.set()
        raise
    return [results[number] for number in range(len(items))]
