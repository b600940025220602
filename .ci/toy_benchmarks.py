"""Run every benchmark at toy size, two at a time, each with the Python that its docstring names; fail if one fails.

    .venv/bin/python .ci/toy_benchmarks.py

A file of benchmarks/ either is a benchmark that takes its sizes from benchmarks/toy.py, or is named below.
"""

import ast
import os
import re
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WITHOUT_SIZE = {
    "break_even.py": "arithmetic on prices and recorded rates; nothing is measured",
    "scale_arithmetic.py": "arithmetic on recorded rates and data sheets; nothing is measured",
}
PARTS = {
    "scale_formulas.py": "the formulas of scale_arithmetic.py",
    "toy.py": "the sizes",
    "train_peers.py": "the other libraries' side of train.py",
    "walk_trace.py": "the tracer of walk.py",
    "whole_job_peers.py": "the other libraries' side of whole_job.py",
    "whole_job_tables.py": "the tables of whole_job.py",
}
"""Files that others import and nobody runs."""
LIMIT_SECONDS = 900
"""A benchmark of toy size takes half a minute; one that is not done after this waits for something that never comes."""


def benchmarks(folder: Path) -> list[Path]:
    """The files to run. SystemExit: one has no toy size, or says nowhere which Python runs it."""
    files = [file for file in sorted(folder.glob("*.py")) if file.name not in PARTS]
    bare = [file.name for file in files if file.name not in WITHOUT_SIZE and not _takes_sizes(file)]
    if bare:
        sys.exit(f"no toy size: {', '.join(bare)}; take the sizes from `sized` of benchmarks/toy.py")
    if unsaid := [file.name for file in files if python_of(file) is None]:
        sys.exit(f"how to run it is not said: {', '.join(unsaid)}; write `    python benchmarks/...` in the docstring")
    return files


def python_of(file: Path) -> str | None:
    """`python` or `.venv-peers/bin/python`, as the usage line of a benchmark's docstring says."""
    usage = re.search(rf"^    (?:.* )?(\S*python) benchmarks/{file.name}", _docstring(file), re.MULTILINE)
    return usage[1] if usage else None


def _docstring(file: Path) -> str:
    return ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")), clean=False) or ""


def _takes_sizes(file: Path) -> bool:
    nodes = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return any(isinstance(node, ast.Call) and getattr(node.func, "id", "") == "sized" for node in nodes)


def run(file: Path) -> bool:
    """Run one. Returns: whether it passed; what it printed is shown if not."""
    python = {"python": sys.executable}.get(found := python_of(file) or "", str(ROOT / found))
    environment = {**os.environ, "STRATA_BENCHMARK_SIZE": "toy", "OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    with subprocess.Popen(
        [python, str(file)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # with what it started, which holds the pipe too
            output = f"{process.communicate()[0]}\nnot done after {LIMIT_SECONDS} s"
        except BaseException:  # Ctrl-C, which does not reach a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            raise
    verdict = f"FAILED ({process.returncode})\n{output}" if process.returncode else "ran"
    print(f"{file.name:<30}{time.monotonic() - began:6.1f} s  {verdict}", flush=True)
    return process.returncode == 0


def main() -> int:
    """Run all. Returns: the exit code."""
    with ThreadPoolExecutor(2) as pool:
        passed = list(pool.map(run, benchmarks(ROOT / "benchmarks")))
    print(f"{sum(passed)} of {len(passed)} benchmarks ran at toy size")
    return int(not all(passed))


if __name__ == "__main__":
    sys.exit(main())
