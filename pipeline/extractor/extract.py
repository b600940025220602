"""Stage 1: read the language model once, and leave a finished activation store."""

import logging
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

from strata_sae.pipeline.config.run import ExtractConfig, differences
from strata_sae.pipeline.engines import Engine, Share
from strata_sae.pipeline.engines.local import Local
from strata_sae.pipeline.extractor.estimate import ForwardRate, estimate_lines
from strata_sae.pipeline.extractor.filling import fill_and_finish, missing_units
from strata_sae.pipeline.extractor.plan import described, planned
from strata_sae.pipeline.extractor.provenance import check_inputs, compare_inputs, not_compared, recorded_model
from strata_sae.pipeline.input_files import shown
from strata_sae.pipeline.language_model.identity import software
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.reading.which_store import find_siblings, find_store
from strata_sae.pipeline.runs.record_files import changed_keys
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import MANIFEST, PLAN, STAGING, ActivationStore, Plan, StoreError, committed_units, read_plan
from strata_sae.stores.files.canonical import as_object
from strata_sae.stores.files.filesystem import FileSystem
from strata_sae.stores.files.locks import remove_dead

log = logging.getLogger(__name__)

_ONE_PROCESS = Local(n_workers=1)


def extract(config: ExtractConfig, engine: Engine = _ONE_PROCESS, *, show_progress: bool = True) -> None:
    """Plan the store if that is not done, fill the units that are missing, finish it. A finished store is left alone.

    If a finished store beside it already holds what the config asks for, nothing is done: that store is used.
    Any number of processes, on any number of machines, may run this on one store; each sees what the others committed.
    Raises: ConfigError, or StoreError if the store is damaged or the disk is too small.
    """
    reuse = reusable(config)
    for line in reuse.lines:
        log.info("%s", line)
    if reuse.stores:
        return
    path = config.store_path()
    plan = planned(config, show_progress=show_progress)
    if (path / MANIFEST).is_file():
        store_id = ActivationStore.open(path).id
        with suppress(OSError):  # no part of the store's content, and a read-only store may keep it
            remove_dead(FileSystem(), path / STAGING, "")
        log.info("%s: finished before, %s rows, store %s", path, f"{plan.n_rows:,}", store_id[:12])
    else:
        fill(config.model, path, plan, engine, show_progress=show_progress)


def describe_plan(
    config: ExtractConfig,
    *,
    show_progress: bool,
    measure: Callable[[ExtractConfig, int], ForwardRate | str] | None = None,
) -> str:
    """What `extract` would make and what it would cost, in words; writes nothing that stays.

    measure: gives the rate that the time of so many tokens is estimated from; without it no time is said.
    """
    reuse = reusable(config)
    if reuse.stores:
        return "\n".join(reuse.lines)
    plan = described(config, show_progress=show_progress)
    left = plan.tokens_left
    timed = estimate_lines(left, measure(config, left)) if measure is not None and left else []
    return "\n".join([*reuse.lines, *plan.lines, *timed])


def fill(settings: ModelSettings, path: Path, plan: Plan, engine: Engine, *, show_progress: bool) -> None:
    """Have every worker of the engine fill units until none is missing, and finish the store.

    The store itself is the queue of units: when a worker dies, another one fills its unit.
    Raises: StoreError if the store is not finished when all workers have ended, with their reasons.
    """
    missing_units(path, plan)
    if engine.in_process:
        engine.run(partial(fill_share, settings, path, show_progress), lambda: 0)
        return
    committed = _Committed(path, plan)
    with Progress("extract", plan.n_rows, "token", start=committed.n_rows(), shown=show_progress) as bar:

        def watch() -> int:
            committed.look()
            bar.advance(committed.n_rows() - bar.done)
            return len(committed.units)

        reasons = engine.run(partial(fill_share, settings, path.absolute(), False), watch)
    if not (path / MANIFEST).is_file():
        missing = plan.n_units - len(committed_units(path, plan))
        raise StoreError(
            f"{path}: all workers have ended, and {missing} of {plan.n_units} units are missing: "
            f"{'; '.join(reasons)}. Remove the cause and run the same command again: what is there is kept"
        )
    log.info("%s: finished, %s rows", path, f"{plan.n_rows:,}")


def fill_share(settings: ModelSettings, path: Path, show_progress: bool, share: Share) -> None:
    """What a worker does: fill units until none is missing. Raises: StoreError where it does not see the store."""
    if not (path / PLAN).is_file():
        raise StoreError(
            f"{path}: the store that was planned is not there on {socket.gethostname()}: every machine has to see the "
            f"same folder under this path; mount it there, or set store.path, or STRATA_DATA, to a folder all share"
        )
    fill_and_finish(settings, path, read_plan(path), share, show_progress=show_progress)


class _Committed:
    """The units that are there, for a command that looks on while others fill them."""

    SHARE = 0.02
    """Of the time, at most, goes into looking: a folder of 100,000 commits takes a tenth of a second to list."""

    def __init__(self, store: Path, plan: Plan, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._plan, self._clock = store, plan, clock
        self._next = 0.0
        self.units: set[int] = set()
        self.look()

    def look(self) -> None:
        """Look again, unless the last look was so long, and is so new, that it is too early."""
        began = self._clock()
        if began >= self._next:
            self.units = committed_units(self._store, self._plan)
            ended = self._clock()
            self._next = ended + (ended - began) / self.SHARE

    def n_rows(self) -> int:
        """Rows of the units that are there."""
        n_units, (start, stop) = self._plan.n_units, self._plan.unit_rows(self._plan.n_units - 1)
        is_short = n_units - 1 in self.units  # the last one may have fewer rows
        return len(self.units) * self._plan.rows_per_unit - is_short * (self._plan.rows_per_unit - (stop - start))


class Reuse(NamedTuple):
    """The stores that a run reads instead of extracting; none if it has to extract."""

    stores: list[Path]
    lines: list[str]
    """What a log says of this."""


def reusable(config: ExtractConfig) -> Reuse:
    """What a run need not extract.

    Another run's store is used only if text and model are now what it was made from; inputs that were deleted since
    are not compared, and a line says so. It is the store that training would find (`find_store`), or none.
    Raises: ConfigError where the run's own store was made from other inputs.
    """
    own, found = config.store_path(), find_store(config)
    if found == own:
        siblings = find_siblings(config, own) if _lacks_sites_only(own, config) else []
        if not siblings:
            return Reuse([], [])
        lines = check_inputs(own, read_plan(own), config)
        names = ", ".join(map(str, siblings))
        return Reuse([own, *siblings], [f"{names}: holds the sites that {own} lacks", *lines])
    plan = read_plan(found)
    now = compare_inputs(plan, config)
    # Other versions than those that computed the rows can change the last bits.
    recorded = recorded_model(plan).get("software")
    versions = [] if recorded is None else changed_keys(recorded, software(), "software")
    if changed := [*now.differences, *versions]:
        return Reuse(
            [], [f"{found}: was made from this config, but from other inputs: {shown(tuple(changed))}; not used"]
        )
    used = f"{found}: finished, and holds all that this run asks for; used as it is, nothing is extracted"
    return Reuse([found], [used, *not_compared(found, now)])


def _lacks_sites_only(own: Path, config: ExtractConfig) -> bool:
    if not (own / MANIFEST).is_file():
        return False
    plan = read_plan(own)
    sites = as_object(plan.config.get("store", {})).get("sites")
    return not differences(plan.config, config.extraction(sites=sites))
