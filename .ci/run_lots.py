"""Run the lots of .ci/lots, all or those named, and print each one's result and time beside its budget.

Exit code: 0 every lot passed; 1 one failed, the others still ran; 2 there is no such lot. A lot that takes longer than
its budget passes with a warning; one that prints nothing for SILENCE_SECONDS is ended and has failed. Needs nothing but
Python: it makes the environments that everything else is in.
"""

import os
import queue
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

TABLE = Path(__file__).with_name("lots")
CLOSING = re.compile(r"^(?:=+ )?(\d+ (?:passed|failed|error|skipped|deselected|xfailed)\b.* in .+?)(?: =+)?$")
"""pytest's last line."""
SILENCE_SECONDS = 900
"""The longest step of a lot prints a line within two minutes; one that is silent for this long waits for something that
never comes, and the lots after it would not run."""


class Lot(NamedTuple):
    """A line of the table."""

    name: str
    budget_minutes: float
    command: str
    """Empty: there is nothing to run yet."""


class Outcome(NamedTuple):
    """What running a lot gave."""

    result: str
    """`passed`, `FAILED (exit code)` or `absent`."""
    seconds: float
    closing: str
    """pytest's last line, where the lot ran pytest."""


def read_lots(text: str) -> list[Lot]:
    """The lots of a table, in its order."""
    lines = [line.split(maxsplit=2) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [Lot(name, float(minutes), command[0] if command else "") for name, minutes, *command in lines]


def run_lot(lot: Lot) -> Outcome:
    """Run a lot's command in a shell, its output passed on line by line."""
    if not lot.command:
        return Outcome("absent", 0.0, "")
    print(f"\n=== lot {lot.name}: {lot.command}", flush=True)
    began, closing = time.monotonic(), ""
    with subprocess.Popen(
        lot.command,
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        try:
            for line in _lines(process):
                sys.stdout.buffer.write(line)
                sys.stdout.buffer.flush()
                found = CLOSING.match(line.decode(errors="replace").strip())
                closing = found[1] if found else closing
        except BaseException:  # Ctrl-C, which does not reach a session of its own
            os.killpg(process.pid, signal.SIGTERM)
            raise
    result = f"FAILED ({process.returncode})" if process.returncode else "passed"
    return Outcome(result, time.monotonic() - began, closing)


def _lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """What a process prints, line by line. It is killed, with all it started, when it prints none for too long."""
    assert process.stdout is not None
    lines: queue.Queue[bytes] = queue.Queue()

    def read(stream: IO[bytes]) -> None:
        for line in stream:
            lines.put(line)
        lines.put(b"")

    threading.Thread(target=read, args=(process.stdout,), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=SILENCE_SECONDS)
        except queue.Empty:
            os.killpg(process.pid, signal.SIGKILL)
            yield f"nothing was printed for {SILENCE_SECONDS} s: ended\n".encode()
            return
        if not line:
            return
        yield line


def table(outcomes: dict[Lot, Outcome]) -> str:
    """One line for each lot: result, time, budget, pytest's closing line."""
    lines = [f"{'lot':<11}{'result':<14}{'time':>7}{'budget':>8}"]
    for lot, (result, seconds, closing) in outcomes.items():
        took = "-" if result == "absent" else _minutes(seconds)
        over = " WARNING: over budget" if seconds > 60 * lot.budget_minutes else ""
        closing = f"  {closing}" if closing else ""
        lines.append(f"{lot.name:<11}{result:<14}{took:>7}{_minutes(60 * lot.budget_minutes):>8}{over}{closing}")
    total = sum(outcome.seconds for outcome in outcomes.values())
    budget = 60 * sum(lot.budget_minutes for lot in outcomes)
    return "\n".join([*lines, f"{'all':<25}{_minutes(total):>7}{_minutes(budget):>8}"])


def _minutes(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def main(names: list[str]) -> int:
    """Run the lots of these names, or all. Returns: the exit code."""
    lots = read_lots(TABLE.read_text(encoding="utf-8"))
    if unknown := set(names) - {lot.name for lot in lots}:
        print(
            f"no such lot: {', '.join(sorted(unknown))}; lots: {', '.join(lot.name for lot in lots)}", file=sys.stderr
        )
        return 2
    outcomes = {lot: run_lot(lot) for lot in lots if not names or lot.name in names}
    print(f"\n{table(outcomes)}")
    return int(any(outcome.result.startswith("FAILED") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
