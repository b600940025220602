"""Run a command of a checkout and note which of its files execute a line, in the order of their first.

    python -P benchmarks/walk_trace.py ROOT NOTED BEGIN END train smoke.yaml ...

Started by walk.py, in a process of its own: it imports nothing of the project, so it runs on any commit. ROOT is the
checkout; a line of NOTED is a file's path in it. With BEGIN and END (`Class.method`) what is noted begins with the
first call of BEGIN whose first argument is 0, and ends where END first returns; two empty words: the whole command.
What an import executes does not count, nor what it calls. A loop that Numba compiled executes no line of Python, so
the file that calls it counts, and the loop's own does not.
"""

import os
import runpy
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

FOLDERS = ("pipeline", "stores")
COMMAND_LINE = "run_pipeline.py"
IMPORTER = "<frozen importlib._bootstrap>"


class Tracer:
    """What sys.settrace calls; threads have one in common."""

    def __init__(self, root: Path, noted: Path, begin: str, end: str) -> None:
        self._root = os.path.realpath(root)
        self._folders = tuple(os.path.realpath(root / name) + os.sep for name in FOLDERS)
        self._begin, self._end = begin, end
        self._on = not begin
        self._thread = threading.local()
        self._names: dict[str, str | None] = {}
        self._seen: set[str] = set()
        # Unbuffered and for appending, because the command line forks, and both processes note what they execute.
        self._noted = open(noted, "ab", buffering=0)  # noqa: SIM115 - until the process ends

    def call(self, frame: FrameType, event: str, argument: Any) -> Any:
        """A function begins, or goes on after a yield. Returns: what is to be told of it, or None."""
        code = frame.f_code
        if code.co_name == "<module>" and _is_imported(frame):
            self._thread.depth = self._depth() + 1
            frame.f_trace_lines = False
            return self._import
        name = self._name(code.co_filename)
        if name is None or code.co_name == "<module>" or self._depth():
            return None
        if not self._on and code.co_qualname == self._begin and frame.f_locals[code.co_varnames[1]] == 0:
            self._start(frame)
        if not self._on:
            return None
        self._note(name)
        return self._last if code.co_qualname == self._end else None

    def _import(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            self._thread.depth -= 1
        return self._import

    def _start(self, frame: FrameType) -> None:
        """Begin to note; the callers of this frame, which are past their first line, are followed line by line."""
        self._on = True
        caller = frame.f_back
        while caller is not None:
            if self._name(caller.f_code.co_filename) and caller.f_code.co_name != "<module>":
                caller.f_trace = self._line
            caller = caller.f_back

    def _line(self, frame: FrameType, event: str, argument: Any) -> Any:
        name = self._name(frame.f_code.co_filename)
        if event == "line" and self._on and name is not None:
            self._note(name)
        return self._line

    def _last(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "return":
            self._on, self._begin = False, ""
        return self._last

    def _depth(self) -> int:
        return getattr(self._thread, "depth", 0)

    def _name(self, file: str) -> str | None:
        """The path in the checkout, whatever link led to it; None: not the project's."""
        if file not in self._names:
            path = os.path.realpath(file)
            ours = path.startswith(self._folders) or path == os.path.join(self._root, COMMAND_LINE)
            self._names[file] = os.path.relpath(path, self._root) if ours else None
        return self._names[file]

    def _note(self, name: str) -> None:
        if name not in self._seen:
            self._seen.add(name)
            self._noted.write(f"{name}\n".encode())


def _is_imported(frame: FrameType) -> bool:
    return frame.f_back is not None and frame.f_back.f_code.co_filename == IMPORTER


def main(root: str, noted: str, begin: str, end: str, *command: str) -> None:
    tracer = Tracer(Path(root), Path(noted), begin, end)
    sys.argv = [COMMAND_LINE, *command]
    threading.settrace(tracer.call)
    sys.settrace(tracer.call)
    runpy.run_path(os.path.join(root, COMMAND_LINE), run_name="__main__")


if __name__ == "__main__":
    main(*sys.argv[1:])
