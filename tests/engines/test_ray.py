"""Ray: a head and two nodes on this machine. Workers die, a node is removed; the bytes are those of one process."""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import strata_sae.pipeline.engines.ray_cluster as ray_cluster
import strata_sae.pipeline.extractor.extract as stage
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.engines import Engine, ray_worker
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.engines.ray_cluster import RayCluster, Resources
from strata_sae.pipeline.errors import ConfigError
from strata_sae.pipeline.extractor.extract import extract
from strata_sae.pipeline.trainer.train import train
from strata_sae.stores import ActivationStore, StoreError, verify
from strata_sae.stores.files.hashing import file_sha256
from strata_sae.stores.format.plan import TIMINGS
from support.cheap_workers import die, fail
from support.dying_workers import MOMENTS, REMOVED, fill_and_die, note_process
from support.extraction import extraction_config
from support.small_run import ALL, run_data, store_for_training
from support.waiting import wait_until

pytestmark = pytest.mark.engines

TESTS = Path(__file__).parents[1]
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
SWITCHES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}
ONE_CPU = Resources(1, 0)


class Cluster:
    """A head that works on nothing, and two nodes of one CPU each."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster as Nodes

        self._nodes = Nodes(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "include_dashboard": False})
        self._workers = [self._nodes.add_node(**NODE) for _ in range(2)]
        self.address: str = self._nodes.address

    def remove(self, node_id: str) -> None:
        """Take a node away as a machine that fails goes."""
        (node,) = (node for node in self._workers if node.node_id == node_id)
        self._nodes.remove_node(node, allow_graceful=False)

    def close(self) -> None:
        self._nodes.shutdown()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SWITCHES.items():
            patch.setenv(name, value)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS), str(TESTS.parent)]))
        patch.delenv("RAY_ADDRESS", raising=False)
        nodes = Cluster()
        try:
            yield nodes
        finally:
            nodes.close()


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def contents(store: Path) -> dict[str, str]:
    files = (file for file in sorted(store.rglob("*")) if file.is_file() and TIMINGS not in file.parts)
    return {str(file.relative_to(store)): file_sha256(file) for file in files}


class Watched(RayCluster):
    """An engine that calls something whenever it looks how much is done."""

    def __init__(self, look: Callable[[], None], address: str, at: Path) -> None:
        super().__init__(address, 2, ONE_CPU, at)
        self._look = look

    def run(self, work: Any, watch: Callable[[], int]) -> list[str]:
        def looking() -> int:
            self._look()
            return watch()

        return super().run(work, looking)


def test_a_worker_is_a_process_like_the_commands(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRATA_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("STRATA_SHARE", "5/9")
    logging.getLogger("strata_sae").setLevel("ERROR")
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    engine = RayCluster(cluster.address, 3, ONE_CPU, tmp_path / "engine")  # more workers than places
    assert engine.run(partial(note_process, tmp_path), lambda: 0) == []
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers
    noted = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("*.json"))]
    assert noted, "at least one has worked: after it, nothing is left"
    for note in noted:
        assert note["share"][1:] == [3, 2]
        assert note["folder"] == str(tmp_path)
        assert note["n_threads"] == 1
        assert note["environment"] == {
            "STRATA_DATA": str(tmp_path / "data"),
            "HF_HOME": str(tmp_path / "hub"),
            "STRATA_SHARE": None,
            "CUDA_VISIBLE_DEVICES": "",
        }
        assert note["level"] == logging.ERROR


def test_deaths_and_errors_end_in_a_line_each(cluster: Cluster, tmp_path: Path) -> None:
    def reasons(work: Any) -> list[str]:
        return sorted(RayCluster(cluster.address, 2, ONE_CPU, tmp_path / "engine").run(work, lambda: 0))

    for reason in (said := reasons(partial(die, tmp_path, {0: 99, 1: 99}))):
        assert "its process was killed, or crashed; it died 3 times while nothing was done" in reason
    assert len(said) == 2
    assert len(list(tmp_path.glob("died-*"))) == 6
    failed = reasons(
        partial(fail, [StoreError("unit 7 failed three times"), torch.OutOfMemoryError("CUDA out of memory")])
    )
    assert failed[0].startswith("worker 1 on ")
    assert failed[0].endswith(": unit 7 failed three times")
    assert "out of memory (CUDA out of memory); lower training.batch_size" in failed[1]


def test_nodes_that_cannot_do_it_are_refused_by_name(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reasons() -> list[str]:
        noted = partial(note_process, tmp_path)
        return RayCluster(cluster.address, 1, ONE_CPU, tmp_path / "engine").run(noted, lambda: 0)

    real = ray_worker.versions()
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "_order", partial(_of_another_torch, ray_cluster._order))
        (line,) = reasons()
    assert f": torch is {real['torch']} here, and 1.0 where the command runs; install the same version" in line
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "_order", partial(_unshared, ray_cluster._order))
        (line,) = reasons()
    assert f": does not see the folder {tmp_path} of the command: share it with all nodes under this path" in line
    assert not list(tmp_path.iterdir()), "nobody has worked"
    with pytest.raises(ConfigError, match=r"no node of the Ray cluster is large enough for a worker \(1 CPUs, 1 GPUs"):
        RayCluster(cluster.address, 1, Resources(1, 1), tmp_path / "engine").run(print, lambda: 0)
    assert reasons() == [], "the same without the obstacles"


def _of_another_torch(real: Callable[..., Any], run: str, proofs: list[Path], of_each: Resources) -> Any:
    """The command runs another version than the nodes."""
    order = real(run, proofs, of_each)
    return order._replace(versions=order.versions | {"torch": "1.0"})


def _unshared(real: Callable[..., Any], run: str, proofs: list[Path], of_each: Resources) -> Any:
    """The worker's node has other files at the same places."""
    return real("another run", proofs, of_each)


def test_a_request_to_end_lets_the_workers_save(cluster: Cluster, tmp_path: Path) -> None:
    command = [sys.executable, str(TESTS / "support/ray_program.py"), cluster.address, str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as running:
        wait_until(lambda: len(list(tmp_path.glob("working-*"))) == 2, running)
        running.send_signal(signal.SIGTERM)
        _, said = running.communicate()
    assert running.returncode == 143, said
    assert {file.name for file in tmp_path.glob("saved-*")} == {"saved-0", "saved-1"}
    assert not list(tmp_path.glob("engine*"))


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    engine = RayCluster("127.0.0.1:9", 1, ONE_CPU, tmp_path / "engine")
    with pytest.raises(ConfigError, match=r"engine.address: no Ray cluster answers at 127.0.0.1:9 \("):
        engine.run(print, lambda: 0)
    assert not list(tmp_path.iterdir())


def trained(name: str, store: Path, engine: Engine, **training: int) -> dict[str, str]:
    """Hashes of the weights of a run, by variant."""
    train(TrainConfig.model_validate(run_data(store, ALL, name, **training)), engine=engine, show_progress=False)
    found = sorted(Path("runs", name, "variants").glob("*/weights.safetensors"))
    return {file.parent.name: file_sha256(file) for file in found}


def test_variants_have_the_bits_of_one_process(cluster: Cluster, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    store = store_for_training(tmp_path / "store")
    alone = trained("alone", store, Local(1))
    engine = RayCluster(cluster.address, 2, ONE_CPU, Path("runs/together/claims/engine"))
    assert trained("together", store, engine) == alone
    assert len(alone) == len(ALL)
    assert not Path("runs/together/claims").exists()
    assert trained("other", store, Local(1), n_steps=59) != alone


def test_killed_workers_and_a_removed_node_leave_the_bytes_of_one_process(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The last one here: of the two nodes, one is left."""
    caplog.set_level("INFO")
    torch.set_num_threads(1)  # equal bytes are promised for an equal number of threads
    alone = extraction_config(tmp_path, store={"path": "alone", "shard_bytes": 49152})
    together = extraction_config(tmp_path, store={"path": "together", "shard_bytes": 49152})
    extract(alone, show_progress=False)
    marks = tmp_path / "marks"
    marks.mkdir()
    monkeypatch.setattr(stage, "fill_share", partial(fill_and_die, marks))

    def remove_the_node() -> None:
        named = marks / "node to remove"
        if named.exists():
            cluster.remove(named.read_text())
            named.unlink()

    extract(together, Watched(remove_the_node, cluster.address, tmp_path / ".together.engine"), show_progress=False)
    assert {mark.name for mark in marks.iterdir()} == {*MOMENTS, REMOVED}, "each death has happened"
    assert caplog.text.count("its process was killed, or crashed; it is started again") == len(MOMENTS)
    assert caplog.text.count("its node was removed, or died; it is started again") == 1
    assert ActivationStore.open(together.store_path()).plan.n_units > 8
    assert contents(together.store_path()) == contents(alone.store_path())
    assert verify(together.store_path(), deep=True) == []
    assert not list(tmp_path.glob(".together*")), "the engine's name is free again"
    other = extraction_config(tmp_path, store={"path": "other", "shard_bytes": 49152}, corpus={"n_tokens": 2990})
    extract(other, show_progress=False)
    assert contents(other.store_path()) != contents(alone.store_path())
