"""D5: a file cut under a memory map ends in a message with its name; everything else is as without the watcher."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline.commands.app import app, main
from strata_sae.pipeline.commands.sigbus_guard import supervise
from strata_sae.pipeline.config import RunConfig, dump
from strata_sae.pipeline.errors import ConfigError
from support.small_run import ALL, SITE, run_data, store_for_training
from support.waiting import wait_until

ROOT = Path(__file__).parents[1]
SUPPORT = ROOT / "tests" / "support"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(SUPPORT.parent)]), "OMP_NUM_THREADS": "1"}
WATCHED = """\
import os, signal, sys, time
from strata_sae.pipeline.commands.sigbus_guard import supervise
print("before", end=" ")
supervise(lambda: None)
"""


def command(body: str, watched: str = WATCHED) -> list[str]:
    return [sys.executable, "-c", watched + body]


def run(body: str, watched: str = WATCHED) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command(body, watched), cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_exit_codes_and_output_are_those_of_the_program(code: int) -> None:
    done = run(f"print('after'); print('to stderr', file=sys.stderr); sys.exit({code})")
    assert (done.returncode, done.stdout, done.stderr) == (code, "before after\n", "to stderr\n")


def test_a_traceback_is_printed_once() -> None:
    done = run("raise ValueError('once')")
    assert done.returncode == 1
    assert done.stderr.count("ValueError: once") == 1


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGABRT"])
def test_another_deadly_signal_is_named(name: str) -> None:
    done = run(f"os.kill(os.getpid(), signal.{name})")
    assert done.returncode == 1
    assert f"killed by {name}" in done.stderr
    assert ("memory" in done.stderr) == (name == "SIGKILL")


CUT = """\
import mmap
with open(sys.argv[1], "r+b") as file:
    memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    file.truncate(0)
try:
    memory[0]
except BaseException:
    print("caught")
"""


def test_a_bus_error_is_explained_and_without_the_watcher_nobody_says_a_word(tmp_path: Path) -> None:
    file = tmp_path / "file"
    outcomes = []
    explained = WATCHED.replace("lambda: None", "lambda: 'which: ' + sys.argv[1]")
    failing = WATCHED.replace("lambda: None", "lambda: 1 / 0")
    for watched in (explained, WATCHED, failing, "import sys\n"):
        file.write_bytes(b"x" * 10_000)
        done = subprocess.run(
            [*command(CUT, watched), str(file)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True
        )
        outcomes.append((done.returncode, done.stderr))
        assert "caught" not in done.stdout
    named, unnamed, failed, control = outcomes
    assert named[0] == unnamed[0] == failed[0] == 1
    assert f"which: {file}" in named[1]
    assert "store.io" in named[1]
    assert "every file has its size" in unnamed[1]
    assert "division by zero" in failed[1]
    assert control == (-signal.SIGBUS, "")


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def started(body: str) -> "tuple[subprocess.Popen[str], int]":
    """A watched program whose body says its process id, and that id."""
    program = subprocess.Popen(
        command(body),
        cwd=ROOT, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert program.stdout is not None
    return program, int(program.stdout.readline().split()[-1])


def test_killing_the_watcher_leaves_no_orphan() -> None:
    program, child = started("print(os.getpid(), flush=True)\nsignal.pause()")
    assert child != program.pid
    assert alive(child)
    program.kill()
    program.communicate()
    wait_until(lambda: not alive(child))


def test_a_plain_child_would_outlive_its_parent() -> None:
    fork = "import os, signal, sys\nif os.fork():\n    signal.pause()\n"
    body = "print(os.getpid(), flush=True)\nsys.stdin.readline()\nprint('still here')"
    program = subprocess.Popen(command(body, fork), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert program.stdin is not None
    assert program.stdout is not None
    assert int(program.stdout.readline()) != program.pid
    program.kill()
    program.wait()
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "still here\n"
    program.communicate()


INTERRUPTED = """\
try:
    print(os.getpid(), flush=True)
    while True:
        time.sleep(0.1)  # not once and long: Python sleeps through a signal that comes just before it begins to
except KeyboardInterrupt:
    print("interrupted", flush=True)
    time.sleep(0.3)  # a second one would end this
    print("in peace")
    sys.exit(130)
"""


def test_an_interrupt_for_the_watcher_reaches_the_program_once() -> None:
    program, _ = started(INTERRUPTED)
    program.send_signal(signal.SIGINT)
    out, error = program.communicate()
    assert (program.returncode, out, error) == (130, "interrupted\nin peace\n", "")


def test_control_c_in_a_terminal_reaches_the_program_once() -> None:
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(ROOT)
        arguments = command(INTERRUPTED)
        os.execve(arguments[0], arguments, ENVIRONMENT)
    seen = b""
    while b"\n" not in seen:
        seen += os.read(terminal, 1000)
    os.write(terminal, b"\x03")
    _, status = os.waitpid(process, 0)
    seen += os.read(terminal, 1000)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 130
    assert seen.count(b"interrupted") == seen.count(b"in peace") == 1


def test_sigterm_ends_both_as_it_ends_one() -> None:
    program, child = started("print(os.getpid(), flush=True)\nsignal.pause()")
    program.terminate()
    out, error = program.communicate()
    assert (program.returncode, out, error) == (-signal.SIGTERM, "", "")
    wait_until(lambda: not alive(child))


# ---- Which commands are watched


def watched(*arguments: str) -> list[Any]:
    """What a command hands to the watcher before it does anything else; the command itself is stopped there."""
    explanations: list[Any] = []

    def stop(explain: Any) -> None:
        explanations.append(explain)
        raise ConfigError("stopped by the watcher")

    CliRunner().invoke(app, arguments, obj=stop)
    return explanations


SAE = f"runs/run/topk@{SITE}"
OF_A_RUN = {
    "codes": ["codes", "runs/run"],
    "codes of an SAE": ["codes", SAE],
    "analyze": ["analyze", SAE, "pairs"],
    "explore": ["explore", "runs/run"],
    "prompt": ["prompt", SAE, "a text"],
    "export": ["export", SAE, "--format", "delphi", "--out", "cached"],
}


@pytest.mark.parametrize("arguments", OF_A_RUN.values(), ids=OF_A_RUN)
def test_commands_that_map_the_store_of_a_run_are_watched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_for_training(tmp_path / "store")
    Path("runs/run").mkdir(parents=True)
    made = RunConfig.model_validate(run_data(store, {"topk": ALL["topk"]}))
    Path("runs/run/config.yaml").write_text(dump(made))
    (explain,) = watched(*arguments)
    assert explain() is None
    shard = next(store.glob("activations.zarr/sites/*/values/c/0/0"))
    shard.chmod(0o644)
    os.truncate(shard, 0)
    assert str(shard.relative_to(store)) in explain()


@pytest.mark.parametrize("command", ["run", "train", "evaluate"])
def test_commands_that_map_a_store_are_watched_and_the_store_is_that_of_their_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    store = store_for_training(tmp_path / "store")
    made = RunConfig.model_validate(run_data(Path("elsewhere"), {"topk": ALL["topk"]}))
    Path("a.config").write_text(dump(made))
    (explain,) = watched(command, "a.config", "--set", f"store.path={store}", "--set", "report.title=b.yaml")
    assert explain() is None
    shard = next(store.glob("activations.zarr/sites/*/values/c/0/0"))
    shard.chmod(0o644)
    os.truncate(shard, 0)
    assert str(shard.relative_to(store)) in explain()


@pytest.mark.parametrize(
    "arguments",
    [("plan", "train"), ("extract", "evaluate.yaml"), ("report", "run"), ("store", "list", "train"), ("--help", "run")],
)
def test_other_commands_are_not_watched_whatever_their_words(arguments: tuple[str, ...]) -> None:
    assert watched(*arguments) == []


def test_without_a_command_the_demo_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (explain,) = watched()
    assert explain.args == (Path("configs/demo.yaml"), [])


def test_main_hands_over_the_watcher(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr("strata_sae.pipeline.commands.app.app", lambda *, obj: given.append(obj))
    main()
    assert given == [supervise]


# ---- Training over a store that is cut meanwhile


def train(folder: Path, store: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    folder.mkdir(exist_ok=True)
    script = SUPPORT / "supervised_training.py"
    return subprocess.run(
        [sys.executable, str(script), str(store), *options],
        cwd=folder, env=ENVIRONMENT, capture_output=True, text=True,
    )  # fmt: skip


def result(folder: Path) -> dict[str, Any]:
    (state,) = folder.glob("runs/run/variants/*/training.json")
    return dict(json.loads(state.read_text())["sha256"])


def test_a_store_cut_under_training_is_named_and_training_resumes_with_the_same_bits(tmp_path: Path) -> None:
    store = store_for_training(tmp_path / "store")
    shard = next(store.glob("activations.zarr/sites/*/values/c/0/0"))
    shutil.copy(shard, tmp_path / "shard")
    n_bytes = shard.stat().st_size
    shard.chmod(0o644)
    undisturbed = train(tmp_path / "undisturbed", store)
    assert undisturbed.returncode == 0, undisturbed.stderr

    seen = train(tmp_path / "seen", store, "cut", "alone")
    assert seen.returncode == 1, "an error with the file's name, as long as the cut is seen before the bytes are used"
    assert f"{shard.relative_to(store)}: was written to while it is read (0 bytes, {n_bytes} before)" in seen.stderr
    shutil.copy(tmp_path / "shard", shard)

    control = train(tmp_path / "alone", store, "cut", "late", "alone")
    assert (control.returncode, control.stderr) == (-signal.SIGBUS, "")
    shutil.copy(tmp_path / "shard", shard)

    cut = train(tmp_path / "cut", store, "cut", "late")
    assert cut.returncode == 1, cut.stderr
    assert "SIGBUS" in cut.stderr
    assert f"{shard.relative_to(store)}: 0 bytes instead of {n_bytes}" in cut.stderr
    assert list((tmp_path / "cut").glob("runs/run/variants/*/checkpoints/step_*"))

    shutil.copy(tmp_path / "shard", shard)
    again = train(tmp_path / "cut", store)
    assert (again.returncode, again.stderr) == (0, "")
    assert result(tmp_path / "cut") == result(tmp_path / "undisturbed")
