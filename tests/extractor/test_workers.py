"""Several processes fill one store: the same bytes, whoever dies; and none outlives the command."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import strata_sae.pipeline.extractor.extract as stage
import support.cheap_workers as cheap_workers
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract, fill
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import ActivationStore, Plan, StoreError, verify
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import TIMINGS
from support.extraction import extraction_config
from support.small_store import plan_store
from support.waiting import wait_until

SUPPORT = Path(__file__).parents[1] / "support"


def contents(store: Path) -> dict[str, str]:
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


def kill_workers(n_kills: int) -> threading.Thread:
    """Kills (-9) that many of the worker processes as they come up."""

    def kill() -> None:
        killed: set[int] = set()
        while len(killed) < n_kills:
            wait_until(multiprocessing.active_children)
            for child in multiprocessing.active_children():
                if child.pid is not None and child.pid not in killed and len(killed) < n_kills:
                    os.kill(child.pid, signal.SIGKILL)
                    killed.add(child.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


@pytest.fixture
def make_plan(tmp_path: Path) -> Plan:
    """An unfilled store of five units."""
    return plan_store(tmp_path / "store", n_rows=1200)


@pytest.fixture
def one_thread() -> None:
    torch.set_num_threads(1)  # equal bytes are promised for an equal thread count


@pytest.mark.usefixtures("one_thread")
def test_workers_leave_the_bytes_of_one_process_though_one_of_them_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    alone = extraction_config(tmp_path, store={"path": str(tmp_path / "alone"), "shard_bytes": 65536})
    together = extraction_config(tmp_path, store={"path": str(tmp_path / "together"), "shard_bytes": 65536})
    extract(alone, show_progress=False)
    killer = kill_workers(1)
    extract(together, Local(3), show_progress=False)
    killer.join()
    assert "killed by SIGKILL; it is started again" in caplog.text
    assert ActivationStore.open(together.store_path()).plan.n_units > 8
    assert contents(together.store_path()) == contents(alone.store_path())
    assert verify(together.store_path(), deep=True) == []
    extract(together, Local(3), show_progress=False)
    assert "finished before" in caplog.text


def test_a_store_that_no_worker_could_finish_is_an_error_with_their_reasons(
    make_plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "fill_share", cheap_workers.fill_one_and_fail)
    with pytest.raises(StoreError, match=r"4 of 5 units are missing: .*killed by SIGKILL; it died 3 times") as error:
        fill(ModelSettings(path="none"), tmp_path / "store", make_plan, Local(2), show_progress=False)
    assert ": the model is gone" in str(error.value)
    assert not multiprocessing.active_children()


def test_less_than_one_worker_is_refused() -> None:
    with pytest.raises(ConfigError, match="--workers: 0"):
        Local(0)


def workers_of(process: int) -> set[int]:
    """Its children that run Python code of a worker (not the tracker of resources)."""
    listed = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii").split()
    commands = {int(child): Path(f"/proc/{child}/cmdline").read_bytes() for child in listed}
    return {child for child, command in commands.items() if b"spawn_main" in command}


def alive(process: int) -> bool:
    try:
        return b"\nState:\tZ" not in Path(f"/proc/{process}/status").read_bytes()
    except FileNotFoundError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
@pytest.mark.usefixtures("make_plan")
def test_no_worker_outlives_the_command(tmp_path: Path, number: signal.Signals) -> None:
    paths = os.pathsep.join([str(SUPPORT.parent), str(SUPPORT.parents[1])])
    command = [sys.executable, str(SUPPORT / "cheap_workers.py"), str(tmp_path / "store")]
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": paths}, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(list((tmp_path / "store").glob("working-*"))) == 2, running)
        children = workers_of(running.pid)
        assert len(children) == 2
        running.send_signal(number)
        _, said = running.communicate()
        wait_until(lambda: not any(map(alive, children)))
    finally:
        running.kill()
    assert running.returncode in (-number, 130), said
