"""Continuous integration runs every lot, says which failed, and lets no benchmark in that it cannot run."""

import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from support.waiting import wait_until

CI = Path(__file__).parents[1] / ".ci"
LOTS = runpy.run_path(str(CI / "run_lots.py"))
TOY = runpy.run_path(str(CI / "toy_benchmarks.py"))


def run(folder: Path, table: str, *names: str) -> subprocess.CompletedProcess[str]:
    """`.ci/run` with another table of lots."""
    (folder / ".ci").mkdir(exist_ok=True)
    for name in ("run", "run_lots.py"):
        shutil.copy(CI / name, folder / ".ci")
    (folder / ".ci/lots").write_text(table, encoding="utf-8")
    return subprocess.run(["bash", ".ci/run", *names], cwd=folder, capture_output=True, text=True, check=False)


def line(output: str, lot: str) -> list[str]:
    """The words of a lot's line in the closing table."""
    return next(words for row in reversed(output.splitlines()) if (words := row.split()) and words[0] == lot)


def test_every_lot_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "# a comment\none 3 echo first\ntwo 4 echo second\n")
    assert done.returncode == 0
    assert done.stdout.index("first") < done.stdout.index("second")
    name, result, _took, budget = line(done.stdout, "one")
    assert (name, result, budget) == ("one", "passed", "3:00")
    assert line(done.stdout, "all")[2] == "7:00"


def test_a_failed_lot_fails_the_run_and_the_others_still_run(tmp_path: Path) -> None:
    done = run(tmp_path, "one 3 exit 7\ntwo 4 echo second\n")
    assert done.returncode == 1
    assert "second" in done.stdout
    assert line(done.stdout, "one")[1:3] == ["FAILED", "(7)"]
    assert line(done.stdout, "two")[1] == "passed"


def test_a_lot_beyond_its_budget_warns_and_passes(tmp_path: Path) -> None:
    done = run(tmp_path, "one 0 true\ntwo 4 true\n")
    assert done.returncode == 0
    assert "WARNING: over budget" in " ".join(line(done.stdout, "one"))
    assert "WARNING" not in " ".join(line(done.stdout, "two")), "control"


def test_a_lot_without_a_command_is_absent(tmp_path: Path) -> None:
    done = run(tmp_path, "one 3\ntwo 4 true\n")
    assert done.returncode == 0
    assert line(done.stdout, "one")[1:3] == ["absent", "-"]


def test_lots_may_be_named_and_must_exist(tmp_path: Path) -> None:
    done = run(tmp_path, "one 3 exit 1\ntwo 4 echo second\n", "two")
    assert done.returncode == 0
    assert "second" in done.stdout
    unknown = run(tmp_path, "one 3 true\n", "three")
    assert unknown.returncode == 2
    assert "three" in unknown.stderr


@pytest.mark.parametrize(
    "closing", ["2 passed in 0.01s", "1 failed, 4050 passed, 3 skipped in 394.21s (0:06:34)", "1 error in 0.10s"]
)
def test_the_table_repeats_what_pytest_said_last(tmp_path: Path, closing: str) -> None:
    done = run(tmp_path, f"one 3 echo '=== {closing} ==='; echo more\ntwo 4 echo '2 passed the test'\n")
    assert done.stdout.splitlines()[-3].endswith(f"  {closing}")
    assert "passed the test" not in " ".join(line(done.stdout, "two")), "control"


def test_the_lots_of_this_repository_are_those_agreed() -> None:
    lots = LOTS["read_lots"]((CI / "lots").read_text(encoding="utf-8"))
    budgets = {lot.name: lot.budget_minutes for lot in lots}
    agreed = {
        "check": 3,
        "test": 16,
        "browser": 3,
        "engines": 6,
        "peers": 10,
        "package": 4,
        "benchmarks": 3,
        "demo": 10,
    }
    assert budgets == agreed
    assert sum(budgets.values()) == 55
    targets = (CI.parent / "Makefile").read_text(encoding="utf-8")
    for lot in lots:
        assert not lot.command or f"\n{lot.command.split()[-1]}:" in targets, lot


def test_every_benchmark_has_a_toy_size_and_says_how_it_is_run() -> None:
    files = TOY["benchmarks"](CI.parent / "benchmarks")
    assert {file.name for file in files} | TOY["PARTS"].keys() == {
        file.name for file in (CI.parent / "benchmarks").glob("*.py")
    }
    assert {file.name for file in files if TOY["python_of"](file) != "python"} == {
        "extraction_memory_peers.py", "loaders.py", "scores.py", "train.py", "whole_job.py", "with_model.py"
    }, "those that run beside other libraries"  # fmt: skip


@pytest.mark.parametrize(
    ("source", "missing"),
    [
        ('"""New.\n\n    python benchmarks/new.py\n"""\nN = 2**20\n', "no toy size: new.py"),
        ('"""New."""\nN = sized(2**20, 2)\n', "how to run it is not said: new.py"),
    ],
)
def test_a_new_benchmark_without_toy_size_or_usage_is_refused(tmp_path: Path, source: str, missing: str) -> None:
    (tmp_path / "new.py").write_text(source, encoding="utf-8")
    with pytest.raises(SystemExit, match=missing):
        TOY["benchmarks"](tmp_path)
    (tmp_path / "new.py").write_text(
        '"""New.\n\n    python benchmarks/new.py\n"""\nN = sized(2**20, 2)\n', encoding="utf-8"
    )
    assert TOY["benchmarks"](tmp_path) == [tmp_path / "new.py"], "control"


def test_a_benchmark_that_waits_for_ever_fails_with_what_it_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "stuck.py"
    usage = '"""Stuck.\n\n    python benchmarks/stuck.py\n"""\n'
    child = "import subprocess, sys\nprint('begun', flush=True)\n"
    forever = "subprocess.run([sys.executable, '-c', 'import signal; signal.pause()'])\n"
    stuck.write_text(usage + child + forever, encoding="utf-8")
    monkeypatch.setitem(TOY["run"].__globals__, "LIMIT_SECONDS", 5)
    assert not TOY["run"](stuck), "the child that holds the pipe is ended, too"
    assert "begun\n\nnot done after 5 s" in capsys.readouterr().out
    stuck.write_text(usage + child, encoding="utf-8")
    assert TOY["run"](stuck), "control"


def test_ctrl_c_ends_the_lot_and_the_benchmark_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They have sessions of their own, so a terminal's SIGINT reaches only who started them."""
    begun: list[subprocess.Popen[bytes]] = []

    def interrupted(process: subprocess.Popen[bytes], *_: object, **__: object) -> bytes:
        begun.append(process)
        raise KeyboardInterrupt

    monkeypatch.setitem(LOTS["run_lot"].__globals__, "_lines", interrupted)
    with pytest.raises(KeyboardInterrupt):
        LOTS["run_lot"](LOTS["Lot"]("stuck", 1.0, "exec sleep 3600"))
    stuck = tmp_path / "stuck.py"
    stuck.write_text(
        '"""Stuck.\n\n    python benchmarks/stuck.py\n"""\nimport signal\nsignal.pause()\n', encoding="utf-8"
    )
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        TOY["run"](stuck)
    for process in begun:
        try:
            wait_until(lambda process=process: process.poll() is not None)
            assert process.returncode < 0
        finally:
            process.kill()


def test_a_silent_lot_is_ended_and_the_next_one_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lots = runpy.run_path(str(CI / "run_lots.py"))
    monkeypatch.setitem(lots["run_lot"].__globals__, "SILENCE_SECONDS", 2)
    stuck = lots["run_lot"](lots["Lot"]("stuck", 1.0, "echo begun; tail -f /dev/null"))
    assert stuck.result == "FAILED (-9)"
    assert lots["run_lot"](lots["Lot"]("next", 1.0, "echo done")).result == "passed", "control"
