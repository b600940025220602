"""The engine of a Ray cluster: every worker is a task of Ray, which has its place and its device from it.

The cluster is an existing one, and all of its nodes see the folders of the command. A task works until nothing is left
to do, so that Ray schedules once for each worker and never for each item. Tasks that die are submitted again here, not
by Ray: see docs/decisions/0035.
"""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from strata_sae.pipeline import stopping
from strata_sae.pipeline.engines import Share, Work, new_run, ray_worker
from strata_sae.pipeline.engines.coordinator import only_engine
from strata_sae.pipeline.engines.ray_connection import check_installed, connected
from strata_sae.pipeline.engines.ray_worker import Ended, Order, Started
from strata_sae.pipeline.engines.restarts import SAVE_SECONDS, Restarts
from strata_sae.pipeline.errors import ConfigError, first_line

log = logging.getLogger(__name__)

_WATCH_SECONDS = 0.5
"""Between two calls of `watch`, unless a worker ends."""
_ROOM_SECONDS = 600.0
"""How long no node may have room for any worker, when a run has begun: nodes come back."""


class Resources(NamedTuple):
    """What a worker has of its node."""

    cpus: int
    gpus: int


class RayCluster:
    """`n_workers` tasks on the nodes of a cluster, spread over them."""

    in_process = False

    def __init__(self, address: str, n_workers: int, of_each: Resources, at: Path) -> None:
        """Raises: ConfigError where Ray is not installed.

        address: of the head, as host:port; `auto`: the cluster that this machine belongs to.
        at: a name that one engine holds at a time: that of the store or the run.
        """
        check_installed()
        self.n_workers = n_workers
        self._address, self._of_each, self._at = address, of_each, at

    def run(self, work: Work, watch: Callable[[], int]) -> list[str]:
        """Call `work` in every worker; see `Engine.run`. No task outlives this process."""
        share = Share(of=self.n_workers, run=new_run())
        with only_engine(self._at, share.run) as proofs, connected(self._address) as ray:
            share = replace(share, here=-(-self.n_workers // _large_nodes(ray, self._of_each)))
            log.info("%d workers on the Ray cluster at %s", self.n_workers, ray.get_runtime_context().gcs_address)
            order = _order(share.run, proofs, self._of_each)
            submit = _submitter(ray, self._of_each)
            tasks = []
            for index in range(self.n_workers):
                pickled = ray.cloudpickle.dumps((work, replace(share, index=index)))
                tasks.append(_Task(ray, index, partial(submit, order._replace(work=pickled))))
            with stopping.between_steps():
                try:
                    return _run_all(ray, tasks, self._of_each, watch)
                finally:
                    _end(ray, tasks)


class _Task:
    """One of the shares, and the task of Ray that works on it now."""

    def __init__(self, ray: ModuleType, index: int, submit: Callable[[], Any]) -> None:
        self._ray, self._submit = ray, submit
        self.index, self._name = index, f"worker {index + 1}"
        self.start()

    def start(self) -> None:
        """Submit a task."""
        self._answers = self._submit()
        self.ended = self._answers.completed()
        """A reference of Ray, ready when the task has ended."""
        self._started: Started | None = None
        self._last: Ended | None = None

    def cancel(self, *, force: bool) -> None:
        """Ask the task to end (Ctrl-C, in its process), or kill it."""
        self._ray.cancel(self._answers, force=force)

    def has_started(self) -> bool:
        """Whether a process works on it by now, or has worked."""
        if self._started is None and self._last is None and self._answers.next_ready():
            self._take(next(self._answers))
        return self._started is not None

    def has_ended(self) -> bool:
        """Whether it was seen that it has ended."""
        return self._last is not None

    def outcome(self) -> Ended:
        """How it ended; to be called when it has."""
        for answer in (*self._answers, self.ended):
            self._take(answer)
        self._last = self._last or Ended("ended without an answer", died=True)
        return self._last

    def name(self) -> str:
        """How lines name it."""
        return f"{self._name} on {self._started.node}" if self._started else self._name

    def _take(self, answer: Any) -> None:
        try:
            said = self._ray.get(answer)
        except self._ray.exceptions.RayError as error:
            self._last = _failed(self._ray, error)
            return
        if isinstance(said, Started):
            self._started = said
            log.info("%s runs", self.name())
        elif isinstance(said, Ended):
            self._last = said


def _failed(ray: ModuleType, error: Exception) -> Ended:
    """What Ray says of a task that gave no last answer."""
    known = {
        "WorkerCrashedError": "its process was killed, or crashed",
        "NodeDiedError": "its node was removed, or died",
        "OutOfMemoryError": "Ray killed it, because its node ran out of memory",
    }
    if isinstance(error, ray.exceptions.RayTaskError):
        cause = getattr(error, "cause", error)
        return Ended(f"{type(cause).__name__}: {first_line(cause)} (the log of the worker: ray logs)")
    return Ended(known.get(type(error).__name__) or f"{type(error).__name__}: {first_line(error)}", died=True)


def _order(run: str, proofs: Sequence[Path], of_each: Resources) -> Order:
    """What all workers are told, without their work."""
    return Order(
        work=b"",
        folder=str(Path.cwd()),
        proofs=[str(proof) for proof in proofs],
        run=run,
        versions=ray_worker.versions(),
        environment=ray_worker.carried_environment(),
        n_threads=of_each.cpus,
        n_gpus=of_each.gpus,
        log_level=logging.getLogger("strata_sae").getEffectiveLevel(),
    )


def _submitter(ray: ModuleType, of_each: Resources) -> Callable[[Order], Any]:
    """Submits a task, in a process of its own. Returns: the generator of its answers."""
    ray.cloudpickle.register_pickle_by_value(ray_worker)  # a node of another version has to be able to say so
    remote = ray.remote(
        num_cpus=of_each.cpus,
        num_gpus=of_each.gpus,
        num_returns="streaming",
        scheduling_strategy="SPREAD",
        max_retries=0,
        max_calls=1,
    )(ray_worker.serve)
    return remote.remote


class Node(NamedTuple):
    """A living node of a cluster, with what it has when it does nothing else."""

    name: str
    cpus: int
    gpus: int

    def holds(self, of_each: Resources) -> bool:
        """Whether a worker fits on it."""
        return self.cpus >= of_each.cpus and self.gpus >= of_each.gpus


def _alive(ray: ModuleType) -> list[Node]:
    living = [(node["NodeName"], node["Resources"]) for node in ray.nodes() if node["Alive"]]
    return [Node(name, int(has.get("CPU", 0)), int(has.get("GPU", 0))) for name, has in living]


def _large_nodes(ray: ModuleType, of_each: Resources) -> int:
    """How many nodes are large enough for a worker (count). Raises: ConfigError if there are none."""
    nodes = _alive(ray)
    if n_large := sum(node.holds(of_each) for node in nodes):
        return n_large
    has = (f"{node.name}: {node.cpus} CPUs, {node.gpus} GPUs" for node in nodes[:4])
    raise ConfigError(
        f"engine: no node of the Ray cluster is large enough for a worker ({of_each.cpus} CPUs, {of_each.gpus} GPUs); "
        f"there are {len(nodes)} ({'; '.join(has)}); lower engine.cpus or engine.gpus, or add a node"
    )


def _run_all(ray: ModuleType, tasks: Sequence[_Task], of_each: Resources, watch: Callable[[], int]) -> list[str]:
    """Return when all tasks have ended, those that died submitted again. Returns: reasons, as `Engine.run`."""
    running = {task.ended: task for task in tasks}
    restarts, room_seen = Restarts(), time.monotonic()
    while running and not stopping.asked():
        ready, _ = ray.wait(list(running), num_returns=1, timeout=_WATCH_SECONDS, fetch_local=False)
        done = watch()
        for task in [running.pop(reference) for reference in ready]:
            why, died = task.outcome()
            if restarts.again(task.index, task.name(), why, died=died, done=done):
                task.start()
                running[task.ended] = task
        waiting = [task for task in running.values() if not task.has_started()]
        if restarts.nothing_is_left:
            for task in waiting:
                del running[task.ended]
        elif len(waiting) < len(running) or any(node.holds(of_each) for node in _alive(ray)):
            room_seen = time.monotonic()
        elif time.monotonic() - room_seen > _ROOM_SECONDS:
            return [
                *restarts.reasons,
                *(f"{task.name()}: no node was large enough for it for long" for task in waiting),
            ]
    return restarts.reasons


def _end(ray: ModuleType, tasks: Sequence[_Task]) -> None:
    """Have all tasks end: where this process was asked to end, those that run may save before."""
    running = [task for task in tasks if not task.has_ended()]
    if stopping.asked():
        for task in running:
            task.cancel(force=False)
        if references := [task.ended for task in running]:
            ray.wait(references, num_returns=len(references), timeout=SAVE_SECONDS, fetch_local=False)
    for task in running:
        task.cancel(force=True)
