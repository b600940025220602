"""An engine has its workers do what there is to do, and again: real processes, which die at counted moments."""

import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from strata_sae.pipeline.config.engine import LocalSettings, RaySettings, SlurmSettings
from strata_sae.pipeline.engines import RUN, SHARE, Engine, Share
from strata_sae.pipeline.engines.coordinator import only_engine
from strata_sae.pipeline.engines.devices import visible_gpus
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.engines.restarts import MOST_DEATHS, Restarts, reason_of
from strata_sae.pipeline.errors import CheckpointError, ConfigError
from strata_sae.stores import StoreError
from strata_sae.stores.files.claims import is_claimed, lock_of
from support.cheap_workers import die, fail, note_gpu, note_process
from support.waiting import wait_until

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PROGRAM = TESTS / "support/cheap_workers.py"
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), str(ROOT)])}
HOLDER = """\
import sys
from pathlib import Path
from strata_sae.pipeline.engines.coordinator import only_engine
with only_engine(Path(sys.argv[1]), "other"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_every_share_is_worked_on_by_a_process_of_its_own(tmp_path: Path) -> None:
    engine: Engine = Local(3)
    looks: list[int] = []
    assert engine.run(partial(note_process, tmp_path), lambda: looks.append(0) or 0) == []
    shares = [file.name.split("-") for file in sorted(tmp_path.iterdir())]
    assert [(index, of) for index, _, of, _ in shares] == [("0", "3"), ("1", "3"), ("2", "3")]
    assert len({run for *_, run in shares}) == 1, "one run"
    processes = {file.read_text().split()[0] for file in tmp_path.iterdir()}
    assert len(processes) == 3
    assert str(os.getpid()) not in processes
    assert {file.read_text().split()[1] for file in tmp_path.iterdir()} == {"3"}
    assert looks


def test_one_worker_is_this_process_and_has_the_share_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARE, "3/64")
    monkeypatch.setenv(RUN, "job-7")
    shares: list[Share] = []
    assert Local(1).in_process
    assert not Local(2).in_process
    assert Local(1).run(shares.append, lambda: pytest.fail("nobody watches")) == []
    assert shares == [Share(3, 64, "job-7")]
    with pytest.raises(ZeroDivisionError):
        Local(1).run(lambda share: print(1 // 0), lambda: 0)


@pytest.mark.parametrize("name", ["j\u00f6b", "\u0663", "a b", "a/b", "x" * 65, "-"])
def test_a_run_that_a_claim_cannot_name_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SHARE, "0/2")
    monkeypatch.setenv(RUN, name)
    with pytest.raises(ConfigError, match=f"^{RUN}: .* is no name; set it to the job's number"):
        Local(1).run(lambda share: pytest.fail("it works"), lambda: 0)


def test_a_worker_that_dies_is_started_again_with_its_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert Local(2).run(partial(die, tmp_path, {0: 2, 1: 2}), lambda: 0) == []
    assert {file.name for file in tmp_path.glob("died-*")} >= {"died-0-0", "died-0-1"} or (
        {file.name for file in tmp_path.glob("died-*")} >= {"died-1-0", "died-1-1"}
    )
    assert list(tmp_path.glob("ended-*"))
    assert "killed by SIGKILL; it is started again" in caplog.text


def test_one_that_always_dies_is_given_up_with_a_reason(tmp_path: Path) -> None:
    reasons = Local(2).run(partial(die, tmp_path, {0: 99, 1: 99}), lambda: 0)
    assert sorted(reasons) == [
        f"worker {number}: killed by SIGKILL; it died 3 times while nothing was done" for number in (1, 2)
    ]
    assert len(list(tmp_path.glob("died-*"))) == 2 * MOST_DEATHS


def test_deaths_count_only_while_nothing_is_done() -> None:
    restarts = Restarts()
    for done in range(10):  # something is done between any two deaths
        assert restarts.again(0, "worker 1", "killed", died=True, done=done)
    assert restarts.again(0, "worker 1", "killed", died=True, done=9)
    assert restarts.again(1, "worker 2", "killed", died=True, done=9), "each worker has its own count"
    assert not restarts.again(0, "worker 1", "killed", died=True, done=9)
    assert restarts.reasons == ["worker 1: killed; it died 3 times while nothing was done"]


def test_when_one_has_found_nothing_left_the_dead_stay_dead() -> None:
    restarts = Restarts()
    assert not restarts.again(1, "worker 2", None, died=False, done=5)
    assert not restarts.again(0, "worker 1", "killed", died=True, done=5)
    assert restarts.reasons == []


def test_an_error_is_a_line_and_a_worker_that_has_one_is_not_started_again(tmp_path: Path) -> None:
    errors = [ConfigError("model.path: there is none"), torch.OutOfMemoryError("CUDA out of memory. Tried\nGPU 0")]
    assert sorted(Local(2).run(partial(fail, errors), lambda: 0)) == [
        "worker 1: model.path: there is none",
        "worker 2: out of memory (CUDA out of memory. Tried); lower training.batch_size, training.window_bytes, d_sae "
        "or model.batch_tokens, and run the same command again: finished parts are kept",
    ]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (StoreError("unit 3 failed"), "unit 3 failed"),
        (CheckpointError("damaged"), "damaged"),
        (ConfigError("two\nlines"), "two lines"),
        (PermissionError(13, "no", "/x"), "/x: permission denied; change it or choose another folder (store.path or "),
        (RuntimeError("CUDA error: out of memory\nCompile with"), "out of memory (CUDA error: out of memory); lower "),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), "out of memory (CUDA error: CUBLAS"),
        (ModuleNotFoundError("no", name="transformers"), "transformers is not installed: pip install 'strata-sae[extr"),
        (KeyError("oops"), "KeyError: 'oops' (a bug; the log of the worker has its traceback)"),
    ],
)
def test_reasons(error: Exception, line: str, capfd: pytest.CaptureFixture[str]) -> None:
    reason = reason_of(error)
    assert reason.startswith(line)
    assert "\n" not in reason
    assert ("KeyError" in capfd.readouterr().err) == isinstance(error, KeyError), "only a bug has a traceback"


def working(folder: Path) -> list[int]:
    return [int(file.name.rpartition("-")[2]) for file in folder.glob("working-*")]


def start(folder: Path, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, str(PROGRAM), str(folder), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)


def test_a_request_to_end_reaches_the_workers_who_save_before_they_end(tmp_path: Path) -> None:
    with start(tmp_path, "saving") as running:
        wait_until(lambda: len(working(tmp_path)) == 2, running)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate()
    assert running.returncode == 143, said
    assert {file.name for file in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}


def test_a_worker_alone_that_is_asked_to_end_is_started_again(tmp_path: Path) -> None:
    with start(tmp_path, "saving") as running:
        wait_until(lambda: len(working(tmp_path)) == 2, running)
        os.kill(working(tmp_path)[0], signal.SIGTERM)
        wait_until(lambda: len(working(tmp_path)) == 3, running)
        assert len(list(tmp_path.glob("saved-*"))) == 1
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate()
    assert running.returncode == 143
    assert "was asked to end (SIGTERM); it is started again" in said


@pytest.mark.parametrize(
    ("listed", "n_gpus", "device", "expected"),
    [
        (None, 3, "auto", ["0", "1", "2"]),
        ("5,GPU-7f, 2", 3, "cuda", ["5", "GPU-7f", "2"]),
        (None, 2, "auto", ["0", "1", "0"]),
        ("4", 1, "cuda", ["4", "4", "4"]),
        ("1,0,9", 2, "auto", ["1", "0", "1"]),  # CUDA ignores what follows a number that is no GPU's
        (None, 4, "cuda:1", [None, None, None]),
        (None, 4, "cpu", [None, None, None]),
        ("", 0, "auto", [None, None, None]),
    ],
)
def test_gpus_are_dealt_out_in_turn(
    listed: str | None,
    n_gpus: int,
    device: str,
    expected: list[str | None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: n_gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if listed is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
    assert visible_gpus(3, device) == expected
    lines = {"cuda:1": "3 workers share cuda:1, which the config names", "cpu": None}
    if said := lines.get(device, f"3 workers share {n_gpus} GPUs" if 0 < n_gpus < 3 else None):
        assert said in caplog.text
    else:
        assert not caplog.text


def test_a_worker_has_its_gpu_before_cuda_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6,7")
    assert Local(2, "cuda").run(partial(note_gpu, tmp_path), lambda: 0) == []
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"0": "6 False", "1": "7 False"}
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "6,7"


def test_a_second_engine_on_the_same_thing_is_refused_and_a_dead_one_taken_over(tmp_path: Path) -> None:
    at = tmp_path / "claims" / "engine"
    command = [sys.executable, "-c", HOLDER, str(at)]
    first = subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=tmp_path)
    with first:
        assert first.stdout is not None
        assert first.stdout.readline() == b"held\n"
        with pytest.raises(ConfigError, match=rf"engine.lock: another .*\(process {first.pid} on .*\); wait until"):
            only_engine(at, "mine").__enter__()
        first.kill()
    assert lock_of(at).is_file()
    with only_engine(at, "mine") as proofs:
        assert is_claimed(at)
        assert proofs[0] == lock_of(at)
        assert all("mine" in proof.read_text() for proof in proofs)
        assert proofs[1:] == [Path.cwd() / ".strata-engine-mine"], "this folder does not hold the claim"
    assert not any(proof.exists() for proof in proofs)
    assert not list(at.parent.iterdir())


def test_in_the_folder_of_the_command_one_proof_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/store").mkdir(parents=True)
    with only_engine(Path("data/.store.engine"), "mine") as proofs:
        assert proofs == [tmp_path / "data/.store.engine.lock"]
    assert (tmp_path / "data/store").is_dir()
    with only_engine(tmp_path / "was there/engine", "mine"):
        pass
    assert not (tmp_path / "was there").exists()
    (tmp_path / "was there").mkdir()
    with only_engine(tmp_path / "was there/engine", "mine"):
        pass
    assert (tmp_path / "was there").is_dir()


def test_which_engine_a_config_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strata_sae.pipeline.commands.engines import engine_of
    from strata_sae.pipeline.engines.ray_cluster import RayCluster

    monkeypatch.delenv(SHARE, raising=False)
    at = tmp_path / "engine"
    assert engine_of(LocalSettings(workers=2), at=at, device="auto").n_workers == 2
    assert engine_of(LocalSettings(workers=2), at=at, device="auto", workers=3).n_workers == 3
    with pytest.raises(ConfigError, match=r"strata slurm CONFIG \| sbatch"):
        engine_of(SlurmSettings(kind="slurm", workers=4), at=at, device="auto")
    monkeypatch.setenv(SHARE, "0/4")
    assert engine_of(SlurmSettings(kind="slurm", workers=4), at=at, device="auto").in_process
    ray = RaySettings(kind="ray", workers=4)
    with pytest.raises(ConfigError, match="--workers: is of engine: local"):
        engine_of(ray, at=at, device="auto", workers=2)
    with pytest.raises(ConfigError, match=r"engine.gpus: 0, but the device is cuda"):
        engine_of(ray, at=at, device="cuda")
    with pytest.raises(ConfigError, match="device cuda:3: with engine: ray"):
        engine_of(ray.model_copy(update={"gpus": 1}), at=at, device="cuda:3")
    engine = engine_of(ray.model_copy(update={"gpus": 1}), at=at, device="cuda")
    assert isinstance(engine, RayCluster)
    assert (engine.n_workers, engine.in_process) == (4, False)
    monkeypatch.setattr("strata_sae.pipeline.engines.ray_connection.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'strata-sae\[ray\]'"):
        engine_of(ray, at=at, device="auto")
