"""Trackers change no bit of training, whatever becomes of them or of the process that sends to them."""

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from strata_sae.pipeline import tracking
from strata_sae.pipeline.commands.app import app
from strata_sae.pipeline.config import dump
from strata_sae.pipeline.errors import CheckpointError
from strata_sae.pipeline.runs.claims import TRACKING, claim_in
from strata_sae.pipeline.runs.folders import RunFolder
from strata_sae.pipeline.runs.records import CurveLine
from strata_sae.pipeline.tracking import follow, to_mlflow, tracker
from strata_sae.pipeline.tracking.follow import following
from strata_sae.pipeline.tracking.found import Tail
from strata_sae.pipeline.tracking.tracker import wait_for_a_later_second
from strata_sae.pipeline.trainer.train import train
from support.followed_training import SAES, TRACKERS, config_of, results
from support.trackers import as_mlflow, in_curves, in_mlflow, in_tensorboard, in_wandb

ROOT = Path(__file__).parents[2]
RUN = RunFolder(Path("runs/run"))


def process(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    """A process of this Python in the working folder, with a wandb process of its own."""
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    inherited = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    return subprocess.Popen(
        [sys.executable, *arguments],
        env=inherited | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_followed(store: Path, trackers: list[str]) -> list[str]:
    """Train while trackers follow. Returns: why some were left out."""
    config = config_of(store, trackers)
    with following(RUN, config.tracking) as follower:
        train(config, show_progress=False)
    return follower.problems


def steps(points: dict[str, list[tuple[int, float]]]) -> dict[str, list[int]]:
    return {name: [step for step, _ in of_name] for name, of_name in points.items()}


@pytest.mark.parametrize("dies", ["tensorboard", "mlflow"])
def test_killed_between_sending_and_its_note_every_line_is_shown_once(
    store: Path, plain: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with process(str(ROOT / "tests/support/followed_training.py"), str(store), dies, "9") as child:
        said, _ = child.communicate()
    assert child.returncode == -signal.SIGKILL, said
    assert not RUN.trained()
    checkpoint = max(int(path.name.removeprefix("step_")) for path in RUN.path.rglob("step_*"))
    assert in_curves(RUN, SAES[0])["loss"][-1][0] > checkpoint, "training goes on before the end of its curves"
    assert list((RUN.tracking / "wandb" / "unfinished").rglob("*.wandb")), "wandb has what is not whole"
    shutil.copytree("runs", "forgetful/runs", symlinks=True)

    assert train_followed(store, TRACKERS) == []
    assert results(RUN) == plain
    for label in SAES:
        expected = in_curves(RUN, label)
        assert steps(in_tensorboard(RUN, label)) == steps(expected)
        assert in_mlflow(RUN, label) == as_mlflow(expected)
        assert in_wandb(RUN, label) == expected
    if dies == "tensorboard":
        twice = [
            label for label in SAES if steps(in_tensorboard(RUN, label, purged=False)) != steps(in_curves(RUN, label))
        ]
        assert twice, "control: lines were sent twice"
        return
    monkeypatch.chdir("forgetful")
    monkeypatch.setattr(to_mlflow.ToMLflow, "_points", lambda self, run: {})
    assert train_followed(store, ["mlflow"]) == []
    assert any(in_mlflow(RUN, label) != as_mlflow(in_curves(RUN, label)) for label in SAES), "control: not asking"


class Broken:
    """A tracker that raises at every call, and whose library even warns."""

    keeps_at_once = True
    calls = 0

    def __init__(self, folder: Path, project: str) -> None:
        pass

    def send(self, *news: Any) -> None:
        type(self).calls += 1
        raise RuntimeError("no network\nand more")

    def close(self) -> None:
        raise RuntimeError("not even that")


@pytest.mark.parametrize("broken", TRACKERS)
def test_a_tracker_that_raises_changes_nothing_and_is_told_once(
    store: Path, plain: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str, caplog: Any
) -> None:
    """The one that works is a stand-in, which is sent everything."""
    monkeypatch.chdir(tmp_path)
    (works,) = (name for name in TRACKERS[:2] if name != broken) if broken != "mlflow" else ["wandb"]
    monkeypatch.setitem(tracking.TRACKERS, broken, type("Broken", (Broken,), {}))
    monkeypatch.setitem(tracking.TRACKERS, works, Counting)
    Counting.lines = 0
    config = config_of(store, [broken, works])
    config = config.model_copy(update={"tracking": config.tracking.model_copy(update={"every_seconds": 0.001})})
    with following(RUN, config.tracking) as follower:
        train(config, show_progress=False)
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert (
        warned
        == follower.problems
        == [f"{broken}: left out from here on: no network and more; `strata track` sends what is missing"]
    )
    assert results(RUN) == plain
    assert Counting.lines == sum(len(in_curves(RUN, label)["loss"]) for label in SAES)
    assert not (RUN.tracking / f"{broken}.json").exists()


class Counting:
    """Counts the lines that it is sent."""

    keeps_at_once = True
    lines = 0

    def __init__(self, folder: Path, project: str) -> None:
        pass

    def send(self, entry: Any, news: Any, since: int | None) -> None:
        type(self).lines += len(news.lines)

    def close(self) -> None:
        pass


def test_a_tracker_that_never_answers_does_not_stop_training(
    store: Path, plain: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, asked = threading.Event(), threading.Event()

    class Silent(Counting):
        def send(self, *news: Any) -> None:
            asked.set()
            answer.wait()

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(tracking.TRACKERS, "wandb", Silent)
    config = config_of(store, ["wandb"])
    settings = config.tracking.model_copy(update={"every_seconds": 0.001})
    with following(RUN, settings):
        train(config, show_progress=False)
        assert asked.wait()
        assert results(RUN) == plain
        answer.set()


def test_a_tracker_that_is_not_installed_is_told_before_training(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(follow, "find_spec", lambda name: None)
    Path("run.yaml").write_text(dump(config_of(store, ["mlflow"])))
    for command in ("train", "run", "track"):
        done = CliRunner().invoke(app, ["--quiet", command, "run.yaml"])
        assert done.exit_code == 2
        assert "tracking.to: mlflow is not installed: pip install 'strata-sae[mlflow]'" in done.output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.yaml"]


def test_track_says_what_failed_and_needs_a_tracker(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(dump(config_of(store, [])))
    train(config_of(store, []), show_progress=False)
    strata = CliRunner()
    assert strata.invoke(app, ["track", "run.yaml"]).exit_code == 2
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Counting)
    to = ["--set", "tracking.to=[mlflow]"]
    Counting.lines = 0
    assert strata.invoke(app, ["--quiet", "track", "runs/run", *to]).exit_code == 0
    assert Counting.lines == sum(len(in_curves(RUN, label)["loss"]) for label in SAES)
    (RUN.tracking / "mlflow.json").write_text("{}")
    done = strata.invoke(app, ["--quiet", "track", "runs/run", *to])
    assert (done.exit_code, "mlflow.json: entries: is missing; delete it" in done.output) == (1, True), done.output
    assert done.output.splitlines()[1:] == ["runs/run: not everything was sent, for the reasons above"]
    held = claim_in(RUN, TRACKING)
    assert held is not None
    with held:
        done = strata.invoke(app, ["--quiet", "track", "run.yaml", *to])
    assert (done.exit_code, "another process is writing" in done.output) == (1, True), done.output


def test_curves_that_were_cut_back_and_written_anew_are_read_anew(tmp_path: Path) -> None:
    """On a device that does not repeat its bits lines are of another length then."""
    path = tmp_path / "curves.jsonl"
    line = CurveLine(
        step=1, rows=1, loss=1.0, l0=1.0, batch_r2=0.0, dead_latents=0, learning_rate=1.0, threshold=None,
        gradient_norm=1.0, similarity=None,
    )  # fmt: skip
    first, second, other = (
        line.model_copy(update={"step": step, "loss": loss}).model_dump_json() + "\n"
        for step, loss in ((1, 0.5), (2, 0.25), (2, 0.123456))
    )
    tail = Tail(path)
    assert tail.new_lines() == []
    path.write_text(first + second + second[:20])
    assert [found.step for found in tail.new_lines()] == [1, 2]
    assert tail.new_lines() == []
    path.write_text(first + other + other.replace('"step":2', '"step":3'))
    assert [found.step for found in tail.new_lines()] == [1, 2, 3]
    path.write_text(first + "no line\n")
    with pytest.raises(CheckpointError, match=r"curves\.jsonl:2"):
        tail.new_lines()


class Listener:
    """Counts the connections that are made to a port of this machine, and answers none."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.called = threading.Event()
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._server.accept()[0].close()
                self.called.set()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Where every connection goes: as the proxy of all protocols, and as the server of wandb."""
    found = Listener()
    yield found
    found.close()


def test_no_connection_is_opened_unless_the_environment_says_so(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    """wandb's own process is caught, too."""
    monkeypatch.chdir(tmp_path)
    train(config_of(store, []), show_progress=False)
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy"), listener.url)
    variables = proxies | {"WANDB_BASE_URL": listener.url, "WANDB_API_KEY": "5ec2e7" * 6 + "cafe", "NO_PROXY": ""}
    track = [str(ROOT / "run_pipeline.py"), "track", "runs/run", "--set"]
    with process(*track, f"tracking.to=[{','.join(TRACKERS)}]", **variables) as quiet:
        said, _ = quiet.communicate()
    assert quiet.returncode == 0, said
    assert in_wandb(RUN, SAES[0]) == in_curves(RUN, SAES[0])
    assert not listener.called.is_set()
    shutil.rmtree(RUN.tracking)
    with process(*track, "tracking.to=[wandb]", WANDB_MODE="online", **variables) as loud:
        assert listener.called.wait(), "control: the listener hears what is opened"
        loud.kill()
        loud.communicate()


class Clock:
    """In the place of the module `time`; whoever sleeps moves it on."""

    def __init__(self, now: float) -> None:
        self.now = now

    def time(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.mark.parametrize(
    ("now", "then"), [(100.0, 101.0), (100.75, 101.0), (101.0, 101.0), (250.5, 250.5), (50.0, 50.0)]
)
def test_what_is_named_by_the_second_is_written_in_a_second_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, now: float, then: float
) -> None:
    """Else TensorBoard reads the file of a resumed process before that of the killed one, and drops what it had.

    A clock that was put back is not waited for.
    """
    monkeypatch.setattr(tracker, "time", clock := Clock(now))
    wait_for_a_later_second([])
    assert clock.now == now
    for name, written in (("older", 7.0), ("old", 100.25)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (written, written))
    wait_for_a_later_second(tmp_path.iterdir())
    assert clock.now == then


def test_of_two_that_train_one_run_one_sends_and_the_other_one_goes_on(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the first sends, the second keeps quiet; then it sends what is new, and nothing twice."""
    monkeypatch.chdir(tmp_path)
    train(config_of(store, []), show_progress=False)
    monkeypatch.setitem(tracking.TRACKERS, "mlflow", Counting)
    Counting.lines = 0
    settings = config_of(store, ["mlflow"]).tracking
    first, second = (follow.Follower(RUN, settings) for _ in range(2))
    n_lines = sum(len(in_curves(RUN, label)["loss"]) for label in SAES)
    first.send_curves()
    second.send_curves()
    assert (Counting.lines, second.problems) == (n_lines, [])
    first.end()
    second.send_curves()
    second.end()
    assert (Counting.lines, first.problems, second.problems) == (n_lines, [], [])
    assert not RUN.claims.exists()
