"""What a worker does in stage 1: it fills units that no other fills, until none is missing; one finishes the store."""

import logging
from functools import partial
from pathlib import Path

from strata_sae.pipeline import stopping
from strata_sae.pipeline.engines import Share
from strata_sae.pipeline.errors import ConfigError, StoppedError
from strata_sae.pipeline.extractor.unit_filler import NotTried, UnitFiller, why_failed
from strata_sae.pipeline.language_model.inputs import Recorded
from strata_sae.pipeline.language_model.loading import load
from strata_sae.pipeline.language_model.probe import check_isolation
from strata_sae.pipeline.once import pause
from strata_sae.pipeline.progress import Progress
from strata_sae.pipeline.settings import ModelSettings
from strata_sae.stores import Plan, StoreError, TakenUnit, UnitQueue, finish_store, recover, sweep, unit_bytes
from strata_sae.stores.files.filesystem import FileSystem, missing_space

log = logging.getLogger(__name__)

_MOST_UNITS, _MOST_FAILURES = 3, 3
"""Units that fail, one after the other, before a worker ends, because what fails is not the units; and failures of any.
Of one unit alone so many are the queue's to stop, which names it, unless they cannot be counted: on a full disk."""


def missing_units(path: Path, plan: Plan) -> list[int]:
    """The units that are not there, after everything that dead processes left has been put right.

    Raises: ConfigError where the disk has no room for them; StoreError for a damaged store.
    """
    missing = recover(FileSystem(), path, plan)
    if len(missing) < plan.n_units:
        log.info("%s: %d of %d units are there; going on", path, plan.n_units - len(missing), plan.n_units)
    if problem := missing_space(path, sum(unit_bytes(plan, unit) for unit in missing)):
        raise ConfigError(
            f"store.path: {path} {problem}; make room, then run the same command again: what is there is kept"
        )
    return missing


def fill_and_finish(settings: ModelSettings, path: Path, plan: Plan, share: Share, *, show_progress: bool) -> None:
    """Run the model over units that no other process fills, until none is missing, and finish the store.

    Raises: StoreError naming a unit that failed three times, when all others are there; what the last unit raised,
        where three fail one after the other; StoppedError between two batches, with the unit given back.
    """
    files = FileSystem()
    if missing := sweep(files, path, plan):
        _fill(settings, files, path, plan, share, len(missing), show_progress)
    store_id = finish_store(files, path, plan, wait=pause)
    log.info("%s: finished, %s rows, store %s", path, f"{plan.n_rows:,}", store_id[:12])


def _fill(
    settings: ModelSettings,
    files: FileSystem,
    path: Path,
    plan: Plan,
    share: Share,
    n_missing: int,
    show_progress: bool,
) -> None:
    rows_missing = min(n_missing * plan.rows_per_unit, plan.n_rows)
    capture = load(settings, list(plan.sites))
    if Recorded.of(plan).corpus.isolate_documents:
        check_isolation(capture)
    units = UnitQueue(files, path, plan, share=(share.index, share.of), run=share.run, wait=pause)
    results = _Results(path)
    with (
        stopping.between_steps(),
        Progress("extract", plan.n_rows, "token", start=plan.n_rows - rows_missing, shown=show_progress) as bar,
        UnitFiller(files, path, plan, capture, bar.advance) as filler,
    ):
        while (unit := units.take()) is not None:
            filler.fill(unit.number, partial(results.ended, unit))
            results.check()


class _Results:
    """What becomes of the units that this process takes: its writer ends one while the model runs over another."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._in_a_row: list[tuple[int, BaseException]] = []

    def ended(self, unit: TakenUnit, error: BaseException | None) -> None:
        """Tell the queue. Raises: an error that is no failure of a unit, with the unit given back."""
        if error is None:
            self._in_a_row = []
            unit.done()
        elif (reason := why_failed(error)) is not None:
            log.warning("%s: unit %d: %s", self._store, unit.number, reason)
            self._in_a_row = [*self._in_a_row, (unit.number, error)]
            unit.failed(reason)
        else:
            unit.give_back()
            if not isinstance(error, StoppedError | NotTried):
                raise error

    def check(self) -> None:
        """Raises: the last error, after too many without a unit that was filled between them."""
        failures = self._in_a_row
        if len({unit for unit, _ in failures}) >= _MOST_UNITS or len(failures) > _MOST_FAILURES:
            last = failures[-1][1]
            raise last if isinstance(last, OSError | StoreError) else ConfigError(why_failed(last)) from last
