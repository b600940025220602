"""A stand-in for SLURM: reads the #SBATCH lines of a script, and runs the tasks of its array as real processes.

What it has of SLURM: the variables of a task; signals that go to the shell of the script alone; KILL for all that a
task has started; a task that is put into the queue again because its node failed, because it was preempted, or by
`scontrol requeue`. It waits for events, never for a time.
"""

import os
import re
import signal
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from support.waiting import wait_until

JOB = 4217
FLAGS = {"requeue", "exclusive"}
VALUES = {
    "account", "array", "constraint", "cpus-per-task", "gpus", "gres", "job-name", "mem", "nodes", "ntasks",
    "open-mode", "output", "partition", "qos", "signal", "time",
}  # fmt: skip
"""Options of sbatch that are known here: those that we print, and what people usually add."""
SCONTROL = """\
#!/bin/bash
[ "$#" -eq 2 ] && [ "$1" = requeue ] || { echo "scontrol: cannot $*" >&2; exit 1; }
echo "$2" >> "$STAND_IN_REQUEUED"
"""


def options_of(script: str) -> dict[str, str]:
    """The options of a script, as sbatch reads them: until the first line that is neither empty nor a comment.

    Raises: ValueError for one that sbatch does not know, or knows otherwise.
    """
    found: dict[str, str] = {}
    for line in script.splitlines():
        if line.strip() and not line.startswith("#"):
            break
        if not line.startswith("#SBATCH "):
            continue
        name, equals, value = line.removeprefix("#SBATCH ").removeprefix("--").partition("=")
        if not line.startswith("#SBATCH --") or name not in (VALUES if equals else FLAGS):
            raise ValueError(f"sbatch: unrecognized option: {line}")
        if name in found:
            raise ValueError(f"sbatch: given twice: {line}")
        found[name] = value
    return found


def array_of(text: str) -> list[int]:
    """The tasks of `--array`: 0-2, 4-6%2, 1,3."""
    numbers: list[int] = []
    for part in text.partition("%")[0].split(","):
        first, _, last = part.partition("-")
        numbers += range(int(first), int(last or first) + 1)
    return numbers


@dataclass
class Task:
    """One task of the array, and its lives so far."""

    number: int
    process: "subprocess.Popen[bytes] | None" = None
    codes: list[int] = field(default_factory=list)
    """How its lives ended: an exit code, or minus the signal."""

    @property
    def shell(self) -> "subprocess.Popen[bytes]":
        assert self.process is not None
        return self.process


class Cluster:
    """Runs the tasks of one script. `folder`: where it was submitted."""

    def __init__(self, script: str, folder: Path) -> None:
        self.options, self._folder = options_of(script), folder
        self._spool = folder / "spool"
        self._spool.mkdir()
        (self._spool / "script").write_text(script, encoding="utf-8")
        (self._spool / "scontrol").write_text(SCONTROL, encoding="utf-8")
        (self._spool / "scontrol").chmod(0o755)
        numbers = array_of(self.options["array"])
        self.tasks = {number: Task(number) for number in numbers}

    def start(self, number: int, **variables: str) -> Task:
        """Let a task that waits in the queue run. variables: of its environment."""
        task = self.tasks[number]
        assert task.process is None
        with self.output(number).open("ab" if self.options["open-mode"] == "append" else "wb") as output:
            task.process = subprocess.Popen(
                ["bash", str(self._spool / "script")],
                cwd=self._folder,
                env={**os.environ, **self._variables(task), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return task

    def output(self, number: int) -> Path:
        """The file that a task writes to."""
        names = {"%x": self.options["job-name"], "%A": str(JOB), "%a": str(number)}
        return self._folder / re.sub("%[xAa]", lambda found: names[found[0]], self.options["output"])

    def preempt(self, number: int) -> int:
        """Ask a task to end, and put it into the queue again. Returns: how it ended."""
        return self._signal(number, signal.SIGTERM)

    def near_limit(self, number: int) -> int:
        """Send what --signal asks for before the time limit; the task is queued again only if it asks for that."""
        name = re.fullmatch(r"B:([A-Z0-9]+)@\d+", self.options["signal"])
        assert name is not None
        code = self._signal(number, signal.Signals[f"SIG{name[1]}"])
        assert f"{JOB}_{number}" in self.requeued(), "the task is out of time, and would not run again"
        return code

    def fail_node(self, number: int) -> int:
        """Kill all that a task has started, at once."""
        session = self.tasks[number].shell.pid
        os.killpg(session, signal.SIGKILL)
        wait_until(lambda: not left_of(session))
        return self.ended(number)

    def ended(self, number: int) -> int:
        """Wait until a task has ended. Returns: how."""
        task = self.tasks[number]
        wait_until(lambda: task.shell.poll() is not None)
        code = task.shell.wait()
        assert not left_of(task.shell.pid), "processes of the task outlive its script"
        task.process = None
        task.codes.append(code)
        return code

    def requeued(self) -> list[str]:
        """What scontrol was asked to put into the queue again."""
        file = self._spool / "requeued"
        return file.read_text(encoding="utf-8").split() if file.exists() else []

    def run_to_the_end(self, until: Callable[[], object] = lambda: True) -> list[int]:
        """Wait until a condition holds and all that runs has ended. Returns: the last code of every task."""
        wait_until(until)
        for task in self.tasks.values():
            if task.process is not None:
                self.ended(task.number)
        return [task.codes[-1] for task in self.tasks.values()]

    def close(self) -> None:
        """Kill what still runs."""
        for task in self.tasks.values():
            if task.process is not None:
                self.fail_node(task.number)

    def _signal(self, number: int, what: signal.Signals) -> int:
        self.tasks[number].shell.send_signal(what)
        return self.ended(number)

    def _variables(self, task: Task) -> Mapping[str, str]:
        numbers = list(self.tasks)
        found = {
            "SLURM_ARRAY_JOB_ID": JOB,
            "SLURM_JOB_ID": JOB + 1 + numbers.index(task.number),
            "SLURM_JOB_NAME": self.options["job-name"],
            "SLURM_ARRAY_TASK_ID": task.number,
            "SLURM_ARRAY_TASK_COUNT": len(numbers),
            "SLURM_ARRAY_TASK_MIN": min(numbers),
            "SLURM_ARRAY_TASK_MAX": max(numbers),
            "SLURM_ARRAY_TASK_STEP": 1,
            "SLURM_CPUS_PER_TASK": self.options["cpus-per-task"],
            "STAND_IN_REQUEUED": self._spool / "requeued",
            "PATH": f"{self._spool}{os.pathsep}{os.environ['PATH']}",
        }
        if task.codes:
            found["SLURM_RESTART_COUNT"] = len(task.codes)
        return {name: str(value) for name, value in found.items()}


def left_of(session: int) -> list[int]:
    """Living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, of = stat.read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == session and state not in "ZX":
            found.append(int(stat.parent.name))
    return found
