"""Processes that fill one store at the same time from a queue, without a model; some die in the middle of a unit."""

import multiprocessing
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strata_sae.stores import Plan, UnitQueue, UnitWriter, finish_store, read_plan
from strata_sae.stores.files.filesystem import FileSystem
from support.small_store import plan_store, token_map

FORK = multiprocessing.get_context("fork")
FILES = FileSystem()
SITE = "blocks.1.hook_resid_post"
ROWS_PER_UNIT, WIDTH = 4, 4


def plan_of(path: Path, n_units: int) -> Plan:
    """A store of tiny units, planned and empty."""
    plan = plan_store(
        path, n_units * ROWS_PER_UNIT, {SITE: WIDTH}, chunk_bytes=4 * WIDTH * ROWS_PER_UNIT, shard_bytes=1
    )
    assert plan.n_units == n_units
    return plan


def made_up_rows(plan: Plan) -> np.ndarray:
    """Rows [N, WIDTH] that tell where they belong."""
    return np.arange(plan.n_rows * WIDTH, dtype=np.float32).reshape(plan.n_rows, WIDTH)


def fill(path: Path, share: tuple[int, int], run: str, told: Path, dies_at: int = 0) -> None:
    """Fill units until none is missing, with a line in `told` for each, and finish the store; or die at the n-th."""
    plan = read_plan(path)
    rows, flags = made_up_rows(plan), token_map(plan.n_rows)["flags"]
    units = UnitQueue(FILES, path, plan, share=share, run=run)
    log = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    n_filled = 0
    while (unit := units.take()) is not None:
        start, stop = plan.unit_rows(unit.number)
        os.write(log, b"%d\n" % unit.number)
        writer = UnitWriter(FILES, path, plan, unit.number, flags[start:stop])
        writer.append(SITE, rows[start:stop])
        n_filled += 1
        if n_filled == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        writer.commit()
        unit.done()
    finish_store(FILES, path, plan)


def fill_at_once(path: Path, shares: Sequence[tuple[int, int]], told: Path, dies_at: Sequence[int]) -> list[int | None]:
    """A process for each share, all of which begin together. Returns: their exit codes."""
    together = FORK.Barrier(len(shares))

    def work(*arguments: Any) -> None:
        together.wait()
        fill(*arguments)
        os._exit(0)

    jobs = zip(shares, dies_at, strict=True)
    children = [FORK.Process(target=work, args=(path, share, "run", told, dies)) for share, dies in jobs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    return [child.exitcode for child in children]
