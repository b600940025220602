"""A process that trains in the working folder beside others, and stands still at a counted update until it is told.

It tells what it trains before each pass, when it stands still, when it waits for others, and what it failed of.
"""

import fcntl
import multiprocessing
import os
import signal
import sys
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import Any

import torch

from strata_sae.pipeline import stopping
from strata_sae.pipeline.commands import matching
from strata_sae.pipeline.commands.matching import train_matched
from strata_sae.pipeline.config import RunConfig
from strata_sae.pipeline.config.run import TrainConfig
from strata_sae.pipeline.errors import CheckpointError, ConfigError, StoppedError
from strata_sae.pipeline.runs import claims
from strata_sae.pipeline.runs.claims import Hold
from strata_sae.pipeline.trainer import lots, train
from strata_sae.pipeline.trainer.trainee import Trainee
from strata_sae.stores import StoreError
from strata_sae.stores.files import beats

CONTEXT = multiprocessing.get_context("forkserver")  # a server that has imported torch once; no thread is forked
CONTEXT.set_forkserver_preload([__name__])
STANDS, WAITS, TRAINS, FAILS = "stands", "waits", "trains", "fails"


@dataclass
class How:
    """What this process does besides training."""

    stands_at: int = 0
    """Number of the update, from 1, counted over all SAEs, before which it stands still; 0: none."""
    dies_at: int = 0
    """The same, and it is killed there."""
    is_asked_at: int = 0
    """The same, and it gets SIGTERM there."""
    has_locks: bool = True
    """Whether the file system has locks."""
    still_seconds: float = beats.STILL_SECONDS
    has_claims: bool = True
    """Whether claims are looked at: false as a control."""


class Trainers:
    """Starts these processes in the working folder."""

    def __init__(self, config: dict[str, Any]) -> None:
        self._config = config

    def start(self, share: str = "", run: str = "r1", **how: Any) -> "Started":
        """One more. share, run: as STRATA_SHARE and STRATA_ENGINE_RUN have them."""
        mine, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_train, args=(theirs, self._config, How(**how), share, run), daemon=True)
        process.start()
        theirs.close()
        return Started(process, mine)


class Started:
    """A process that was started."""

    def __init__(self, process: ForkServerProcess, link: Connection) -> None:
        self._process, self._link = process, link
        self.trained: list[list[str]] = []
        """What each of its passes trained, as far as that was read."""

    def __enter__(self) -> "Started":
        return self

    def __exit__(self, *exception: Any) -> None:
        self.kill()

    def read_until(self, what: str) -> "Started":
        """Read what it tells up to that."""
        while (told := self._read()) is not None:
            if told[0] == what:
                return self
        raise AssertionError(f"it ended before it {what}")

    def go_on(self) -> None:
        """Let it go on from where it stands."""
        self._link.send("go on")

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        self._process.kill()
        self._process.join()

    def end(self) -> tuple[int, str]:
        """Its exit code when it has ended, and the error that it ended with."""
        said = ""
        while (told := self._read()) is not None:
            said = told[1] if told[0] == FAILS else said
        self._process.join()
        assert self._process.exitcode is not None
        return self._process.exitcode, said

    def _read(self) -> tuple[str, ...] | None:
        try:
            told: tuple[str, ...] = self._link.recv()
        except (EOFError, ConnectionResetError):
            return None
        if told[0] == TRAINS:
            self.trained.append([*told[1:]])
        return told


def _count_updates(how: How, link: Connection) -> None:
    real, made = Trainee.update, 0

    def update(self: Trainee, *rows: torch.Tensor | None, monitored: bool) -> Any:
        nonlocal made
        made += 1
        if made == how.stands_at:
            link.send((STANDS,))
            link.recv()
        if made == how.dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if made == how.is_asked_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *rows, monitored=monitored)

    Trainee.update = update  # type: ignore[method-assign]


def _tell_passes_and_waits(link: Connection) -> None:
    real_pass, real_pause = train.run_pass, claims.pause

    def run_pass(pass_: Any, *arguments: Any, **named: Any) -> dict[str, float]:
        link.send((TRAINS, *(job.name for job in pass_.jobs)))
        return real_pass(pass_, *arguments, **named)

    def pause() -> None:
        link.send((WAITS,))
        real_pause()

    train.run_pass, claims.pause, matching.pause = run_pass, pause, pause


def _no_locks(*arguments: Any) -> None:
    raise OSError(38, "Function not implemented")


class _Granted(Hold):
    """What a process holds that has asked nobody."""

    def __init__(self) -> None:
        self.name = "everything"

    def is_lost(self) -> bool:
        return False

    def release(self) -> None:
        pass


def _train(link: Connection, config: dict[str, Any], does: How, share: str, run: str) -> None:
    """What the process runs."""
    torch.set_num_threads(1)
    if share:
        os.environ |= {"STRATA_SHARE": share, "STRATA_ENGINE_RUN": run}
    if not does.has_locks:
        fcntl.flock = _no_locks
    if not does.has_claims:
        lots.claim_in = lambda *arguments, **named: _Granted()
    beats.STILL_SECONDS = does.still_seconds
    _count_updates(does, link)
    _tell_passes_and_waits(link)
    stopping.listen()
    try:
        assert train_matched(TrainConfig.of(RunConfig.model_validate(config), "config"), show_progress=False) == []
    except StoppedError:
        sys.exit(143)
    except (ConfigError, CheckpointError, StoreError) as error:
        link.send((FAILS, str(error)))
        sys.exit(1)
